"""Runs with planted changes, and comparisons as large as a real model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import rankscope
from rankscope.results.record import Estimate, Shape, Span
from rankscope.results.runs import Contrast, Pair, PairRecord
from rankscope.sites import Site
from rankscope.spectrum import Spectrum
from rankscope.store import Run

HOSTILE = "</script><script>alert(1)</script>"
"""The name of a run that would run, were it taken for more than a text."""


class Stack(nn.Module):
    """Two linear maps, one after the other: the sites layers.0 and layers.1."""

    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(len(w), len(w), bias=False) for w in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def runs(folder: Path, names: tuple[str, ...] = ("base", "turned", "flat")) -> list[Run]:
    """A base, the same turned, and the same with all but one direction shrunk to a tenth."""
    generator = torch.Generator().manual_seed(0)
    d = 6
    x = torch.randn(48, d, generator=generator) * torch.arange(1, d + 1) + 2
    w = torch.randn(d, d, generator=generator)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    flat = torch.diag(torch.tensor([1.0, *[0.1] * (d - 1)]))
    weights = ((w, w), (w, turn @ w), (w, flat @ w))
    return [
        rankscope.collect(Stack(*pair), x, name=name, out=folder / f"{i}.pt")
        for i, (name, pair) in enumerate(zip(names, weights, strict=True))
    ]


def large(run: str, sites: int = 34, measures: int = 14) -> Contrast:
    """A run against the base with numbers of all digits at many sites."""
    generator = torch.Generator().manual_seed(len(run))
    named = [Site("decoder", "embed"), *(Site("decoder", str(i)) for i in range(sites - 2)), Site("decoder", "final")]
    values = torch.rand(sites, measures, 20, generator=generator, dtype=torch.float64).tolist()
    notes = ("n-limited: 512 rows of 768 features; from four rows a feature on the value says little of their number",)
    records = []
    for site, of_site in zip(named, values, strict=True):
        for m, v in enumerate(of_site):
            a, b = (Estimate(*v[:3]), Estimate(*v[3:6])) if m < 8 else (Estimate(), Estimate())
            record = PairRecord(
                str(site), f"measure-{m}", Estimate(*v[6:9]), a, b, None, v[9], v[10], Shape(512, 128, 768, "float32"),
                "centred; spectrum; float64", "dimensions", notes if m % 2 else (), mean_share=v[11], mean_share_b=v[12],
                band=Span(v[13], v[14]), p=v[15], runs=Pair("base", run), interval_by="influence",
            )  # fmt: skip
            records.append(record)
    s = torch.arange(1, 513, dtype=torch.float64) ** -0.7
    spectra = {
        name: {site: Spectrum(s * (1 + 0.1 * torch.rand(512, generator=generator, dtype=torch.float64)).sort(descending=True).values,
                              512, 768, site, True, torch.float32, "gram", 20.0) for site in named}
        for name in ("base", run)
    }  # fmt: skip
    map_ = torch.rand(sites, sites, generator=generator, dtype=torch.float64)
    return Contrast(
        tuple(records), names=("base", run), rows="tokens, texts", spectra=spectra, similarity=map_,
        similarity_sites=tuple(named), notes=("one note",),
    )  # fmt: skip


def shuffled(result: Contrast) -> Contrast:
    """The same records in another order."""
    return replace(result, records=tuple(reversed(result.records)))
