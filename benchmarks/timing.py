"""Rivals timed side by side: in turns, several rounds, medians and ratios. One absolute time on a shared machine says little."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def side_by_side(rivals: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, dict[str, float]]:
    """Median seconds of each rival, and the medians over rounds of its time over the first one's: by the clock, and of the processor."""
    for run in rivals.values() if rounds > 1 else ():  # a single round is for what takes minutes
        run()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    used: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            wait()
            begun, spent = time.perf_counter(), time.process_time()
            run()
            wait()
            taken[name].append(time.perf_counter() - begun)
            used[name].append(time.process_time() - spent)
    first = next(iter(rivals))
    return {
        name: {
            "seconds": statistics.median(each),
            "ratio": _ratio(each, taken[first]),
            "cpu_ratio": _ratio(used[name], used[first]),
        }
        for name, each in taken.items()
    }


def _ratio(each: Sequence[float], first: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(each, first, strict=True))


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, object]:
    """What a time was taken on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
