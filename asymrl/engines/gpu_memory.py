"""Measures the memory of each rank's GPU in the phases of a step.

Reads the counters of CUDA and of torch's allocator; knows nothing of what takes the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from asymrl.engines.distributed import World
from asymrl.types import frozen

GIB = 2**30
PHASES = ("generate", "score", "update", "sync")


@frozen
class PhaseMemory:
    """GiB on one GPU: reserved by torch's allocator and in use by all programs, each at its most
    during a phase, and free at the end of it."""

    reserved: float
    peak: float
    free: float


class MemoryMeter:
    """`with meter("update"): ...` measures a phase; without a GPU, it measures nothing.

    estimate: GiB by phase, which the metrics repeat.

    torch counts vLLM's pool as reserved while vLLM sleeps, although CUDA has that memory back. So
    the peak is what CUDA says is in use at the start of the phase, plus what torch reserves in
    addition, and at least what is in use at the end.
    """

    def __init__(self, world: World, estimate: Mapping[str, float]) -> None:
        self.world, self.estimate = world, estimate
        self.measured: dict[str, list[PhaseMemory]] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        if phase not in PHASES or not torch.cuda.is_available():
            yield
            return
        free, total = torch.cuda.mem_get_info()
        in_use, reserved = total - free, torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        yield
        free, total = torch.cuda.mem_get_info()
        most = torch.cuda.max_memory_reserved()
        peak = max(in_use + most - reserved, total - free)
        memory = PhaseMemory(reserved=most / GIB, peak=peak / GIB, free=free / GIB)
        self.measured.setdefault(phase, []).append(memory)

    def metrics(self) -> dict[str, float]:
        """perf/gpu_memory_<what>/<phase> in GiB since the last call, over all ranks: the largest
        `reserved` and `peak`, the smallest `free`, and `estimate`. Collective if there are GPUs."""
        if not torch.cuda.is_available():
            return {}
        measured, self.measured = self.measured, {}
        return over_ranks(self.world.gather(measured), self.estimate)


def over_ranks(
    ranks: Sequence[Mapping[str, Sequence[PhaseMemory]]], estimate: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of `MemoryMeter.metrics`. ranks: for each rank, a phase -> what was measured each
    time that the step was in it."""
    metrics = {}
    for phase in ranks[0]:
        memories = [memory for rank in ranks for memory in rank[phase]]
        gib = {
            "reserved": max(memory.reserved for memory in memories),
            "peak": max(memory.peak for memory in memories),
            "free": min(memory.free for memory in memories),
        }
        if phase in estimate:
            gib["estimate"] = estimate[phase]
        metrics |= {f"perf/gpu_memory_{what}/{phase}": number for what, number in gib.items()}
    return metrics
