"""Prefix first, at once, or last? The paper finds parallel tuning worse than sequential in all cases; in miniature, order by order.

The embedded checkpoint is tuned on 1,024 captions as in ``claim.py``, 400 steps in all, five seeds, with each of three kinds X of
tuning (full, LoRA, adapter): *sequential* (the prefix, then X with the prefix still trained: PT-X), *parallel* (both at once) and
*reversed* (X, then the prefix with it). Rates are the defaults, and they differ: what is trained at once has the lowest rate of its kinds,
while a first stage that is a prefix has five to seventeen times that. So sequential tuning is also done at *one rate*, that of the
parallel recipe: then only the order differs, and that each stage has half of the steps. Besides, with full tuning and LoRA the prefix is *frozen* in stage two, and
with LoRA both orders are done with rows that are parameters themselves, *without the prefix encoder*.

DECISION RULES, written before the runs. A *difference* is that of two settings' means over seeds in CIDEr-D on held-out captions, with
Welch's interval at 95 % shared by all thirteen differences (Bonferroni). Each question is *supported in miniature* if each of its
differences lies above zero, *contradicted* if one lies below and none above, else *not decided*:

1. *Parallel is worse*: sequential less parallel, three kinds; this is the paper's. 2. *Parallel is worse at one rate*: the same with sequential
tuning at one rate. 3. *Reversed is worse*: sequential less reversed, three kinds. 4. *A frozen prefix is worse*: sequential less
frozen, two kinds. 5. *The encoder helps*: with less without, LoRA, sequential and parallel.

The same differences are told, and decide nothing, of the task loss, the loss on the look of pre-training, ranks, recoverability and drift
at ``decoder.final``. The untrained state of each setting is told beside them.

Asserted whatever comes out: a reversed recipe has moved nothing before it is trained; an untrained prefix with an encoder raises the
loss on the old look by no more than the bound of ``position_shift.py``; equal steps.

``python analyses/order.py``: sixteen settings, eighty trainings of about 50 s of a core: 33 minutes on two cores.
"""

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claim import KINDS, SIZES as CLAIM, STUDY
from findings import LABELS, Interval, arguments, decide, difference, forest, mean, write
from limited_scenes import BEFORE
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from position_shift import BOUND
from runs import RANKS, Setting, by_name, end, outcomes

from rankscope.plots.style import look, new_figure, panel_title, styled
from rankscope.tuning.recipes import recipe

ORDERS = {"sequential": "pt-{}", "parallel": "prefix+{}", "reversed": "{}-prefix"}
FROZEN, PLAIN = ("full", "lora"), ("lora",)
"""The kinds of tuning with which the prefix is frozen, and those with which it has no encoder."""
QUESTIONS = {
    "parallel is worse": ("sequential", "parallel"),
    "parallel is worse at one rate": ("sequential, one rate", "parallel"),
    "reversed is worse": ("sequential", "reversed"),
    "a frozen prefix is worse": ("sequential", "sequential, frozen"),
    "the encoder helps": ("sequential", "sequential, no encoder"),
    "the encoder helps at once": ("parallel", "parallel, no encoder"),
}
"""The two settings of each question, the first less the second."""
TOGETHER = {"the encoder helps at once": "the encoder helps"}
"""Questions that are decided as part of another."""
AT_ONCE = "at once"
DRAWN = {
    "parallel is worse": "sequential − parallel",
    "parallel is worse at one rate": "the same at one rate",
    "reversed is worse": "sequential − reversed",
    "a frozen prefix is worse": "trained − frozen prefix",
    "the encoder helps": "encoder − none",
}
"""How the figure calls the difference of each question."""
TOLD = ("score", "test", BEFORE, *RANKS, "recoverability", "drift")
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "questions": tuple(QUESTIONS),
        "kinds": KINDS,
        "training": 1024,
        "steps": 400,
        "seeds": (0, 1, 2, 3, 4),
        "study": STUDY,
    },
    "quick": {
        "questions": ("parallel is worse",),
        "kinds": ("lora",),
        "training": 16,
        "steps": 4,
        "seeds": (0,),
        "study": CLAIM["quick"]["study"],
    },
}


