"""Lower bounds of the time of a step, and its expected time: work of each kind divided by the chip's rates."""

from __future__ import annotations

import dataclasses

from mlm_jax.parallel.topology import Topology
from mlm_jax.training.flops import Flops, mfu

KINDS = ("matmul", "hbm", "links", "network")

# The shares of its stated peaks that one H100 reached in JAX: 681 of 989 TFLOP/s (bfloat16 product of 8,192³), 2.2 of 3.35
# TB/s (a copy, read and written). No other chip was measured; the same shares are assumed for all chips.
MATMUL_SHARE, HBM_SHARE = 0.69, 0.66


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Bounds on the time of a step, and its expected time.

    Attributes:
      matmul: seconds of matrix products at the peak rate, including recomputed ones.
      hbm: seconds to write each intermediate to HBM and to read it once.
      links: seconds of collectives within a slice or a host (ICI, NVLink).
      network: seconds of transfers between slices or hosts.
      tokens_per_second: upper bound over all devices, if all kinds of work overlapped completely.
      mfu: upper bound of the model FLOPs utilisation.
      expected_seconds: the expected time of a step: matrix products and memory traffic one after the other, at
        :data:`MATMUL_SHARE` and :data:`HBM_SHARE` of their peaks, and the collectives that the program waits for.
      expected_tokens_per_second: the speed that follows from it.
    """

    matmul: float
    hbm: float
    links: float
    network: float
    tokens_per_second: float
    mfu: float
    expected_seconds: float
    expected_tokens_per_second: float

    @property
    def seconds(self) -> float:
        """Return the time of the slowest kind of work."""
        return max(getattr(self, kind) for kind in KINDS)

    @property
    def bound(self) -> str:
        """Return the kind of the slowest work."""
        return max(KINDS, key=lambda kind: getattr(self, kind))


def roofline(
    topology: Topology,
    flops: Flops,
    *,
    hbm: float,
    links: float,
    network: float,
    tokens: int,
    waited: tuple[float, float] = (0.0, 0.0),
) -> Roofline:
    """Return the bounds that peak rates set on a step.

    Args:
      topology: the devices; their chip must have peaks.
      flops: the FLOPs of all devices.
      hbm: bytes that each device writes and reads.
      links: bytes that each device sends within its slice or host.
      network: bytes that each device sends to other slices or hosts.
      tokens: the number of tokens of a step.
      waited: (bytes over links, bytes over the network) of collectives that do not overlap with other work.
    """
    chip, parts = topology.chip, topology.chip.devices_per_chip

    def seconds_of(sent: float, bandwidth: float) -> float:
        return sent / (bandwidth / parts) if sent else 0.0

    times = {
        "matmul": flops.executed / (topology.chips * chip.peak_flops),
        "hbm": seconds_of(hbm, chip.hbm_bandwidth),
        "links": seconds_of(links, chip.link_bandwidth),
        "network": seconds_of(network, chip.network_bandwidth),
    }
    seconds = max(times.values())
    waiting = seconds_of(waited[0], chip.link_bandwidth) + seconds_of(waited[1], chip.network_bandwidth)
    working = times["matmul"] / MATMUL_SHARE + times["hbm"] / HBM_SHARE
    expected = max(working + waiting, times["links"], times["network"])
    return Roofline(
        **times,
        tokens_per_second=tokens / seconds,
        mfu=mfu(flops.model, seconds, topology.chips, chip.peak_flops),
        expected_seconds=expected,
        expected_tokens_per_second=tokens / expected,
    )
