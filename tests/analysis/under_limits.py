"""Run by a test in a process of its own: what is asked for under several limits on memory, and then without one, as JSON.

For each call a list, and in it the error, and the value, the lower end and the notes of each number.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import rankscope
from rankscope.errors import RankscopeError
from rankscope.results.runs import Contrast, Measurement
from rankscope.store import Run

WIDTH = 160
LIMITS = 3, 20
"""Matrices of that width beside what the process has taken."""
MEASURES = "roy-vetterli", "participation-ratio", "cka", "variance-captured", "drift"
Told = dict[str, list[object]]


def layer(width: int, seed: int) -> nn.Linear:
    made = nn.Linear(width, width, bias=False)
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    made.weight.data = torch.eye(width) + 0.02 * noise
    return made


def rows(width: int) -> torch.Tensor:
    x = torch.randn(100, 4, width, generator=torch.Generator().manual_seed(0))
    return x * torch.arange(1, width + 1).rsqrt()


def collected(width: int, folder: Path) -> list[Run]:
    models = [nn.Sequential(layer(width, seed)) for seed in range(3)]
    return [rankscope.collect(m, rows(width), rows="tokens", out=folder / f"{width}-{i}") for i, m in enumerate(models)]


def told(result: Measurement | Contrast) -> Told:
    return {r.measure: [r.estimate.value, r.estimate.low, *r.notes] for r in result.records}


def moments(width: int, folder: Path) -> Told:
    two = nn.Sequential(layer(width, 3), layer(width, 4))
    out = folder / f"sums-{width}"
    run = rankscope.collect(two, rows(width), rows="tokens", keep="moments", out=out, reuse=True)
    return told(rankscope.measure(run, MEASURES[:1], sites="0.output"))


def calls(width: int, folder: Path) -> dict[str, Callable[[], Told]]:
    base, a, b = collected(width, folder)
    return {
        "measure": lambda: told(rankscope.measure(a, MEASURES[:2])),
        "compare": lambda: told(rankscope.compare(a, b, base=base, measures=MEASURES)),
        "moments": lambda: moments(width, folder),
    }


torch.set_num_threads(1)
where = Path(sys.argv[1])
for call in calls(16, where).values():
    call()  # loads all modules that the others need
found: dict[str, list[tuple[str, Told]]] = {}
for name, call in calls(WIDTH, where).items():
    found[name] = []
    for matrices in LIMITS:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 8 * matrices * WIDTH**2, -1))
        try:
            found[name].append(("", call()))
        except RankscopeError as error:
            found[name].append((f"{type(error).__name__}: {error}", {}))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    found[name].append(("", call()))  # a collect goes on where the limits stopped it
print(json.dumps(found))
