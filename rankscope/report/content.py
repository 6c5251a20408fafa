"""What a report holds, as plain values: the comparisons, thinned spectra, components, weights, and where all of it is from."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import PurePath
from typing import Any

import torch

from rankscope.data.open import bare_name
from rankscope.names import printable
from rankscope.report.columns import shortened, to_columns
from rankscope.report.extras import Extras
from rankscope.report.summary import telling
from rankscope.results.runs import Contrast
from rankscope.results.weights import WeightReport
from rankscope.spectrum import Spectrum
from rankscope.store import Run

FORMAT, VERSION = "rankscope-report", 1
"""What the data of a report call themselves, and the version of their form."""
POINTS = 48
"""The most singular values of a spectrum that are drawn, evenly spaced on a logarithmic axis."""


def content(results: Sequence[Contrast], extras: Extras) -> dict[str, Any]:
    """The data of a report, as JSON has them."""
    spectra = {run: sites for result in results for run, sites in result.spectra.items()}
    lengths = sorted({len(s.values) for sites in spectra.values() for s in sites.values()})
    rank, site = telling(results)
    return {
        "format": FORMAT,
        "version": VERSION,
        "rank": rank,
        "site": site,
        "contrasts": [_contrast(result) for result in results],
        "drawn": {str(r): _places(r) for r in lengths},
        "spectra": {run: {str(site): _thinned(one) for site, one in of.items()} for run, of in spectra.items()},
        "planes": {site: [plane.to_json() for plane in planes] for site, planes in extras.planes.items()},
        "weights": [_weights(report) for report in extras.weights],
        "runs": [about(run) for run in extras.runs],
    }


def _contrast(result: Contrast) -> dict[str, Any]:
    texts: dict[str, int] = {}
    blocks = to_columns(result.records, texts)
    similarity = None if result.similarity is None else _rounded(result.similarity)
    return {
        "names": list(result.names),
        "rows": result.rows,
        "notes": list(result.notes),
        "again": result.again,
        "level": result.level,
        "records": blocks,
        "texts": list(texts),
        "similarity": similarity,
        "similarity_sites": [str(site) for site in result.similarity_sites],
    }


def _rounded(values: torch.Tensor) -> list[list[float | None]]:
    return [[None if isnan(v) else round(v, 4) for v in row] for row in values.tolist()]


def _places(length: int) -> list[int]:
    """Indices of at most :data:`POINTS` of so many values, the first and the last among them."""
    if length <= POINTS:
        return list(range(length))
    steps = torch.logspace(0, torch.tensor(float(length)).log10().item(), POINTS).round().long() - 1
    return sorted({0, length - 1, *steps.clamp(0, length - 1).tolist()})


def _thinned(spectrum: Spectrum) -> dict[str, Any]:
    """σ / σ₁ at the places that are drawn, as far as they lie above the rounding floor."""
    kept = spectrum.above_floor
    first = float(kept[0]) if len(kept) else 0.0
    drawn = [i for i in _places(len(spectrum.values)) if i < len(kept)] if first > 0 else []
    return {
        "r": len(spectrum.values),
        "n": spectrum.rows,
        "d": spectrum.columns,
        "values": [float(f"{float(kept[i]) / first:.4g}") for i in drawn],
    }


def _weights(report: WeightReport) -> dict[str, Any]:
    rows = [[r.module, r.kind, r.m, r.n, r.ranks.effective, r.relative.size] for r in report.records]
    return {"name": report.name, "records": [[shortened(value) for value in row] for row in rows]}


def about(run: Run) -> dict[str, Any]:
    """What a run is, as far as a stranger may know it: folders of this machine are named by their last part alone."""
    manifest = run.manifest
    probe = {key: value for key, value in manifest.probe.items() if key not in ("ids", "options")}
    data = {**probe, "name": bare_name(str(manifest.probe["name"])), "samples": len(manifest.ids)}
    told = {
        "name": run.name,
        "checkpoint": manifest.checkpoint,
        "data": data,
        "rows": manifest.rows,
        "dtype": manifest.dtype,
        "pooling": manifest.pooling,
        "reading": manifest.reading,
        "versions": manifest.versions,
        "plan": manifest.plan_digest,
        "notes": manifest.notes,
    }
    return {key: _shown(value) for key, value in told.items()}


def _shown(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {printable(key): _shown(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_shown(part, name) for part in value]
    if isinstance(value, str):
        return printable(PurePath(value).name if name == "path" else value)
    return value
