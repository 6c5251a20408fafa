"""Which measure of a tuned model, read on data like those it was tuned on, predicts how it fares on data that are not?

Over all runs of the studies before this one that were tuned on captions (``claim.py``, ``order.py``, ``prefix_length.py``). A *drop* is
what the loss on new data lies above the loss on held-out data like those of tuning, nats a token: scenes with a fourth digit, a
colour or a corner that tuning did not see; and for drawings, held-out ones against those seen. Predictors are read on validation
data at ``decoder.final``: both ranks, recoverability, overlap and drift, and the validation loss, which is free.

DECISION RULES, written before the runs. ρ is Spearman's rank correlation of a predictor with a drop over the runs of one regime
(number of training captions), and the mean over regimes with at least eight runs: runs of one regime are alike but for what is
asked of. Its interval resamples settings, with all their seeds (2,000 draws), at 95 % shared by all predictors and drops
(Bonferroni). A measure *predicts* a drop if its interval excludes zero. It *beats the validation loss* if the interval of
|ρ| less that of the validation loss lies above zero.

*Rank protects* (the paper's premise, that a kept space generalises) is supported in miniature if the participation ratio and
recoverability both predict all four drops, higher with smaller; contradicted if one of these eight has the other sign beyond
its interval and none has the premise's; else not decided.

``python analyses/generalisation.py``: a minute, once the others have run.
"""

# %%
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claim import PRINCIPAL
from limited_scenes import NEW, SEEN
from numpy.typing import NDArray
from runs import RANKS, RELATIONS
from scipy import stats
from scripts import Interval, arguments, decide, write

from rankscope.plots.style import look, new_figure, panel_title, styled

PREDICTORS = ("validation", *RANKS, *RELATIONS)
DROPS = ("new drawings", *NEW)
PROTECTING = (PRINCIPAL, "recoverability")
LEAST = {"full": 8, "quick": 2}
"""The fewest runs of a regime that are correlated."""
DRAWS = 2000
Table = Mapping[str, NDArray[np.float64]]
"""A column of numbers for each predictor and drop; and ``setting``, what was trained but for the seed."""


# %% The runs.
def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The runs of one regime: what each predictor said and how far each loss rose."""
    columns: dict[str, list[float]] = defaultdict(list)
    settings: dict[str, int] = {}
    for run in found:
        losses, last = run["losses"], run["looks"][-1]
        columns["new drawings"].append(losses["test"] - losses[SEEN])
        for name in NEW:
            columns[name].append(losses[name] - losses["test"])
        for name in PREDICTORS:
            columns[name].append(last[name])
        key = json.dumps(run["setting"] | {"seed": None})
        columns["setting"].append(settings.setdefault(key, len(settings)))
    return {name: np.array(values) for name, values in columns.items()}


def regimes(home: Path, least: int) -> dict[int, Table]:
    """The runs that were tuned on captions, by the number of captions."""
    found: dict[int, list[Any]] = defaultdict(list)
    for file in sorted(home.glob("*/outcome.json")):
        run = json.loads(file.read_text())
        asked = run["setting"]
        if asked["method"] != "base" and not asked["searched"] and "scst" not in asked["method"]:
            found[asked["training"]].append(run)
    return {n: table(runs) for n, runs in sorted(found.items()) if len(runs) >= least}


# %% Correlations, and their intervals over settings.
def correlation(tables: Sequence[Table], predictor: str, drop: str) -> float:
    """Spearman's ρ in each regime, and the mean; a regime in which one of the two does not vary is left out."""
    found = [
        stats.spearmanr(t[predictor], t[drop]).statistic
        for t in tables
        if np.ptp(t[predictor]) > 0 and np.ptp(t[drop]) > 0
    ]
    return float(np.mean(found)) if found else 0.0


