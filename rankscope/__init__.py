"""rankscope: what fine-tuning does to a model's representation space.

    run = rankscope.collect("lora/", "texts.jsonl", rows="last", out="lora.pt")
    rankscope.measure(run).to_frame()
    rankscope.compare("lora.pt", "ptlora.pt", base="pretrained.pt").plot()

Names are loaded when they are first used; importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE: dict[str, str] = {
    "collect": "rankscope.collecting.collect",
    "load": "rankscope.collecting.resolve",
    "measure": "rankscope.analysis.measure",
    "profile": "rankscope.analysis.measure",
    "spectra": "rankscope.analysis.measure",
    "compare": "rankscope.analysis.compare",
    "compare_arms": "rankscope.analysis.arms",
    "curve": "rankscope.analysis.curves",
    "weigh": "rankscope.analysis.weigh",
    "load_model": "rankscope.models.load",
    "register": "rankscope.models.register",
    "train": "rankscope.tuning",
    "generate": "rankscope.tuning",
    "score": "rankscope.scores.join",
    "SpectrumCallback": "rankscope.tuning",
    "BottleneckConfig": "rankscope.models.tunings.bottleneck",
    "embedded_checkpoint": "rankscope.data",
    "open_data": "rankscope.data.open",
    "Run": "rankscope.store",
    "Features": "rankscope.features",
    "Rows": "rankscope.features",
    "Site": "rankscope.sites",
    "Spectrum": "rankscope.spectrum",
    "Definition": "rankscope.definition",
    "Comparison": "rankscope.definition",
    "DEFINITIONS": "rankscope.registry",
    "COMPARISONS": "rankscope.registry",
    "recoverability": "rankscope.comparisons.recoverability",
    "effective_rank": "rankscope.measures.effective_rank",
    "entropy_rank": "rankscope.measures.effective_rank",
    "energy_rank": "rankscope.measures.energy",
    "hill": "rankscope.measures.hill",
    "participation_ratio": "rankscope.measures.participation_ratio",
    "rankme": "rankscope.measures.rankme",
    "stable_rank": "rankscope.measures.stable_rank",
    "RankscopeError": "rankscope.errors",
}
"""Public names, and the module of each."""

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rankscope")
    if name not in _WHERE:
        raise AttributeError(f"module 'rankscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