# %% The settings.
def settings(size: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting by its kind of tuning and its order."""
    made, wanted = {}, {order for question in size["questions"] for order in QUESTIONS[question]}
    for kind in size["kinds"]:
        rate = recipe(ORDERS["parallel"].format(kind)).stages[0].learning_rate
        options: dict[str, tuple[tuple[str, Any], ...]] = {"": (), ", one rate": (("learning_rate", rate),)}
        options |= {", frozen": (("freeze_prefix", True),)} if kind in FROZEN else {}
        options |= {", no encoder": (("prefix_projection", False),)} if kind in PLAIN else {}
        for order, method in ORDERS.items():
            for more, given in options.items():
                if f"{order}{more}" in wanted:
                    made[f"{kind}, {order}{more}"] = Setting(
                        method.format(kind), size["training"], size["steps"], options=given
                    )
    return made


# %% What they say.
def differences(ends: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> dict[str, dict[str, Interval]]:
    """The differences of one number, by question and kind of tuning."""
    pairs = {
        (question, kind): (f"{kind}, {ahead}", f"{kind}, {behind}")
        for question, (ahead, behind) in QUESTIONS.items()
        for kind in KINDS
        if f"{kind}, {ahead}" in ends and f"{kind}, {behind}" in ends
    }
    found: dict[str, dict[str, Interval]] = {}
    for (question, kind), (ahead, behind) in pairs.items():
        a, b = ([run[name] for run in ends[setting]] for setting in (ahead, behind))
        row = f"{kind}, {AT_ONCE}" if question in TOGETHER else kind
        found.setdefault(TOGETHER.get(question, question), {})[row] = difference(a, b, 1 - 0.05 / len(pairs))
    return found


def check(runs: Mapping[str, Sequence[Mapping[str, Any]]], base: Mapping[str, float]) -> None:
    """What must be so whatever comes out."""
    for name, several in runs.items():
        for run in several:
            first, last = run["looks"][0], run["looks"][-1]
            assert last["step"] == run["setting"]["steps"], f"{name} was not trained for as long as the others"
            if "reversed" in name:
                assert first["drift"] < 1e-9, f"{name} moves features before it is trained"
            elif "no encoder" not in name:
                raised = first[BEFORE] - base[BEFORE]
                assert raised <= BOUND[16], f"untrained, {name} raises the loss on the old look by {raised:.2f} nats"


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home = size["study"], folder / "scenes"
    base = outcomes(study, home, [Setting("base", 0, 0)], "the base")[0]
    asked = settings(size)
    runs = by_name(study, home, asked, size["seeds"], "orders")
    check(runs, base["looks"][0])
    ends = {name: [end(run) for run in several] for name, several in runs.items()}
    found = {name: differences(ends, name) for name in TOLD}
    told = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}, "samples": study.samples},
        "verdicts": {question: decide(of.values()) for question, of in found["score"].items()},
        "differences": found,
        "base": end(base),
        "untrained": {name: [run["looks"][0] for run in several] for name, several in runs.items()},
        "means": {name: {n: mean(run[n] for run in several) for n in TOLD} for name, several in ends.items()},
        "runs": ends,
    }
    with styled():
        write(draw(found), told, out)
    return told


# %% The figure.
def draw(found: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> Figure:
    """Every difference, question by question, of six numbers."""
    names = ("score", "test", BEFORE, RANKS[0], "recoverability", "drift")
    figure = new_figure(4.6)
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for ax, name in zip(axes, names, strict=True):
        rows = {
            (question, row): found[name][question][row] for question in found[name] for row in found[name][question]
        }
        forest(rows, [look(KINDS.index(row.split(",")[0])) for _, row in rows], ax)
        firsts = [i for i, (question, row) in enumerate(rows) if row == next(iter(found[name][question]))]
        labels = [DRAWN[question] if i in firsts else "" for i, (question, _) in enumerate(rows)]
        ax.set_yticklabels([AT_ONCE if row.endswith(AT_ONCE) else x for x, (_, row) in zip(labels, rows, strict=True)])
        for i in firsts[1:]:
            ax.axhline(i - 0.5, color="0.85", linewidth=0.5, zorder=0)
        panel_title(ax, LABELS[name])
    marks = [Line2D([], [], **(look(i) | {"linestyle": ""}), markersize=4, label=kind) for i, kind in enumerate(KINDS)]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(KINDS), frameon=False)
    return figure


if __name__ == "__main__":
    asked_for = arguments(__doc__, "order")
    result = main("quick" if asked_for.quick else "full", asked_for.folder, asked_for.out)
    for question, verdict in result["verdicts"].items():
        print(f"{question}: {verdict}")
