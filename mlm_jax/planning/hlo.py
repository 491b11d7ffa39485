"""What an optimised HLO module does in one run, loops multiplied out: collectives, traffic with HBM, cycles.

The compiler's own cost analysis counts a loop's body once, and a Transformer is a loop over layers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# {what begins in the background: place of what it writes, in a shape that is also of what it reads and of counters}
RESULTS = {"copy-start": 0, "slice-start": 1, "collective-permute-start": 1}
UNKNOWN_CYCLES = 2**62  # from here on the compiler means that it does not know
BYTES = {"pred": 1, "bf16": 2, "f16": 2, "s4": 0.5, "u4": 0.5, "token": 0, "opaque": 0}  # others end in their bits
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
        "partition-id", "replica-id", "iota", "opt-barrier", "send", "recv")  # fmt: skip

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
      count: how often one is run.
      sent: bytes that each device sends, by the ring algorithm of its kind.
    """

    count: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What one run of a module does on each device.

    Attributes:
      collectives: {kind: how many, and how much} of those over the links of a slice.
      network: the same of transfers between slices, over the data centre's network.
      written: bytes written to HBM by all instructions.
      cycles: that the compiler's cost model gives them, without hand-written kernels and collectives; 0 but on TPUs.
      unknown_loops: loops whose number of rounds the compiler does not tell; their bodies are counted once.
    """

    collectives: dict[str, Collective]
    network: dict[str, Collective]
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


def work(text: str, slices: int = 1) -> Work:
    """Return what an optimised HLO module does on each device.

    Args:
      text: ``compiled.as_text()``.
      slices: of the multi-slice job that it is compiled for.
    """
    computations, entry = _computations(text)
    within: dict[str, Collective] = {}
    between: dict[str, Collective] = {}
    written, cycles, unknown = 0.0, 0, 0
    channels: set[str] = set()

    def walk(name: str, times: int, fused: bool) -> None:
        nonlocal written, cycles, unknown
        for instruction in computations.get(name, []):
            kind = collective_kind(instruction.opcode)
            channel = _channel(instruction)
            # What overlaps with other work is written down where it begins, where it goes on and where it ends.
            known = channel in channels
            if kind is not None and not known:
                channels.update([channel] if channel else [])
                # TPUs fuse an all-reduce of which each device keeps a part: that is a reduce-scatter.
                scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scattered else kind
                _add(within, kind, times, _sent(kind, instruction, whole=scattered))
            # The compiler splits a collective over slices into those of each slice and transfers between the slices.
            transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
            if instruction.opcode == "send" and transfer:
                kind, size = transfer[1].lower().replace("_", "-"), shape_bytes(instruction.shape.split(", u32")[0])
                _add(between, kind, times, _ring(kind, size, slices))
            if not fused and not instruction.opcode.endswith("-done") and instruction.opcode not in FREE:
                written += times * _written(instruction, computations, channels)
                cycles += times * _cycles(instruction)
            rounds = times
            if instruction.opcode == "while":
                trips = _trips(instruction, computations)
                unknown += trips is None
                rounds *= trips or 1
            for called in _called(instruction):
                walk(called, rounds, fused or instruction.opcode in ("fusion", "async-start", "reduce", "all-reduce"))

    walk(entry, 1, False)
    return Work({kind: within[kind] for kind in KINDS if kind in within}, between, written, cycles, unknown)


def _channel(instruction: _Instruction) -> str:
    """Return the number that the parts of one collective share; "" of everything else."""
    found = re.search(r"channel_id=(\d+)", instruction.rest)
    return found[1] if found else ""


def _cycles(instruction: _Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return int(found[1]) if found and int(found[1]) < UNKNOWN_CYCLES else 0


def _add(found: dict[str, Collective], kind: str, times: int, sent: float) -> None:
    known = found.get(kind, Collective(0, 0.0))
    found[kind] = Collective(known.count + times, known.sent + times * sent)


def collective_kind(opcode: str) -> str | None:
    """Return which collective an opcode is or begins; None for everything else, and for the end of one."""
    return next((kind for kind in KINDS if opcode in (kind, f"{kind}-start")), None)


def shape_bytes(shape: str, *, hbm_only: bool = False) -> float:
    """Return the bytes of an array or a tuple, as HLO writes its shape; ``hbm_only`` leaves out other memory spaces."""
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
    """Return how often a loop runs: as the compiler says, or the bound of a counter from 0, which is what a scan has."""
    said = re.search(r"known_trip_count[^0-9}]*\{[^0-9}]*(\d+)", loop.rest)
    if said:
        return int(said[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    inside = {one.name: one for one in computations.get(condition[1], [])} if condition else {}
    for one in inside.values():
        if one.root and one.opcode == "compare" and "direction=LT" in one.rest:
            right = inside.get(re.findall(r"%([\w.\-]+)", one.rest)[1])
            if right is not None and right.opcode == "constant":
                return int(right.rest.split(")")[0])
    return None


def _group_size(instruction: _Instruction) -> int:
    grid = re.search(r"replica_groups=\[(\d+),(\d+)\]", instruction.rest)
    if grid:
        return int(grid[2])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", instruction.rest)
    if named:  # mesh['x'=4,'y'=2] {'x'}; an axis of which a part is used is 'x':(1)2
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2]))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.rest)
    return len(listed[1].split(",")) if listed else 1


def _sent(kind: str, instruction: _Instruction, *, whole: bool) -> float:
    """Return the bytes that each device sends; ``whole``: the shape is that before it is scattered."""
    size, group = shape_bytes(instruction.shape), _group_size(instruction)
    begins = instruction.opcode.endswith("-start")
    if kind == "collective-permute":
        return size / 2 if begins else size  # one that begins gives its argument and its result
    if kind == "all-gather" and begins:
        return _ring(kind, size / (1 + 1 / group), group)
    if kind == "reduce-scatter" and not whole:
        return _ring(kind, size * group, group)
    return _ring(kind, size, group)


def _ring(kind: str, size: float, group: int) -> float:
    """Return the bytes that each of a group sends for a whole array of this size, passed on from neighbour to neighbour."""
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) / group


def _written(instruction: _Instruction, computations: dict[str, list[_Instruction]], channels: set[str]) -> float:
    """Return the bytes that an instruction writes to HBM; an update in place writes the update only.

    ``channels`` are those of the collectives that have begun: what only passes through a fusion is written by them.
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
        return 0.0  # an update was written by what made it
    if instruction.opcode in RESULTS:
        return shape_bytes(list(_SHAPE.finditer(instruction.shape))[RESULTS[instruction.opcode]][0], hbm_only=True)
    return shape_bytes(instruction.shape, hbm_only=True)


def _result_bytes(result: _Instruction, inner: dict[str, _Instruction], channels: set[str]) -> float:
    """Return the bytes that a fusion of several results writes for one of them."""
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
