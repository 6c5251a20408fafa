"""Which change of the weights goes with a turn of the features?

Over all runs of the studies before this one that were tuned on captions by cross-entropy alone and whose weights were changed (LoRA and
all weights, with a prefix or without; ``claim.py``, ``order.py``, ``prefix_length.py``, ``scst.py``, ``transfer.py``), within each number
of training captions. Of every matrix that changed, ``rankscope weights --data`` tells how large the change is, how
far it shifted the spectrum, turned the leading singular vectors and made intruders, how much of it bfloat16 would show, how many
directions it has, and what it does to the inputs that occur on 100 held-out scenes: the effective rank of ΔW·Σ^½ and its share of
the output. A run's number is the mean over its matrices. Of the features, at ``decoder.final`` on validation scenes: overlap and
recoverability (smaller: turned, lost), drift, and the change of the participation ratio.

DECISION RULES, written before the runs. ρ is Spearman's, within regimes, with intervals over settings, as in ``generalisation.py``.

1. *The weights tell the turn* is supported in miniature if the size of the change goes with overlap, larger with smaller, beyond
   its interval; contradicted if the other way; else not decided.
2. *Intruders tell forgetting* (Shuttleworth et al. 2410.21228 report ρ = 0.97 between their number and forgetting) likewise, of intruders
   and the loss on the look of pre-training, more with higher.
3. *Only both together tell*: for overlap, the share of the output on data beats the size of the change: the interval of the
   difference of their |ρ| lies above zero; contradicted if below; else not decided.

``python analyses/weights_and_features.py``: ten minutes on two cores, once the others have run.
"""

# %%
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from claim import PRINCIPAL, STUDY
from correlating import Table, correlations
from findings import Interval, arguments, decide, forest, write
from limited_scenes import BEFORE, data
from runs import in_processes

import rankscope
from rankscope.plots.style import look, new_figure, panel_title, styled
from rankscope.writing import write_output

SIZE, SHARE, INTRUDERS = "size", "on_data_share", "intruders"
COLUMNS = (
    SIZE,
    "spectral_shift",
    "rotation_left",
    "rotation_right",
    INTRUDERS,
    "bf16_moved",
    "effective",
    "on_data_effective",
    SHARE,
)
"""The columns of ``rankscope weights`` that are correlated, the size of the change first: it is what the others are to beat."""
FEATURES = ("overlap", "recoverability", "drift", PRINCIPAL, BEFORE)
KINDS = ("full", "lora")
"""The kinds of tuning that change weights."""
LEAST = {"full": 8, "quick": 2}
"""The fewest runs of a regime that are correlated."""
DRAWS = 2000


# %% The weights of a run.
def of_weights(samples: int, folder: Path) -> dict[str, float]:
    """The columns of one checkpoint, each a mean over the matrices that changed; kept beside it."""
    kept = folder / f"weights-{samples}.json"
    if not kept.exists():
        report = rankscope.weigh(folder / "checkpoint", data=data("test", samples), draws=0)
        found = defaultdict(list)
        for record in report.to_records():
            for column in COLUMNS if record["kind"] in KINDS else ():
                if record[column] is not None:
                    found[column].append(record[column])
        write_output(kept, json.dumps({column: fmean(found[column]) for column in COLUMNS}).encode())
    return dict(json.loads(kept.read_text()))


def changed(home: Path) -> dict[Path, dict[str, Any]]:
    """The trained runs whose weights changed and nothing else that an adapter adds, by their folders."""
    found = {}
    for file in sorted(home.glob("*/outcome.json")):
        run = json.loads(file.read_text())
        kinds = set(run["setting"]["method"].replace("pt-", "prefix,").replace("-", ",").replace("+", ",").split(","))
        if not run["setting"]["searched"] and kinds & set(KINDS) and kinds <= {*KINDS, "prefix"}:
            found[file.parent] = run
    return found


def tables(found: Mapping[Path, Mapping[str, Any]], samples: int, least: int) -> dict[int, Table]:
    """Weights and features of all runs, by the number of training captions."""
    weights = in_processes(partial(of_weights, samples), list(found), "weights")
    columns: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    settings: dict[str, int] = {}
    for run, of in zip(found.values(), weights, strict=True):
        here = columns[run["setting"]["training"]]
        for name in COLUMNS:
            here[name].append(of[name])
        for name in FEATURES:
            here[name].append(run["looks"][-1][name])
        key = json.dumps(run["setting"] | {"seed": None})
        here["setting"].append(settings.setdefault(key, len(settings)))
    arrays = {n: {name: np.array(values) for name, values in of.items()} for n, of in sorted(columns.items())}
    return {n: of for n, of in arrays.items() if len(of["setting"]) >= least}


# %% What the rules say.
def verdicts(told: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """The three verdicts, by the rules at the top."""
    turn, forgetting, both = (
        Interval(**of)
        for of in (told["overlap"][SIZE]["rho"], told[BEFORE][INTRUDERS]["rho"], told["overlap"][SHARE]["beyond"])
    )
    return {
        "the weights tell the turn": decide([Interval(-turn.value, _less(turn.high), _less(turn.low))]),
        "intruders tell forgetting": decide([forgetting]),
        "only both together tell": decide([both]),
    }


def _less(value: float | None) -> float | None:
    return None if value is None else -value


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Weigh, correlate, decide, write the figure and its JSON, and return what they tell."""
    samples, draws = (STUDY.watched, DRAWS) if size_name == "full" else (8, 20)
    by_regime = tables(changed(folder / "scenes"), samples, LEAST[size_name])
    if not by_regime:
        raise SystemExit("there are no runs to weigh; run claim.py first, with the same --folder")
    told = correlations(list(by_regime.values()), COLUMNS, FEATURES, draws, against=SIZE)
    result = {
        "size": {"name": size_name, "runs": {n: len(t["setting"]) for n, t in by_regime.items()}, "draws": draws},
        "verdicts": verdicts(told),
        "correlations": told,
        "tables": {n: {name: column.tolist() for name, column in t.items()} for n, t in by_regime.items()},
    }
    with styled():
        figure = new_figure(4.8)
        axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
        shown: Sequence[tuple[str, str]] = (
            ("overlap", "overlap"),
            ("recoverability", "recoverability"),
            (PRINCIPAL, "participation ratio"),
            (BEFORE, "loss on the old look"),
        )
        for ax, (name, title) in zip(axes, shown, strict=True):
            rows = {column.replace("_", " "): Interval(**of["rho"]) for column, of in told[name].items()}
            forest(rows, [look(0) | {"marker": "o"}] * len(rows), ax)
            ax.set_xlim(-1.05, 1.05)
            panel_title(ax, title)
        for ax in axes[2:]:
            ax.set_xlabel("rank correlation")
        write(figure, result, out)
    return result


if __name__ == "__main__":
    asked = arguments(__doc__, "weights_and_features")
    found = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for name, verdict in found["verdicts"].items():
        print(f"{name}: {verdict}")
