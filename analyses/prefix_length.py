"""How long a prefix has to be: from 1 to 64 rows, by itself and before LoRA. The paper finds about 16 rows enough.

The embedded checkpoint is tuned on 1,024 captions as in ``claim.py``, 400 steps, five seeds, with prefixes of 1, 2, 4, 8, 16, 32 and 64
rows, by prefix-tuning and by PT-LoRA, at default rates. A longer prefix has more parameters and, untrained, disturbs more: the untrained
state of each length is told beside the trained one. The *effective number of rows* is the exponential of the entropy of the prefix's
normalised singular values, about the origin: n rows that are alike count as one.

DECISION RULE, written before the runs. A method *saturates* at the smallest length whose mean CIDEr-D on held-out captions lies within
the seeds' spread of that of the best length; the spread is the range of the seeds of one length (largest less smallest), on average over
lengths. Its interval draws the seeds of each length anew (2,000 draws; the 2.5 % and 97.5 % quantiles, which are lengths). The paper's number, for which 8 to 32 is
taken, is *supported in miniature* if the intervals of both methods lie within these lengths; *contradicted* if one lies wholly outside and none within;
else *not decided*.

Told besides, and deciding nothing: whether the score rises at all (longest less shortest, Welch's interval); task loss, loss on the look
of pre-training, rank, recoverability and drift at ``decoder.final``; and the effective number of rows before and after.

Asserted whatever comes out: an untrained prefix raises the loss on the old look by no more than the bound of ``position_shift.py`` for
its length; the effective number of rows lies between one and the length.

``python analyses/prefix_length.py``: fourteen settings, seventy trainings of about 45 s of a core (five of them made by ``order.py``):
26 minutes on two cores.
"""

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim import METHODS as ALL, SIZES as CLAIM, STUDY
from findings import CONTRADICTED, LABELS, SUPPORTED, UNDECIDED, Interval, arguments, difference, mean, write
from limited_scenes import BEFORE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from position_shift import BOUND
from runs import RANKS, Setting, begun, by_name, end, outcomes
from torch import nn

import rankscope
from rankscope.measures.effective_rank import effective_rank
from rankscope.models.tunings.prefix_live import prefix_of
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.tuning.recipes import recipe

METHODS = ("prefix", "pt-lora")
ENOUGH = (8, 32)
"""What is taken for the paper's sixteen rows."""
DRAWS = 2000
TOLD = ("score", "test", BEFORE, *RANKS, "recoverability", "drift")
ROWS = "effective rows"
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "methods": METHODS,
        "lengths": (1, 2, 4, 8, 16, 32, 64),
        "training": 1024,
        "steps": 400,
        "seeds": (0, 1, 2, 3, 4),
        "study": STUDY,
    },
    "quick": {
        "methods": ("pt-lora",),
        "lengths": (4, 16),
        "training": 16,
        "steps": 4,
        "seeds": (0,),
        "study": CLAIM["quick"]["study"],
    },
}
Scores = Mapping[int, Sequence[float]]
"""The scores of the seeds, by length."""


# %% The settings, and what is read of a prefix itself.
def settings(size: Mapping[str, Any]) -> dict[tuple[str, int], Setting]:
    """Every setting by its method and length; the default length is not written out, so that others find these trainings."""
    default = recipe("prefix").options["prefix"].length
    return {
        (method, n): Setting(
            method, size["training"], size["steps"], options=() if n == default else (("prefix_length", n),)
        )
        for method in size["methods"]
        for n in size["lengths"]
    }


def effective_rows(model: nn.Module) -> float:
    """The effective number of rows of the one prefix of a model."""
    prefix = prefix_of(model)
    assert prefix is not None
    (table,) = prefix.tables().values()
    found = float(effective_rank(torch.linalg.svdvals(table.detach().double())))
    assert 1 - 1e-9 <= found <= len(table) + 1e-9, f"{found} effective rows of {len(table)}"
    return found


# %% The rule.
def saturation(scores: Scores, spread: float) -> int:
    """The smallest length whose mean score is within a spread of the best."""
    means = {n: float(np.mean(values)) for n, values in scores.items()}
    return min(n for n, value in means.items() if value >= max(means.values()) - spread)


def spread_of(scores: Scores) -> float:
    """The range of the seeds of one length, on average over lengths."""
    return float(np.mean([np.ptp(values) for values in scores.values()]))


