"""Tuned on captions, asked questions, and back: does PT-PEFT lose less of the task that it was not tuned on?

The embedded checkpoint, which was pre-trained on captions and questions in another look, is tuned on 1,024 captions as in ``claim.py`` or
on 1,024 questions about scenes limited alike, 400 steps, five seeds, at default rates, with full tuning, LoRA, prefix-tuning and the
sequential recipes PT-full and PT-LoRA. Each is then asked four things: held-out captions and questions in the look of tuning, and
captions and questions in the look of pre-training. That is a matrix of what was tuned by what is asked, of losses and of scores:
CIDEr-D of captions, and the share of right answers in per cent.

DECISION RULES, written before the runs. A *lead* is how much better PT-X is than X (full, LoRA): the difference of means over seeds
with Welch's interval, at 95 % shared by the leads of a question (Bonferroni). Each question is *supported in miniature* if all its leads lie
above zero, *contradicted* if one lies below and none above, else *not decided*:

1. *The other task, by loss*: that of X less that of PT-X on the task of the same look that was not tuned on; two kinds, two directions.
2. *The other task, by score*: the score of PT-X less that of X on it; four leads again. 3. *What pre-training knew, by loss*: that of X less that
of PT-X on both tasks in the old look; two kinds, two directions, two tasks.

Told besides, and deciding nothing: for every method, task tuned and task asked, the change from the base (mean over seeds with Student's
interval); whether each training lowered the held-out loss on its own task at one of its looks, for what learnt nothing has nothing
to transfer; and the losses of an untrained prefix, which are not tuning's doing.

Nothing is matched here: what learnt less of its task, as a recipe with half of its steps for each stage may, can have lost less of the
other for that alone. The change on the task tuned stands beside each.

Asserted whatever comes out: full tuning and LoRA move nothing before they are trained, and every method does after; an untrained prefix
raises the loss on captions in the old look by no more than the bound of ``position_shift.py``.

``python analyses/transfer.py``: ten settings. Those tuned on captions are made by ``order.py``, ``prefix_length.py`` and ``scst.py``;
twenty-five are tuned on questions at about 35 s of a core, and fifty are asked at about 10 s: 12 minutes on two cores.
"""

# %%
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from claim import METHODS as ALL, SIZES as CLAIM, STUDY
from findings import Interval, arguments, decide, difference, mean, write
from limited_scenes import BEFORE, data
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from position_shift import BOUND
from runs import Setting, Study, begun, by_name, held_out, in_processes, outcomes, score
from torch import nn

import rankscope
from rankscope.data import ProbeSet
from rankscope.data.scenes import scenes
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.writing import write_output

METHODS = ("full", "lora", "prefix", "pt-full", "pt-lora")
PAIRS = (("pt-full", "full"), ("pt-lora", "lora"))
TASKS = ("captions", "questions")
OTHER = {"captions": "questions", "questions": "captions"}
OLD = ("old captions", "old questions")
ASKED = (*TASKS, *OLD)
SCORES = {"captions": ("captions", "CIDEr-D"), "questions": ("answers", "accuracy")}
"""How each task is scored."""
SIZES: dict[str, dict[str, Any]] = {
    "full": {"methods": METHODS, "training": 1024, "steps": 400, "seeds": (0, 1, 2, 3, 4), "study": STUDY},
    "quick": {"methods": ("pt-lora",), "training": 16, "steps": 4, "seeds": (0,), "study": CLAIM["quick"]["study"]},
}
Matrix = Mapping[str, Mapping[str, float]]
"""The losses and the scores of a model, by what it is asked."""


# %% The data: captions are the study's, and questions are about scenes that are limited alike.
def questions(name: str, n: int) -> ProbeSet:
    """The data of the trainings on questions; what pre-training was good at is questions in its look."""
    return scenes("pretrain-questions", "test", n=n) if name == BEFORE else data(name, n, "questions")


def asked_of(name: str, n: int) -> ProbeSet:
    """What the models are asked, whatever they were tuned on."""
    if name in OLD:
        return scenes(f"pretrain-{name.removeprefix('old ')}", "test", n=n)
    return data("test", n, name)


