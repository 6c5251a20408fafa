"""Results that are as small as what is drawn of them allows."""

from __future__ import annotations

from typing import Any

import torch

from rankscope.results.record import Estimate, Shape
from rankscope.results.runs import Contrast, PairRecord, RunRecord
from rankscope.sites import Site
from rankscope.spectrum import Spectrum

SITES = [
    Site.parse(s) for s in ("vision.0", "vision.final", "decoder.embed", "decoder.0", "decoder.1", "decoder.final")
]
HOW: dict[str, Any] = {"shape": Shape(40, 8, 6, "float32"), "convention": "", "unit": "dimensions"}


def spectrum(site: Site, values: list[float], *, norm: float = 4.0) -> Spectrum:
    tensor = torch.tensor(values, dtype=torch.float64)
    return Spectrum(tensor, 40, len(values), site, True, torch.float32, "gram", norm)


def measured(measure: str, start: float, *, noise: float = 5.0) -> list[RunRecord]:
    return [
        RunRecord(str(site), measure, Estimate(start + i, start + i - 0.5, start + i + 0.25), noise, **HOW)
        for i, site in enumerate(SITES)
    ]


def compared(measure: str, *, base: float | None = None) -> list[PairRecord]:
    return [
        PairRecord(
            str(site), measure, Estimate(0.1, 0.0, 0.2), Estimate(i, i - 1, i + 1), Estimate(i + 0.1, i - 0.9, i + 1.1),
            base=base, noise=0.2, itself=1.0, **HOW,
        )
        for i, site in enumerate(SITES)
    ]  # fmt: skip


def contrast(**changes: Any) -> Contrast:
    measures = [*compared("participation-ratio", base=3.0), *compared("overlap"), *compared("drift")]
    spectra = {name: {site: spectrum(site, [3.0, 2.0, 1.0]) for site in SITES} for name in ("a", "b", "pre-trained")}
    map_ = torch.rand(len(SITES), len(SITES), dtype=torch.float64)
    told = {"names": ("a", "b", "pre-trained"), "rows": "tokens", "spectra": spectra}
    told |= {"similarity": map_, "similarity_sites": tuple(SITES)}
    return Contrast(**({"records": tuple(measures)} | told | changes))


def modules(*names: str) -> list[Site]:
    return [Site(name, "output") for name in names]
