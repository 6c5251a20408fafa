"""Which measure of a tuned model, read on data like those it was tuned on, predicts how it fares on data that are not?

Over all runs of the studies before this one that were tuned on captions, and by cross-entropy alone (``claim.py``, ``order.py``,
``prefix_length.py``, and those of ``scst.py`` and ``transfer.py`` that are not of these). A *drop* is
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claim import PRINCIPAL
from correlating import Table, correlations
from findings import LABELS, Interval, arguments, decide, forest, write
from limited_scenes import NEW, SEEN
from runs import RANKS, RELATIONS

from rankscope.plots.style import look, new_figure, panel_title, styled

PREDICTORS = ("validation", *RANKS, *RELATIONS)
DROPS = ("new drawings", *NEW)
PROTECTING = (PRINCIPAL, "recoverability")
LEAST = {"full": 8, "quick": 2}
"""The fewest runs of a regime that are correlated."""
DRAWS = 2000


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
    told = correlations(list(by_regime.values()), PREDICTORS, DROPS, draws, against="validation")
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
            rows = {LABELS.get(name, name): Interval(**of["rho"]) for name, of in told[drop].items()}
            forest(rows, [look(place - 1) | {"marker": "o"} for place in range(len(rows))], ax)
            ax.set_xlim(-1.05, 1.05)
            panel_title(ax, f"drop: {drop}")
        for ax in axes[2:]:
            ax.set_xlabel("rank correlation with the drop")
        write(figure, result, out)
    return result


if __name__ == "__main__":
    asked = arguments(__doc__, "generalisation")
    found = main("quick" if asked.quick else "full", asked.folder, asked.out)
    print(f"rank protects: {found['verdict']}")
    for drop, by_name in found["correlations"].items():
        print(f"{drop}: " + ", ".join(f"{name} {of['rho']['value']:+.2f}" for name, of in by_name.items()))
