"""Cross-entropy, or cross-entropy and then SCST? What a reward for whole captions does to the score, and to the features.

The embedded checkpoint is tuned on 1,024 captions as in ``claim.py``, 400 steps in all, five seeds, with full tuning, LoRA and PT-LoRA:
by cross-entropy to the end, or with the last hundred steps of self-critical training (CIDEr-D of five sampled captions an image as the
reward) at the default rate of such a stage, 0.03 of the first stage's. As that is a choice of this tool's, LoRA is also rewarded at ten times
this rate. Steps are equal and time is not: a step of SCST samples 80 captions and takes ten times as long.

DECISION RULES, written before the runs. A *difference* is that of the means over seeds with Welch's interval, at 95 % shared by the four
pairs of a question (Bonferroni). Each is *supported in miniature* if all four lie above zero, *contradicted* if one lies below and none above,
else *not decided*:

1. *SCST scores higher*: CIDEr-D with SCST less without, on held-out captions. 2. *SCST lowers the rank* (others found that of
reinforcement): participation ratio at ``decoder.final`` without less with. 3. *SCST forgets less*: loss on the look of pre-training without
less with. 4. *SCST keeps more*: recoverability with less without.

Told besides, and deciding nothing: the same of the other numbers; and what the last hundred steps did by themselves, from the look at step
300 to that at step 400 of the same training (mean over seeds with Student's interval), with and without the reward: where these are
about zero the reward moved nothing, and a verdict says nothing of SCST at other rates.

Asserted whatever comes out: equal steps; the task loss falls before SCST begins, which is what it begins with.

``python analyses/scst.py``: seven settings, thirty-five trainings (five made by ``order.py``), of about 50 s of a core; the twenty with a
hundred steps of SCST take 2.2 times as long, as one of each was measured: 25 minutes on two cores.
"""

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claim import METHODS as ALL, SIZES as CLAIM, STUDY
from findings import LABELS, Interval, arguments, decide, difference, forest, mean, write
from limited_scenes import BEFORE
from matplotlib.figure import Figure
from runs import RANKS, Setting, by_name, end, outcomes, recipe_of, shares

from rankscope.plots.style import look, new_figure, panel_title, styled
from rankscope.tuning.recipes import METHODS, recipe

LAST = 4
"""The reward has one step in so many, the last ones."""
FASTER = 10
"""The factor of the rate of the second arm with LoRA."""
CLAIMS = {
    "SCST scores higher": ("score", 1),
    "SCST lowers the rank": (RANKS[0], -1),
    "SCST forgets less": (BEFORE, -1),
    "SCST keeps more": ("recoverability", 1),
}
"""The number of each question, and the sign with which SCST is expected to move it."""
TOLD = ("score", "test", BEFORE, *RANKS, "recoverability", "drift")
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "methods": ("full", "lora", "pt-lora"),
        "faster": ("lora",),
        "training": 1024,
        "steps": 400,
        "seeds": (0, 1, 2, 3, 4),
        "study": STUDY,
    },
    "quick": {
        "methods": ("pt-lora",),
        "faster": (),
        "training": 16,
        "steps": 4,
        "seeds": (0,),
        "study": CLAIM["quick"]["study"],
    },
}


# %% The settings.
def settings(size: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting by the name of its pair, and whether it ends with SCST."""
    made = {}
    for method in size["methods"]:
        plain = Setting(method, size["training"], size["steps"])
        rewarded = f"{METHODS[method]},scst"
        last = size["steps"] // LAST
        steps = (*shares(size["steps"] - last, len(recipe(method).stages)), last)
        rates = tuple(stage.learning_rate for stage in recipe(rewarded).stages)
        given = {method: (("steps", steps),)}
        if method in size["faster"]:
            faster = ("learning_rate", (*rates[:-1], FASTER * rates[-1]))
            given[f"{method}, {FASTER} times the rate"] = (faster, ("steps", steps))
        made[f"{method}: cross-entropy"] = plain
        made |= {
            f"{name}: scst": Setting(rewarded, size["training"], size["steps"], options=options)
            for name, options in given.items()
        }
    return made


# %% What they say.
def differences(ends: Mapping[str, Sequence[Mapping[str, float]]], name: str, sign: int = 1) -> dict[str, Interval]:
    """A number with SCST less that without, or the other way round, by pair."""
    pairs = {x.removesuffix(": scst"): x for x in ends if x.endswith(": scst")}
    found = {}
    for pair, rewarded in pairs.items():
        plain = f"{pair.split(',')[0]}: cross-entropy"
        a, b = ([sign * run[name] for run in ends[of]] for of in (rewarded, plain))
        found[pair] = difference(a, b, 1 - 0.05 / len(pairs))
    return found


def last_steps(run: Mapping[str, Any]) -> dict[str, float]:
    """What the steps that SCST has, or would have, did to each number: from the look before them to the last."""
    steps = run["setting"]["steps"]
    before = next(x for x in run["looks"] if x["step"] == steps - steps // LAST)
    after = run["looks"][-1]
    assert after["step"] == steps, "a training was not as long as the others"
    return {name: after[name] - before[name] for name in after}


def check(asked: Mapping[str, Setting], runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """What must be so whatever comes out."""
    for name, setting in asked.items():
        given = sum(stage.steps for stage in recipe_of(setting).stages)
        assert given in (0, setting.steps), f"{name} has {given} steps"
        for run in runs[name]:
            first, last = (run["looks"][i]["validation"] for i in (0, -1))
            assert last - last_steps(run)["validation"] < first, f"{name} learnt nothing before its last steps"


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home = size["study"], folder / "scenes"
    base = outcomes(study, home, [Setting("base", 0, 0)], "the base")[0]
    asked = settings(size)
    runs = by_name(study, home, asked, size["seeds"], "cross-entropy and SCST")
    check(asked, runs)
    ends = {name: [end(run) for run in several] for name, several in runs.items()}
    moved = {name: [last_steps(run) for run in several] for name, several in runs.items()}
    told = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}, "samples": study.samples},
        "verdicts": {claim: decide(differences(ends, *of).values()) for claim, of in CLAIMS.items()},
        "scst less cross-entropy": {name: differences(ends, name) for name in TOLD},
        "last steps": {
            name: {n: mean(run[n] for run in several) for n in several[0] if n != "step"}
            for name, several in moved.items()
        },
        "means": {name: {n: mean(run[n] for run in several) for n in TOLD} for name, several in ends.items()},
        "base": end(base),
        "untrained": {name: [run["looks"][0] for run in several] for name, several in runs.items()},
        "runs": ends,
    }
    with styled():
        write(draw(told), told, out)
    return told


# %% The figure.
def draw(told: Mapping[str, Any]) -> Figure:
    """SCST less cross-entropy, of six numbers."""
    figure = new_figure(2.9)
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for ax, name in zip(axes, ("score", "test", BEFORE, RANKS[0], "recoverability", "drift"), strict=True):
        found = told["scst less cross-entropy"][name]
        forest(found, [look(ALL.index(pair.split(",")[0])) for pair in found], ax)
        panel_title(ax, LABELS[name])
    figure.supxlabel("with SCST less cross-entropy alone", fontsize=8)
    return figure


if __name__ == "__main__":
    asked_for = arguments(__doc__, "scst")
    result = main("quick" if asked_for.quick else "full", asked_for.folder, asked_for.out)
    for claim, verdict in result["verdicts"].items():
        print(f"{claim}: {verdict}")
