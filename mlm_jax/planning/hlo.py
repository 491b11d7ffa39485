"""The work of one run of an optimised HLO module: collectives, kernels, HBM traffic and cycles, with loops multiplied out.

The compiler's own cost analysis counts the body of a loop once, but a Transformer is a loop over layers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
KERNELS = ("matrix products", "custom kernels", "copies", "dynamic-update-slices", "other kernels")
# {asynchronous instruction: index of its result in its shape, which also lists its operands and counters}
RESULTS = {"copy-start": 0, "slice-start": 1, "collective-permute-start": 1}
UNKNOWN_CYCLES = 2**62  # the compiler writes such numbers for "unknown"
BYTES = {"pred": 1, "bf16": 2, "f16": 2, "s4": 0.5, "u4": 0.5, "token": 0, "opaque": 0}  # other names end in the bits
FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "opt-barrier",
    "send",
    "recv",
)
TRIVIAL = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")  # operations of a fusion that only copies
# Computations of these instructions run separately; those of other instructions are part of a kernel.
FLOW = "while", "conditional", "call"

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ((?:\([^=]*?\)|[a-z]\w*\[[^ ]*)) ([\w\-]+)\((.*)$")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind in one step.

    Attributes:
      count: number of collectives that run.
      sent: bytes that each device sends, by the ring algorithm of its kind.
      waited: the part of ``sent`` that is sent while the device does nothing else.
    """

    count: int
    sent: float
    waited: float = 0.0


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one run of a module on each device.

    Attributes:
      collectives: {kind: collectives over the links of a slice or a host}.
      network: {kind: transfers between slices or hosts}. A collective over several hosts with several GPUs counts in both: its
        rings cross to the next host once for each GPU, and also use the links within the host.
      kernels: {kind of :data:`KERNELS`: number that run}.
      written: bytes written to HBM by all instructions.
      cycles: the compiler's estimate, without hand-written kernels and collectives; 0 except on TPUs.
      unknown_loops: number of loops whose iteration count is unknown; their bodies are counted once.
    """

    collectives: dict[str, Collective]
    network: dict[str, Collective]
    kernels: dict[str, int]
    written: float
    cycles: int
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str
    root: bool


def work(text: str, slices: int = 1, linked: int = 0) -> Work:
    """Return the work of an optimised HLO module on each device.

    Args:
      text: ``compiled.as_text()``.
      slices: the number of slices of the multi-slice TPU job that it is compiled for.
      linked: number of consecutive devices that are connected by links, while others use a network; 0: all are linked.
    """
    computations, entry = _computations(text)
    within: dict[str, Collective] = {}
    between: dict[str, Collective] = {}
    kernels = dict.fromkeys(KERNELS, 0)
    written, cycles, unknown = 0.0, 0, 0
    channels: set[str] = set()

    def walk(name: str, times: int, fused: bool) -> None:
        nonlocal written, cycles, unknown
        for instruction in computations.get(name, []):
            kind = collective_kind(instruction.opcode)
            channel = _channel(instruction)
            # An asynchronous collective is listed several times: where it begins, continues and ends.
            known = channel in channels
            if kind is not None and not known:
                channels.update([channel] if channel else [])
                # TPUs fuse an all-reduce with a slice for each device: that is a reduce-scatter.
                scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scattered else kind
                sent, share = _sent(kind, instruction, whole=scattered), _network_share(instruction, linked)
                waits = not fused and (
                    not instruction.opcode.endswith("-start") or '"is_sync":true' in instruction.rest
                )
                if share < 1:
                    _add(within, kind, times, (1 - share) * sent, waits)
                if share > 0:
                    _add(between, kind, times, share * sent, waits)
            # The compiler splits a collective over several slices into collectives within each slice and transfers between slices.
            transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
            if instruction.opcode == "send" and transfer:
                kind, size = transfer[1].lower().replace("_", "-"), shape_bytes(instruction.shape.split(", u32")[0])
                _add(between, kind, times, _ring(kind, size, slices), False)
            if not fused and not instruction.opcode.endswith("-done") and instruction.opcode not in FREE:
                written += times * _written(instruction, computations, channels)
                cycles += times * _cycles(instruction)
                if collective_kind(instruction.opcode) is None:
                    kernels[_kernel(instruction, computations)] += times
            rounds = times
            if instruction.opcode == "while":
                trips = _trips(instruction, computations)
                unknown += trips is None
                rounds *= trips or 1
            for called in _called(instruction):
                walk(called, rounds, fused or instruction.opcode not in FLOW)

    walk(entry, 1, False)
    found = {kind: within[kind] for kind in KINDS if kind in within}
    return Work(found, between, kernels, written, cycles, unknown)


def _kernel(instruction: _Instruction, computations: dict[str, list[_Instruction]]) -> str:
    """Return the kind of kernel that runs an instruction."""
    if instruction.opcode in ("copy", "copy-start"):
        return "copies"
    if instruction.opcode in ("dot", "convolution") or "__cublas" in instruction.rest:
        return "matrix products"
    if instruction.opcode == "custom-call":
        return "custom kernels"
    if instruction.opcode == "dynamic-update-slice":
        return "dynamic-update-slices"
    if instruction.opcode != "fusion":
        return "other kernels"
    inner = [one for name in _called(instruction) for one in computations.get(name, [])]
    opcodes = {one.opcode for one in inner}
    if opcodes & {"dot", "convolution"}:
        return "matrix products"
    by_name = {one.name: one for one in inner}
    roots = [one for one in inner if one.root]
    results = [by_name[name] for root in roots if root.opcode == "tuple" for name in _operands(root) if name in by_name]
    if any(_below_bitcasts(one, by_name).opcode == "dynamic-update-slice" for one in (*roots, *results)):
        return "dynamic-update-slices"
    return "copies" if opcodes - {*TRIVIAL} == {"copy"} else "other kernels"


def _below_bitcasts(instruction: _Instruction, by_name: dict[str, _Instruction]) -> _Instruction:
    while instruction.opcode == "bitcast" and (names := _operands(instruction)) and names[0] in by_name:
        instruction = by_name[names[0]]
    return instruction


def _channel(instruction: _Instruction) -> str:
    """Return the number that the parts of one collective share; "" for other instructions."""
    found = re.search(r"channel_id=(\d+)", instruction.rest)
    return found[1] if found else ""


def _cycles(instruction: _Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return int(found[1]) if found and int(found[1]) < UNKNOWN_CYCLES else 0


def _add(found: dict[str, Collective], kind: str, times: int, sent: float, waits: bool) -> None:
    known, more = found.get(kind, Collective(0, 0.0)), times * sent
    found[kind] = Collective(known.count + times, known.sent + more, known.waited + waits * more)


def collective_kind(opcode: str) -> str | None:
    """Return the kind of collective that an opcode is or begins; None for other opcodes, and for the end of a collective."""
    return next((kind for kind in KINDS if opcode in (kind, f"{kind}-start")), None)


def shape_bytes(shape: str, *, hbm_only: bool = False) -> float:
    """Return the bytes of an array or a tuple from its HLO shape; ``hbm_only`` leaves out other memory spaces."""
    total = 0.0
    for element, dimensions, layout in _SHAPE.findall(shape):
        if hbm_only and re.search(r"S\([1-9]\d*\)", layout):
            continue
        bits = re.search(r"(\d+)", element)
        size = BYTES[element] if element in BYTES else int(bits[1]) / 8 if bits and not element.startswith("f8") else 1
        total += size * math.prod(int(d) for d in dimensions.split(",") if d)
    return total


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    found: dict[str, list[_Instruction]] = {}
    entry, current = "", ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        header = _HEADER.match(line)
        if header:
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif current and (match := _INSTRUCTION.match(line)):
            found[current].append(_Instruction(match[2], match[3], match[4], match[5], bool(match[1])))
    return found, entry


def _called(instruction: _Instruction) -> Iterator[str]:
    for one, several in _CALLED.findall(instruction.rest):
        yield from [one] if one else [name.strip().lstrip("%") for name in several.split(",")]


def _trips(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
    """Return the number of iterations of a loop: the compiler's count, or the bound of a counter that starts at 0 (a scan)."""
    count = re.search(r"known_trip_count[^0-9}]*\{[^0-9}]*(\d+)", loop.rest)
    if count:
        return int(count[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    inside = {one.name: one for one in computations.get(condition[1], [])} if condition else {}
    for one in inside.values():
        if one.root and one.opcode == "compare" and "direction=LT" in one.rest:
            right = inside.get(re.findall(r"%([\w.\-]+)", one.rest)[1])
            if right is not None and right.opcode == "constant":
                return int(right.rest.split(")")[0])
    return None


def _group(instruction: _Instruction) -> list[int]:
    """Return the devices of a collective's first group, in the numbering of the program; [0] if it names none."""
    grid = re.search(r"replica_groups=\[(\d+),(\d+)\](?:<=(\[[\d,]+\](?:T\([\d,]+\))?))?", instruction.rest)
    if grid:
        groups, size = int(grid[1]), int(grid[2])
        return _numbering(grid[3] or f"[{groups * size}]").reshape(groups, size)[0].tolist()
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\) |[^{]*)\{([^}]*)\}", instruction.rest)
    if named:  # mesh['x'=4,'y'=2] {'x'}; 'x':(1)2 is a part of axis x: of size 2, after a part of size 1
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        used = {
            name: (int(before or 1), int(part or sizes[name]))
            for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", named[3])
        }
        numbers = _numbering(named[2] or f"[{math.prod(sizes.values())}]").reshape([*sizes.values()])
        for index, (name, size) in enumerate(sizes.items()):
            before, part = used.get(name, (1, 1))
            step = size // (before * part)
            numbers = numbers.take(range(0, part * step, step), axis=index)
        return numbers.ravel().tolist()
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.rest)
    return _integers(listed[1]) if listed else [0]