def resampled(tables: Sequence[Table], draws: int) -> list[list[Table]]:
    """Each regime with its settings drawn anew, and all seeds of each that is drawn."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        several = []
        for t in tables:
            rows = [np.flatnonzero(t["setting"] == s) for s in np.unique(t["setting"])]
            chosen = np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))])
            several.append({name: column[chosen] for name, column in t.items()})
        drawn.append(several)
    return drawn


def interval(
    tables: Sequence[Table], drawn: Sequence[Sequence[Table]], number: Callable[[Sequence[Table]], float], level: float
) -> Interval:
    """A number of all regimes with its percentile interval."""
    low, high = np.quantile([number(t) for t in drawn], [(1 - level) / 2, (1 + level) / 2])
    return Interval(number(tables), float(low), float(high))


def found_of(tables: Sequence[Table], draws: int) -> dict[str, dict[str, dict[str, Any]]]:
    """ρ of every predictor with every drop, and how far its size exceeds that of the validation loss."""
    level, drawn = 1 - 0.05 / (len(PREDICTORS) * len(DROPS)), resampled(tables, draws)
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for drop in DROPS:
        told[drop] = {}
        for name in PREDICTORS:
            rho = interval(tables, drawn, lambda t, n=name, d=drop: correlation(t, n, d), level)  # type: ignore[misc]
            more = interval(
                tables,
                drawn,
                lambda t, n=name, d=drop: abs(correlation(t, n, d)) - abs(correlation(t, "validation", d)),  # type: ignore[misc]
                level,
            )
            assert rho.low is not None and rho.high is not None and more.low is not None  # noqa: PT018
            told[drop][name] = {
                "rho": rho._asdict(),
                "predicts": rho.low > 0 or rho.high < 0,
                "above_validation_loss": more._asdict(),
                "beats_validation_loss": more.low > 0,
            }
    return told


def verdict(told: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Whether rank protects, by the rule at the top: a higher rank goes with a smaller drop, so ρ is below zero."""
    rhos = [told[drop][name]["rho"] for drop in DROPS for name in PROTECTING]
    return decide(Interval(-r["value"], -r["high"], -r["low"]) for r in rhos)


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Correlate, decide, write the figure and its JSON, and return what they tell."""
    by_regime = regimes(folder / "scenes", LEAST[size_name])
    if not by_regime:
        raise SystemExit("there are no runs to correlate; run claim.py first, with the same --folder")
    draws = DRAWS if size_name == "full" else 20
    told = found_of(list(by_regime.values()), draws)
    result = {
        "size": {"name": size_name, "runs": {n: len(t["setting"]) for n, t in by_regime.items()}, "draws": draws},
        "verdict": verdict(told),
        "correlations": told,
        "tables": {n: {name: column.tolist() for name, column in t.items()} for n, t in by_regime.items()},
    }
    with styled():
        figure = new_figure(4.6)
        axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
        for ax, drop in zip(axes, DROPS, strict=True):
            for row, name in enumerate(PREDICTORS):
                rho, style = told[drop][name]["rho"], look(-1 if name == "validation" else row - 1)
                ax.plot(rho["value"], row, marker=style["marker"] or "o", color=style["color"], markersize=4)
                ax.hlines(row, rho["low"], rho["high"], color=style["color"], linewidth=1)
            ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
            labels = ["validation loss", *PREDICTORS[1:]]
            ax.set(xlim=(-1.05, 1.05), yticks=range(len(PREDICTORS)), yticklabels=labels)
            panel_title(ax, f"drop: {drop}")
        for ax in axes[2:]:
            ax.set_xlabel("rank correlation with the drop")
        axes[0].invert_yaxis()
        write(figure, result, out)
    return result


if __name__ == "__main__":
    asked = arguments(__doc__, "generalisation")
    found = main("quick" if asked.quick else "full", asked.folder, asked.out)
    print(f"rank protects: {found['verdict']}")
    for drop, by_name in found["correlations"].items():
        print(f"{drop}: " + ", ".join(f"{name} {of['rho']['value']:+.2f}" for name, of in by_name.items()))
