"""rankscope: what fine-tuning does to a model's representation space.

    run = rankscope.collect("lora/", "texts.jsonl", rows="last", out="lora.pt")
    rankscope.measure(run).to_frame()
    rankscope.compare("lora.pt", "ptlora.pt", base="pretrained.pt").plot()

Names are loaded when they are first used; importing the package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker sees; _PUBLIC says the same to the interpreter, and a test holds them equal
    from rankscope.analysis.arms import compare_arms as compare_arms
    from rankscope.analysis.between import between as between
    from rankscope.analysis.compare import compare as compare
    from rankscope.analysis.curves import curve as curve
    from rankscope.analysis.examples import examples as examples
    from rankscope.analysis.measure import measure as measure, profile as profile, spectra as spectra
    from rankscope.analysis.track import track as track
    from rankscope.analysis.weigh import weigh as weigh
    from rankscope.checkpoint.fetching import fetch as fetch
    from rankscope.collecting.collect import collect as collect
    from rankscope.collecting.resolve import load as load
    from rankscope.comparisons.recoverability import recoverability as recoverability
    from rankscope.data import embedded_checkpoint as embedded_checkpoint
    from rankscope.data.open import open_data as open_data
    from rankscope.definition import Comparison as Comparison, Definition as Definition
    from rankscope.errors import RankscopeError as RankscopeError
    from rankscope.features import Features as Features, Rows as Rows
    from rankscope.measures.effective_rank import effective_rank as effective_rank, entropy_rank as entropy_rank
    from rankscope.measures.energy import energy_rank as energy_rank
    from rankscope.measures.hill import hill as hill
    from rankscope.measures.participation_ratio import participation_ratio as participation_ratio
    from rankscope.measures.rankme import rankme as rankme
    from rankscope.measures.stable_rank import stable_rank as stable_rank
    from rankscope.models.load import load_model as load_model
    from rankscope.models.register import register as register
    from rankscope.models.tunings.bottleneck import BottleneckConfig as BottleneckConfig
    from rankscope.registry import COMPARISONS as COMPARISONS, DEFINITIONS as DEFINITIONS
    from rankscope.report.making import make_report as make_report, write_report as write_report
    from rankscope.report.reading import open_report as open_report
    from rankscope.scores.join import score as score
    from rankscope.sites import Site as Site
    from rankscope.spectrum import Spectrum as Spectrum
    from rankscope.store import Run as Run
    from rankscope.tuning import SpectrumCallback as SpectrumCallback, generate as generate, train as train

    __version__: str

_PUBLIC = {
    "rankscope.collecting.collect": ("collect",),
    "rankscope.collecting.resolve": ("load",),
    "rankscope.analysis.measure": ("measure", "profile", "spectra"),
    "rankscope.analysis.between": ("between",),
    "rankscope.analysis.compare": ("compare",),
    "rankscope.analysis.arms": ("compare_arms",),
    "rankscope.analysis.track": ("track",),
    "rankscope.analysis.curves": ("curve",),
    "rankscope.analysis.examples": ("examples",),
    "rankscope.analysis.weigh": ("weigh",),
    "rankscope.models.load": ("load_model",),
    "rankscope.checkpoint.fetching": ("fetch",),
    "rankscope.tuning": ("train", "generate", "SpectrumCallback"),
    "rankscope.scores.join": ("score",),
    "rankscope.models.register": ("register",),
    "rankscope.models.tunings.bottleneck": ("BottleneckConfig",),
    "rankscope.data": ("embedded_checkpoint",),
    "rankscope.data.open": ("open_data",),
    "rankscope.store": ("Run",),
    "rankscope.features": ("Features", "Rows"),
    "rankscope.sites": ("Site",),
    "rankscope.spectrum": ("Spectrum",),
    "rankscope.definition": ("Definition", "Comparison"),
    "rankscope.registry": ("DEFINITIONS", "COMPARISONS"),
    "rankscope.report.making": ("make_report", "write_report"),
    "rankscope.report.reading": ("open_report",),
    "rankscope.comparisons.recoverability": ("recoverability",),
    "rankscope.measures.effective_rank": ("effective_rank", "entropy_rank"),
    "rankscope.measures.energy": ("energy_rank",),
    "rankscope.measures.hill": ("hill",),
    "rankscope.measures.participation_ratio": ("participation_ratio",),
    "rankscope.measures.rankme": ("rankme",),
    "rankscope.measures.stable_rank": ("stable_rank",),
    "rankscope.errors": ("RankscopeError",),
}
"""Public names by their module."""

__all__ = sorted(name for names in _PUBLIC.values() for name in names)


if not TYPE_CHECKING:  # a type checker would take any name whatever to exist

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("rankscope")
        for module, names in _PUBLIC.items():
            if name in names:
                globals()[name] = value = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module 'rankscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