def _numbering(text: str) -> np.ndarray:
    """Return the device numbers of "[4,8]T(1,0)" (the numbers 0 … 31 as a 4 × 8 matrix, transposed) or of "3,1,2,0"."""
    tiled = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not tiled:
        return np.array(_integers(text))
    dimensions = _integers(tiled[1])
    numbers = np.arange(math.prod(dimensions)).reshape(dimensions)
    return numbers.transpose(_integers(tiled[2])) if tiled[2] else numbers


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _network_share(instruction: _Instruction, linked: int) -> float:
    """Return the share of the sent bytes that go over the network, because no links connect the devices.

    If a group spans several hosts, each member on a host sends 1/members of the data to the next host: there are as many
    simultaneous rings as members on a host, and each ring crosses to the next host at another member.
    """
    if not linked:
        return 0.0
    if collective_kind(instruction.opcode) == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.rest.split("source_target_pairs=")[-1].split("}}")[0] + "}")
        leaving = [int(a) // linked != int(b) // linked for a, b in pairs]
        return sum(leaving) / len(leaving) if leaving else 0.0
    hosts = [device // linked for device in _group(instruction)]
    return 0.0 if len(set(hosts)) == 1 else 1 / max(hosts.count(host) for host in set(hosts))


def _sent(kind: str, instruction: _Instruction, *, whole: bool) -> float:
    """Return the bytes that each device sends; ``whole`` means that the shape is that of the array before it is scattered."""
    size, group = shape_bytes(instruction.shape), len(_group(instruction))
    begins = instruction.opcode.endswith("-start")  # its shape lists arguments and results, except for all-reduces
    if kind == "collective-permute":
        return size / 2 if begins else size
    if kind == "all-gather" and begins:
        return _ring(kind, size / (1 + 1 / group), group)
    if kind == "reduce-scatter" and not whole:
        return _ring(kind, size / (group + 1) * group if begins else size * group, group)
    if kind == "all-to-all" and begins:
        return _ring(kind, size / 2, group)
    return _ring(kind, size, group)


def _ring(kind: str, size: float, group: int) -> float:
    """Return the bytes that each device of a group sends in a ring, for a whole array of this size."""
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) / group


def _written(instruction: _Instruction, computations: dict[str, list[_Instruction]], channels: set[str]) -> float:
    """Return the bytes that an instruction writes to HBM; an update in place writes the update only.

    ``channels`` are those of collectives that have begun: they write the arrays that only pass through a fusion.
    """
    if instruction.opcode == "fusion":
        for name in _called(instruction):
            inner = {one.name: one for one in computations.get(name, [])}
            root = next((one for one in inner.values() if one.root), None)
            if root is not None and root.opcode == "dynamic-update-slice":
                return _update_bytes(root, inner)
            if root is not None and root.opcode == "tuple":
                results = [inner[name] for name in _operands(root) if name in inner]
                return sum(_result_bytes(one, inner, channels) for one in results)
    if instruction.opcode == "dynamic-update-slice" or '="AllocateBuffer"' in instruction.rest:
        return 0.0  # the update was already written by the instruction that made it
    if instruction.opcode in RESULTS:
        return shape_bytes(list(_SHAPE.finditer(instruction.shape))[RESULTS[instruction.opcode]][0], hbm_only=True)
    return shape_bytes(instruction.shape, hbm_only=True)


def _result_bytes(result: _Instruction, inner: dict[str, _Instruction], channels: set[str]) -> float:
    """Return the bytes that a fusion with several results writes for one of them."""
    if result.opcode == "parameter" or _channel(result) in channels:
        return 0.0
    if result.opcode == "dynamic-update-slice":
        return _update_bytes(result, inner)
    return shape_bytes(result.shape, hbm_only=True)


def _operands(instruction: _Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.split(")")[0])


def _update_bytes(update: _Instruction, inner: dict[str, _Instruction]) -> float:
    names = _operands(update)
    return shape_bytes(inner[names[1]].shape) if len(names) > 1 and names[1] in inner else 0.0