def studies(study: Study) -> dict[str, Study]:
    """The study of each task that is tuned on."""
    about_questions = replace(study, data=questions, losses=(BEFORE,), score=SCORES["questions"])
    return {"captions": study, "questions": about_questions}


# %% What a model is asked.
def losses(study: Study, model: nn.Module) -> dict[str, float]:
    """The loss of a model on everything that is asked."""
    return {name: held_out(replace(study, data=asked_of), name, study.samples).loss(model) for name in ASKED}


def matrix(study: Study, folder: Path, checkpoint: Path | None = None) -> dict[str, dict[str, float]]:
    """The losses and scores of a training, or of another checkpoint, by what is asked; made once and kept in a folder."""
    kept, checkpoint = folder / "asked.json", checkpoint or folder / "checkpoint"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    found: dict[str, dict[str, float]] = {"losses": losses(study, rankscope.load_model(checkpoint)), "scores": {}}
    for name in ASKED:
        probes, how = asked_of(name, study.samples), SCORES[name.removeprefix("old ")]
        found["scores"][name] = score(checkpoint, probes, folder / f"asked {name}.jsonl", how)
    write_output(kept, json.dumps(found, indent=1).encode())
    return found


# %% What they say.
def leads(
    by_tuned: Mapping[str, Mapping[str, Sequence[Matrix]]], number: str, asked: Mapping[str, Sequence[str]]
) -> dict[str, Interval]:
    """How much better PT-X is than X on what is asked after each task was tuned on; ``number`` is ``losses`` or ``scores``."""
    count = len(PAIRS) * sum(map(len, asked.values()))
    sign = -1 if number == "losses" else 1
    found = {}
    for tuned, runs in by_tuned.items():
        for ahead, behind in PAIRS:
            if ahead not in runs or behind not in runs:
                continue
            for name in asked[tuned]:
                a, b = ([sign * run[number][name] for run in runs[method]] for method in (ahead, behind))
                found[f"{behind}, tuned on {tuned}, asked {name}"] = difference(a, b, 1 - 0.05 / count)
    return found


def questions_of_the_study(
    by_tuned: Mapping[str, Mapping[str, Sequence[Matrix]]],
) -> dict[str, dict[str, Interval]]:
    """The leads of each question at the top."""
    other, old = {tuned: (OTHER[tuned],) for tuned in TASKS}, dict.fromkeys(TASKS, OLD)
    return {
        "the other task, by loss": leads(by_tuned, "losses", other),
        "the other task, by score": leads(by_tuned, "scores", other),
        "what pre-training knew, by loss": leads(by_tuned, "losses", old),
    }


def changes(runs: Sequence[Matrix], base: Matrix) -> dict[str, dict[str, Interval]]:
    """How far the losses and scores of a method's seeds lie above the base's, by what is asked."""
    return {
        number: {name: mean(run[number][name] - base[number][name] for run in runs) for name in ASKED}
        for number in ("losses", "scores")
    }


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    homes = {"captions": folder / "scenes", "questions": folder / "questions"}
    base_setting = Setting("base", 0, 0)
    settings = {method: Setting(method, size["training"], size["steps"]) for method in size["methods"]}
    by_tuned: dict[str, dict[str, list[dict[str, Any]]]] = {}
    did: dict[str, dict[str, list[bool]]] = {}
    for tuned, study in studies(size["study"]).items():
        home = homes[tuned]
        outcomes(study, home, [base_setting], "the base")
        made = by_name(study, home, settings, size["seeds"], f"tuned on {tuned}")
        check(made)
        did[tuned] = {method: list(map(learnt, several)) for method, several in made.items()}
        places = {(m, seed): home / replace(s, seed=seed).name for m, s in settings.items() for seed in size["seeds"]}
        missing = [place for place in places.values() if not (place / "asked.json").exists()]
        if missing:
            in_processes(partial(matrix, size["study"]), missing, f"tuned on {tuned}, asked all")
        by_tuned[tuned] = {m: [matrix(size["study"], places[m, seed]) for seed in size["seeds"]] for m in settings}
    base = matrix(size["study"], homes["captions"] / base_setting.name, size["study"].base)
    untrained = losses(size["study"], begun(size["study"], Setting("prefix", size["training"], 1)))
    raised = untrained[OLD[0]] - base["losses"][OLD[0]]
    assert raised <= BOUND[16], f"an untrained prefix raises the loss on the old look by {raised:.2f} nats"
    found = questions_of_the_study(by_tuned)
    told = {
        "size": {
            "name": size_name,
            **{k: v for k, v in size.items() if k != "study"},
            "samples": size["study"].samples,
        },
        "verdicts": {question: decide(of.values()) for question, of in found.items()},
        "leads": found,
        "learnt": did,
        "changes": {tuned: {m: changes(of, base) for m, of in by.items()} for tuned, by in by_tuned.items()},
        "base": base,
        "untrained_prefix": untrained,
        "runs": by_tuned,
    }
    with styled():
        write(draw(by_tuned, base, untrained), told, out)
    return told