def saturates(scores: Scores) -> Interval:
    """Where the score saturates, with its interval over seeds; no interval of a single seed. The spread stays as it was found."""
    spread, random = spread_of(scores), np.random.default_rng(0)
    value = saturation(scores, spread)
    if min(len(values) for values in scores.values()) < 2:
        return Interval(value, None, None)
    drawn = [
        saturation({n: random.choice(values, len(values)) for n, values in scores.items()}, spread)
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Interval(value, float(low), float(high))


def verdict(found: Sequence[Interval]) -> str:
    """What the methods' saturations say of the paper's number, by the rule at the top."""
    least, most = ENOUGH
    ends = [(i.low, i.high) for i in found if i.low is not None and i.high is not None]
    within = [least <= low and high <= most for low, high in ends]
    outside = [high < least or low > most for low, high in ends]
    if len(ends) == len(found) and all(within):
        return SUPPORTED
    return CONTRADICTED if any(outside) and not any(within) else UNDECIDED


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home, seeds = size["study"], folder / "scenes", size["seeds"]
    base = outcomes(study, home, [Setting("base", 0, 0)], "the base")[0]
    asked = settings(size)
    runs = by_name(study, home, {f"{method}, {n}": s for (method, n), s in asked.items()}, seeds, "prefix lengths")
    ends: dict[str, dict[int, list[dict[str, float]]]] = {method: {} for method in size["methods"]}
    starts: dict[str, dict[int, list[dict[str, float]]]] = {method: {} for method in size["methods"]}
    for (method, n), setting in asked.items():
        several = [replace(setting, seed=seed) for seed in seeds]
        made = list(zip(several, runs[f"{method}, {n}"], strict=True))
        for _, run in made:
            raised = run["looks"][0][BEFORE] - base["looks"][0][BEFORE]
            assert raised <= BOUND.get(n, inf), (
                f"untrained, {n} rows raise the loss on the old look by {raised:.2f} nats"
            )
        starts[method][n] = [run["looks"][0] | {ROWS: effective_rows(begun(study, one))} for one, run in made]
        trained = [rankscope.load_model(home / one.name / "checkpoint") for one in several]
        ends[method][n] = [
            end(run) | {ROWS: effective_rows(model)} for (_, run), model in zip(made, trained, strict=True)
        ]
    scores = {method: {n: [run["score"] for run in of] for n, of in by.items()} for method, by in ends.items()}
    saturated = {method: saturates(by) for method, by in scores.items()}
    least, most = min(size["lengths"]), max(size["lengths"])
    told = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}, "samples": study.samples},
        "verdict": verdict(list(saturated.values())),
        "saturates": saturated,
        "spread": {method: spread_of(by) for method, by in scores.items()},
        "longest less shortest": {method: difference(by[most], by[least]) for method, by in scores.items()},
        "means": {
            method: {n: {name: mean(run[name] for run in of) for name in (*TOLD, ROWS)} for n, of in by.items()}
            for method, by in ends.items()
        },
        "base": end(base),
        "untrained": starts,
        "runs": ends,
    }
    with styled():
        write(draw(told), told, out)
    return told


# %% The figure.
def draw(told: Mapping[str, Any]) -> Figure:
    """Six numbers against the length; where the score saturates; and the untrained prefix."""
    figure, first = new_figure(4.4), next(iter(told["runs"]))
    axes = figure.subplots(2, 3).ravel()
    for ax, name in zip(axes, ("score", "test", BEFORE, RANKS[0], "recoverability", ROWS), strict=True):
        for method in told["runs"]:
            line(told["runs"][method], name, ax, look(ALL.index(method)), method)
        if name in told["untrained"][first][min(told["untrained"][first])][0]:
            line(told["untrained"][first], name, ax, {"color": "0.5", "linestyle": ":", "marker": "x"}, "untrained")
        lengths = list(told["runs"][first])
        if name == ROWS:
            ax.plot(lengths, lengths, color="0.7", linewidth=0.6, label="as many as there are")
            ax.set(yscale="log", yticks=lengths, yticklabels=lengths)
            ax.minorticks_off()
        elif name in (BEFORE, RANKS[0]):
            ax.axhline(told["base"][name], **(look(-1) | {"linewidth": 0.8}), label="pre-trained")
        ax.set(xscale="log", xticks=lengths, xticklabels=lengths, xlabel="rows of the prefix")
        ax.minorticks_off()
        panel_title(ax, LABELS.get(name, name))
    for place, (method, at) in enumerate(told["saturates"].items()):
        style = {"color": look(ALL.index(method))["color"], "marker": "^", "markersize": 4, "linestyle": ""}
        label = "" if place else "saturates"
        axes[0].plot(at.value, 0.03 + 0.06 * place, **style, label=label, transform=axes[0].get_xaxis_transform())
    legend(figure)
    return figure


def line(
    by_length: Mapping[int, Sequence[Mapping[str, float]]], name: str, ax: Axes, style: Mapping[str, Any], label: str
) -> None:
    """A number against the length: means over seeds with Student's intervals."""
    found = {n: mean(run[name] for run in several) for n, several in by_length.items()}
    ax.plot(list(found), [m.value for m in found.values()], **(dict(style) | {"markersize": 3}), label=label)
    for n, m in found.items():
        if m.low is not None and m.high is not None:
            ax.vlines(n, m.low, m.high, color=style["color"], linewidth=0.8)


if __name__ == "__main__":
    asked_for = arguments(__doc__, "prefix_length")
    result = main("quick" if asked_for.quick else "full", asked_for.folder, asked_for.out)
    print(f"about sixteen rows are enough: {result['verdict']}")
    for tuned, place in result["saturates"].items():
        print(f"{tuned} saturates at {place.value} rows [{place.low}, {place.high}]")
