"""The work of an optimised HLO module, read from its text."""

import pytest

from mlm_jax.planning import hlo


def test_loops_are_multiplied_out():
    text = """HloModule step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  ROOT %r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
}

%condition (q: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(5)
  %q = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[2]) -> f32[8] {
  %a = f32[2]{0} parameter(0)
  %g = f32[8]{0} all-gather(%a), channel_id=2, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %w = (s32[], /*index=1*/f32[8]{0}) while(%t), condition=%condition, body=%body
}
"""
    found = hlo.work(text)
    assert found.network == {}
    assert found.collectives == {
        "all-gather": hlo.Collective(1, 32 * 3 / 4, 32 * 3 / 4),
        "all-reduce": hlo.Collective(5, 5 * 2 * 32 * 3 / 4, 5 * 2 * 32 * 3 / 4),
    }
    assert found.unknown_loops == 0


def test_asynchronous_copies_count_once():
    text = """HloModule step

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %c = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %n = ((f32[8,4]{1,0}), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:4]}
  %h = ((f32[8,4]{1,0}), f32[2,4]{1,0}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:4]}
  %p = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[], u32[]) collective-permute-start(%h), channel_id=1, source_target_pairs={{0,1}}
  ROOT %d = f32[8,4]{1,0} copy-done(%c)
}
"""
    # The slice goes to a core's own memory, so its bytes are not counted.
    assert hlo.work(text).written == 8 * 4 * 4 + 2 * (2 * 4 * 4)


def test_what_passes_through_a_fusion_is_not_written_by_it_and_cycles_are_of_every_round():
    text = """HloModule step

%fused (p: f32[8,4], q: f32[2,4]) -> (f32[2], f32[8,4], f32[8,4]) {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[2,4]{1,0} parameter(1)
  %g = f32[8,4]{1,0} all-gather(%q), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  %s = f32[2]{0} reduce(%q), dimensions={1}
  ROOT %t = (f32[2]{0}, f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%s, %p, %g)
}

%body (c: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} get-tuple-element(%c), index=1
  %f = (f32[2]{0}, f32[8,4]{1,0}, f32[8,4]{1,0}) fusion(%x, %y), calls=%fused, backend_config={"estimated_cycles":"30"}
  %n = f32[0]{0} negate(%y), backend_config={"estimated_cycles":"18446744073709551615"}
  ROOT %r = (s32[], f32[8,4]{1,0}) tuple(%i, %z)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %b = (f32[2]{0}, f32[8,4]{1,0}, f32[8,4]{1,0}) fusion(%a, %y), calls=%fused, backend_config={"estimated_cycles":"10"}
  ROOT %w = (s32[], f32[8,4]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""
    found = hlo.work(text)
    # The gathered array is written once, and a sum in each of six runs of the fusion. %p only passes through.
    assert found.written == 8 * 4 * 4 + 6 * 2 * 4
    assert found.cycles == 10 + 5 * 30


STEP = """HloModule step

%add (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  {line}
}}
"""
# Of 32 devices in four hosts of eight: {line of HLO: (bytes over links, over the network, those that the device waits for)}
SENT = {
    "%r = f32[8]{0} all-reduce(%a), replica_groups=[4,8]<=[32], to_apply=%add": (2 * 32 * 7 / 8, 0, 56),
    "%r = f32[8]{0} all-reduce(%a), replica_groups=[8,4]<=[4,8]T(1,0), to_apply=%add": (0, 2 * 32 * 3 / 4, 48),
    "%r = f32[8]{0} all-reduce-start(%a), replica_groups=[1,32]<=[32], to_apply=%add": (62 * 7 / 8, 62 / 8, 0),
    '%r = f32[8]{0} all-reduce-start(%a), replica_groups=[4,8]<=[32], backend_config={"is_sync":true}': (56, 0, 56),
    "%r = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), replica_groups=mesh['x'=4,'y'=8] {'y'}": (256 * 7 / 8, 0, 0),
    "%r = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), replica_groups=mesh['x'=8,'y'=4], device_ids=([4,8]T(1,0)) {'x'}": (
        224,
        0,
        0,
    ),
    "%r = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), replica_groups=mesh['x'=8,'y'=4], device_ids=([4,8]T(1,0)) {'y'}": (
        0,
        128 * 3 / 4,
        0,
    ),
    "%r = (f32[8]{0}, f32[1]{0}) reduce-scatter-start(%a), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add": (
        28,
        0,
        0,
    ),
    "%r = ((f32[8]{0}), f32[8]{0}) all-to-all-start(%a), replica_groups=[4,8]<=[32]": (28, 0, 0),
    # Two devices of each host: 'x':(2)2 is the second half of an axis of 4.
    "%r = f32[8]{0} all-reduce(%a), replica_groups=mesh['x'=4,'y'=8] {'x':(2)2}, to_apply=%add": (0, 32, 32),
    "%r = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{7,8}}": (16, 16, 32),
}


@pytest.mark.parametrize("line", SENT)
def test_bytes_that_leave_a_host_go_over_the_network(line):
    found = hlo.work(STEP.format(line=line), linked=8)
    sent = [sum(one.sent for one in kinds.values()) for kinds in (found.collectives, found.network)]
    waited = sum(one.waited for kinds in (found.collectives, found.network) for one in kinds.values())
    assert (*sent, waited) == SENT[line]


def test_kernels_are_counted_by_kind():
    text = """HloModule step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%product (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %d = f32[8,8]{1,0} dot(%p, %p)
}

%update (p: f32[8,8], u: f32[1,8], i: s32[]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %b = f32[8,8]{1,0} dynamic-update-slice(%p, %u, %i, %i)
  ROOT %r = f32[8,8]{1,0} bitcast(%b)
}

%turned (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %c = f32[8,8]{0,1} copy(%p)
}

%body (c: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %x = f32[8,8]{1,0} get-tuple-element(%c), index=1
  %m = f32[8,8]{1,0} fusion(%x), kind=kCustom, calls=%product
  %w = f32[8,8]{1,0} fusion(%m, %u, %i), kind=kLoop, calls=%update
  %t = f32[8,8]{0,1} fusion(%w), kind=kLoop, calls=%turned
  ROOT %r = (s32[], f32[8,8]{1,0}) tuple(%i, %t)
}

ENTRY %main (a: f32[8,8]) -> f32[8] {
  %c = f32[8,8]{0,1} copy(%a)
  %g = (f32[8,8]{1,0}, s8[4]{0}) custom-call(%c, %a), custom_call_target="__cublas$gemm"
  %f = f32[8,8]{1,0} custom-call(%c, %a), custom_call_target="__cudnn$fmhaSoftmax"
  %w = (s32[], f32[8,8]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %s = f32[8]{0} reduce(%f, %z), dimensions={1}, to_apply=%add
}
"""
    counted = {
        "matrix products": 3 + 1,
        "custom kernels": 1,
        "copies": 3 + 1,
        "dynamic-update-slices": 3,
        "other kernels": 1,
    }
    assert hlo.work(text).kernels == counted
