"""What a collect takes of memory does not grow with the number of samples."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rankscope

SAMPLES, TOKENS, WIDTH, BLOCKS = (64, 576), 32, 256, 5
MIB = 1 << 20
GROWN = TOKENS * WIDTH * 4 * BLOCKS * (SAMPLES[1] - SAMPLES[0]) / MIB
"""By how many MiB the larger run is larger: 80."""


class Deep(nn.Module):
    """An embedding and linear blocks, each as wide as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS - 1))

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.words(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def peak(n: int, out: Path) -> float:
    """MiB that a collect of ``n`` samples takes at its peak, beyond what its process has before: one forked for it."""
    model, data = Deep(), torch.randint(1000, (n, TOKENS))
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        try:
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            rankscope.collect(model, data, rows="tokens", tokens_per_batch=8 * TOKENS, out=out)
            os.write(tell, str(_memory("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(tell)
    with os.fdopen(told) as stream:
        return float(stream.read())


def _memory(name: str) -> float:
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["run", "run.pt"])
def test_nine_times_the_samples_take_no_more_memory(form: str, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    small, large = (peak(n, tmp_path / where / form) for n, where in zip(SAMPLES, ("small", "large"), strict=True))
    assert large - small < 0.1 * GROWN
    run = rankscope.load(tmp_path / "large" / form)
    assert sum(run.n(site) * run.width(site) * 4 for site in run.sites) / MIB > GROWN