def check(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """What must be so whatever comes out."""
    for method, several in runs.items():
        for run in several:
            first, last = (run["looks"][i]["drift"] for i in (0, -1))
            assert last != first, f"{method} moves nothing"
            assert method not in ("full", "lora") or first < 1e-9, f"{method} moves features before it is trained"


def learnt(run: Mapping[str, Any]) -> bool:
    """Whether a training lowered the held-out loss on its own task at one of its looks; at the end it may have learnt too much."""
    first, *later = (x["validation"] for x in run["looks"])
    return bool(min(later) < first)


# %% The figure.
def draw(
    by_tuned: Mapping[str, Mapping[str, Sequence[Matrix]]], base: Matrix, untrained: Mapping[str, float]
) -> Figure:
    """Rows: what was tuned on; columns: the scores of both tasks, and the losses on what pre-training knew."""
    columns = {
        ("scores", "captions"): "captions, CIDEr-D",
        ("scores", "questions"): "questions, % right",
        ("losses", OLD[0]): f"{OLD[0]}, loss, nats",
        ("losses", OLD[1]): f"{OLD[1]}, loss, nats",
    }
    figure = new_figure(3.2)
    axes = figure.subplots(2, 4, sharex="col", sharey=True)
    for row, (tuned, runs) in zip(axes, by_tuned.items(), strict=True):
        for ax, ((number, name), title) in zip(row, columns.items(), strict=True):
            dots(ax, {method: [run[number][name] for run in several] for method, several in runs.items()})
            ax.axvline(base[number][name], **(look(-1) | {"linewidth": 0.8, "zorder": 0}), label="pre-trained")
            if number == "losses":
                ax.axvline(untrained[name], color="0.5", linestyle=":", linewidth=0.8, label="untrained prefix")
            if tuned == TASKS[0]:
                panel_title(ax, title)
        row[0].set_ylabel(f"tuned on {tuned}")
    legend(figure)
    return figure


def dots(ax: Axes, by_method: Mapping[str, Sequence[float]]) -> None:
    """The mean over seeds of each method with Student's interval."""
    for y, (method, values) in enumerate(by_method.items()):
        style, found = look(ALL.index(method)), mean(values)
        ax.plot(found.value, y, marker=style["marker"], color=style["color"], markersize=4)
        if found.low is not None and found.high is not None:
            ax.hlines(y, found.low, found.high, color=style["color"], linewidth=1)
    ax.set(yticks=range(len(by_method)), yticklabels=list(by_method), ylim=(len(by_method) - 0.5, -0.5))
    ax.locator_params(axis="x", nbins=4)


if __name__ == "__main__":
    asked_for = arguments(__doc__, "transfer")
    result = main("quick" if asked_for.quick else "full", asked_for.folder, asked_for.out)
    for question, verdict in result["verdicts"].items():
        print(f"{question}: {verdict}")
