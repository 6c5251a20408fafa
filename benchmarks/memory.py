"""What measuring and comparing a site that is larger than memory takes: a site of 3 GB under a limit of 2 GB.

    python benchmarks/memory.py             # writes benchmarks/memory.json; needs 9 GB of disk and some twenty minutes
    python benchmarks/memory.py --gb 0.3    # the same in small

``rankscope measure`` of one run, and ``rankscope compare`` of two with a base, run as commands of their own under
``ulimit -v`` (``RLIMIT_AS``). It is the strictest of limits: it counts every address, the code of Python and torch included, of
which they take 0.9 GB before the first row is read (half of it is never in memory), and refuses at once instead of swapping.
Peaks are what the kernel kept of each process: of resident memory (``VmHWM``), and of addresses (``VmPeak``).
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import machine

from rankscope.features import TEXT
from rankscope.store import Batch, Manifest, Writer

HERE = Path(__file__).parent
WIDTH, TOKENS, TOGETHER = 512, 64, 256
"""Features, rows of a sample, and samples of a shard."""
LIMIT = 2e9
SITE = "decoder.0"


def write(folder: Path, gigabytes: float, seed: int) -> int:
    """A run of one site of so many GB in bfloat16, never held whole; its rows are those of seed 0, moved. Returns n."""
    shards = max(2, round(gigabytes * 1e9 / (2 * WIDTH * TOKENS * TOGETHER)))
    plan = [Batch(i, tuple(range(i * TOGETHER, (i + 1) * TOGETHER)), TOKENS) for i in range(shards)]
    manifest = Manifest(
        name=f"synthetic-{seed}",
        checkpoint={"path": f"synthetic-{seed}", "digest": str(seed), "tunings": []},
        probe={"name": "synthetic", "fingerprint": "0", "ids": [f"s{i}" for i in range(shards * TOGETHER)]},
        rows={"kind": "tokens", "keep_special": False},
        dtype="bfloat16",
        sites={SITE: {"width": WIDTH, "stack": "decoder"}},
        reading={},
        versions={"rankscope": "0"},
    )
    position = torch.arange(TOKENS).repeat(TOGETHER)
    with Writer.open(folder, manifest, plan) as writer:
        for batch in writer.todo:
            sample = torch.tensor(batch.samples).repeat_interleave(TOKENS)
            places = (sample, position, torch.full_like(sample, TEXT, dtype=torch.uint8))
            writer.write(batch.id, {SITE: rows(batch.id, seed)}, {"decoder": places})
        writer.finish()
    return shards * TOGETHER * TOKENS


def rows(shard: int, seed: int) -> torch.Tensor:
    """``(m, d)`` features with variances 1/i, which share a part with their sample; another seed adds noise of its own."""
    generator = torch.Generator().manual_seed(shard)
    x = torch.randn(TOGETHER, TOKENS, WIDTH, generator=generator)
    x += torch.randn(TOGETHER, 1, WIDTH, generator=generator)
    if seed:
        own = torch.Generator().manual_seed(shard * 1_000 + seed)
        x += 0.3 * seed * torch.randn(TOGETHER, TOKENS, WIDTH, generator=own)
    return (x * torch.arange(1, WIDTH + 1).rsqrt()).flatten(0, 1).bfloat16()


def under(limit: float, *words: object) -> dict[str, float]:
    """A command of rankscope under a limit of addresses: its seconds and its peaks in GB.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rankscope", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit))),
        )
        peaks = {"VmHWM": 0.0, "VmPeak": 0.0}
        while process.poll() is None:
            # Neither of them ever falls, so that what was seen last is the peak, but for the last moments
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks |= {name: float(kb) * 1024 / 1e9 for name, kb in re.findall(r"(VmHWM|VmPeak):\s+(\d+) kB", status)}
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {process.returncode}: {said.read()[-2000:]}")
    return {"seconds": time.perf_counter() - begun, "peak GB": peaks["VmHWM"], "peak of addresses GB": peaks["VmPeak"]}


def main(gigabytes: float, limit: float, compared: bool, measures: str | None) -> dict[str, object]:
    """All commands, and of each its peak over the size of a site."""
    with tempfile.TemporaryDirectory() as work:
        runs = [Path(work) / str(seed) for seed in range(3 if compared else 1)]
        for seed, path in enumerate(runs):
            n = write(path, gigabytes, seed)
        size = n * WIDTH * 2 / 1e9
        chosen = [] if measures is None else ["--measures", measures]
        found = {"measure": under(limit, "measure", runs[0], *chosen)}
        if compared:
            found["compare with a base"] = under(limit, "compare", runs[1], runs[2], "--base", runs[0], *chosen)
    for one in found.values():
        one["peak over a site"] = one["peak GB"] / size
    return {
        **machine(),
        "rows": n,
        "features": WIDTH,
        "site GB": size,
        "limit GB": limit / 1e9,
        "measures": measures or "default",
        "commands": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0)
    parser.add_argument("--limit", type=float, default=LIMIT, help="bytes of addresses")
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--measures", default=None, help="instead of the default ones")
    parser.add_argument("--out", type=Path, default=HERE / "memory.json")
    asked = parser.parse_args()
    told = main(asked.gb, asked.limit, not asked.measure_only, asked.measures)
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    for name, one in told["commands"].items():  # type: ignore[attr-defined]
        print(
            f"{name}: {one['seconds']:.0f} s, peak {one['peak GB']:.2f} GB, {one['peak over a site']:.2f} of a site of "
            f"{told['site GB']:.2f} GB, addresses {one['peak of addresses GB']:.2f} of {told['limit GB']:.2f} GB"
        )
