"""The least time a step can take: work of each kind over the peak rate that a chip's maker states for it."""

from __future__ import annotations

import dataclasses

from mlm_jax.parallel.topology import Topology
from mlm_jax.training.flops import Flops, mfu

KINDS = ("matmul", "hbm", "links", "network")


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time a step can take, if all of a kind of work went at its peak and the kinds overlapped wholly.

    Attributes:
      matmul: seconds of matrix products, with those that are repeated.
      hbm: seconds to write each intermediate to HBM and to read it once.
      links: seconds to send what collectives send within a slice (ICI, NVLink).
      network: seconds to send what goes from slice to slice (DCN).
      tokens_per_second: over all devices, at most.
      mfu: at most.
    """

    matmul: float
    hbm: float
    links: float
    network: float
    tokens_per_second: float
    mfu: float

    @property
    def seconds(self) -> float:
        """Return the time of the slowest kind of work."""
        return max(getattr(self, kind) for kind in KINDS)

    @property
    def bound(self) -> str:
        """Return which kind that is."""
        return max(KINDS, key=lambda kind: getattr(self, kind))


def roofline(topology: Topology, flops: Flops, *, hbm: float, links: float, network: float, tokens: int) -> Roofline:
    """Return the bounds that peak rates set on a step.

    Args:
      topology: whose chip has peaks.
      flops: of all devices.
      hbm: bytes that each device writes and reads.
      links: bytes that each device sends within its slice.
      network: bytes that each device sends to other slices.
      tokens: of a step.
    """
    chip, parts = topology.chip, topology.chip.devices_per_chip
    times = {
        "matmul": flops.executed / (topology.chips * chip.peak_flops),
        "hbm": hbm / (chip.hbm_bandwidth / parts),
        "links": links / (chip.link_bandwidth / parts),
        "network": network / (chip.network_bandwidth / parts) if network else 0.0,
    }
    seconds = max(times.values())
    return Roofline(**times, tokens_per_second=tokens / seconds,
                    mfu=mfu(flops.model, seconds, topology.chips, chip.peak_flops))  # fmt: skip
