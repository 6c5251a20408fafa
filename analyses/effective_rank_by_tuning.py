"""Does rank fall under full, LoRA and adapter tuning, and stay under prefix-tuning and PT-PEFT? In miniature, with the honest sign.

The embedded checkpoint is tuned on captions of scenes in a look that its pre-training did not have, by every method and with
several seeds; features are read at every site on held-out captions. Every method has the same number of steps; those of two
stages spend half on each.

DECISION RULE, written before the runs. For each of the two numbers in ``DECIDING``, at ``decoder.final`` (the last hidden
states, as in the paper's Figure 4), a method's *change* is its value less that of the pre-trained model, with a 95 % interval
over seeds and samples. The margin is the largest retraining floor of any method: how far two trainings of one recipe may lie
apart. Then

- the rank **falls** if the whole interval is below zero and the change is below minus the margin; it **rises** if the mirror
  image holds;
- it is **kept** if the whole interval lies inside the margin (two one-sided tests at 2.5 %);
- otherwise the finding is **inconclusive**.

The paper's claim is *supported in miniature* if the rank falls under full, LoRA and adapter, and is kept (or rises) under
prefix, PT-full, PT-LoRA and PT-adapter; *contradicted* if it rises under one of the first, or falls under one of the second;
and *not decided* otherwise. Falling is not called worse: what was lost is asked of recoverability and of the scores.

Before anything is said of prefixes, the script asserts that an untrained one leaves the look of pre-training within the bound of
``position_shift.py``: on the checkpoint of 0.1.0 it did not, and what was reported of prefixes then is withdrawn.

Run ``python analyses/effective_rank_by_tuning.py`` (about two hours on two cores, resumable run by run) or with ``--quick``.
"""

# %%
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from position_shift import BOUND, untrained

import rankscope
from rankscope.measures.pt_peft import curves_of_samples
from rankscope.plots.along import Line, along, plain
from rankscope.plots.style import look, new_figure, panel_title, save, styled
from rankscope.tuning import held_out_loss
from rankscope.tuning.recipes import recipe
from rankscope.tuning.record import versions

METHODS = ("full", "lora", "adapter", "prefix", "pt-full", "pt-lora", "pt-adapter", "prefix+lora")
FALLING, KEEPING = ("full", "lora", "adapter"), ("prefix", "pt-full", "pt-lora", "pt-adapter")
DECIDING = ("pt-peft", "participation-ratio-clustered")
RANKS = (*DECIDING, "roy-vetterli")
RELATIONS = ("recoverability", "overlap", "cka", "drift")
TASK = "scenes:captions/{}"
LOSSES = {"task": TASK.format("test"), "before": "scenes:pretrain-captions/test", "other": "scenes:questions/test"}
"""The data of each held-out loss: the task, the look before, and the other task."""
LAST = "decoder.final"
SIZES: dict[str, dict[str, Any]] = {
    "full": {"steps": 1000, "seeds": (0, 1, 2, 3, 4), "training": 4000, "samples": 400, "groups": 20},
    "quick": {"steps": 8, "seeds": (0, 1, 2), "training": 64, "samples": 24, "groups": 6},
}
Scores = dict[str, float]


# %% The untrained state.
def before_training(size: Mapping[str, Any]) -> dict[str, Scores]:
    """The held-out losses without a prefix and with one as training begins with it; the second are close to the first, or it ends."""
    checkpoint, n, rows = rankscope.embedded_checkpoint(), size["samples"], recipe("prefix").options["prefix"].length
    model = rankscope.load_model(checkpoint)
    base = {name: held_out_loss(checkpoint, f"{of}?n={n}", model=model) for name, of in LOSSES.items()}
    prefix = untrained(checkpoint, n, rows, recipe("prefix").options["prefix"].init, 0, model)
    raised = prefix["old look"] - base["before"]
    assert raised <= BOUND[rows], f"an untrained prefix raises the loss on the old look by {raised:.2f} nats"
    return {"base": base, "untrained prefix": prefix}


# %% One training: its features and its scores, made once and then found in its folder.
def tuned(method: str, seed: int, size: Mapping[str, Any], folder: Path) -> tuple[Path, Scores]:
    """The run of one training, and its scores."""
    out = folder / f"{method}-s{seed}"
    run, kept = out / "run.safetensors", out / "scores.json"
    if kept.exists():
        return run, json.loads(kept.read_text())
    checkpoint = rankscope.embedded_checkpoint()
    if method != "base":
        stages = 2 if method.startswith("pt-") else 1
        checkpoint = out / "checkpoint"
        rankscope.train(
            rankscope.embedded_checkpoint(),
            method=method,
            data=f"{TASK.format('train')}?n={size['training']}",
            out=checkpoint,
            seed=seed,
            steps=size["steps"] // stages,
            resume=checkpoint.exists(),
        )
    data = f"{TASK.format('test')}?n={size['samples']}"
    rankscope.collect(checkpoint, data, rows="tokens", out=run, name=out.name, overwrite=True)
    said = rankscope.generate(checkpoint, data, out=out / "predictions.jsonl", overwrite=True)
    score = rankscope.score({p.id: p.text for p in said}, data, kind="captions", metrics=["CIDEr-D"])
    losses = {name: held_out_loss(checkpoint, f"{of}?n={size['samples']}") for name, of in LOSSES.items()}
    scores = {"seed": seed, "cider": score["CIDEr-D"], **losses}
    kept.write_text(json.dumps(scores))
    return run, scores


# %% What the runs say together.
def finding(change: Mapping[str, float | None], margin: float) -> str:
    """falls, rises, kept or inconclusive, by the rule at the top."""
    value, low, high = (change[k] for k in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "inconclusive"
    if high < 0 and value < -margin:
        return "falls"
    if low > 0 and value > margin:
        return "rises"
    return "kept" if -margin < low and high < margin else "inconclusive"


def verdict(findings: Mapping[str, str]) -> str:
    """What the findings say of the paper's claim, by the rule at the top."""
    if any(findings[m] == "rises" for m in FALLING) or any(findings[m] == "falls" for m in KEEPING):
        return "contradicted"
    fell, stayed = (findings[m] == "falls" for m in FALLING), (findings[m] in ("kept", "rises") for m in KEEPING)
    return "supported in miniature" if all(fell) and all(stayed) else "not decided"


def summary(
    base: tuple[Path, Scores], arms: Mapping[str, Sequence[tuple[Path, Scores]]], groups: int
) -> dict[str, Any]:
    """Everything that the figure draws."""
    runs = {"base": [base], **arms}
    contrast = rankscope.compare_arms(
        {name: [run for run, _ in several] for name, several in arms.items()},
        base=base[0],
        measures=[*RANKS, *RELATIONS],
        groups=groups,
    )
    deciding = {
        m: {r["arm"]: r for r in contrast.to_records() if (r["measure"], r["site"]) == (m, LAST)} for m in RANKS
    }
    margins = {m: max(deciding[m][name]["floor"] for name in arms) for m in RANKS}
    findings = {m: {name: finding(deciding[m][name], margins[m]) for name in arms} for m in RANKS}
    return {
        "margins": margins,
        "findings": findings,
        "verdicts": {m: verdict(findings[m]) for m in DECIDING},
        "scores": {name: [scores for _, scores in several] for name, several in runs.items()},
        "curves": {name: mean_curve([run for run, _ in several]) for name, several in runs.items()},
        "ranks": {name: [last_rank(run) for run, _ in several] for name, several in runs.items()},
        "notes": contrast.notes,
        "records": [r for r in contrast.to_records() if r["arm"] in arms or r["site"] == LAST],
    }


def last_rank(run: Path) -> float:
    """The second deciding number of one run, at the last hidden states."""
    return rankscope.profile(rankscope.load(run), DECIDING[1], sites=LAST).records[0].value


def mean_curve(runs: Sequence[Path]) -> list[float]:
    """The cumulative curve that the paper draws: the mean over samples, at equal fractions of their length."""
    opened = [rankscope.load(run) for run in runs]
    curves = [curves_of_samples(run.features(LAST), run.rows_at(LAST).sample).mean(0) for run in opened]
    return torch.stack(curves).mean(0).tolist()


# %% The figure.
def draw(told: Mapping[str, Any], stem: Path) -> None:
    """Figure 4 in miniature, rank and recoverability along the sites, and what they go with."""
    names = [name for name in told["curves"] if name != "base"]
    with styled():
        figure = new_figure(7.2)
        axes = figure.subplots(3, 2).ravel()
        figure_four(told["curves"], names, axes[0])
        for ax, measure in zip(axes[1:4], (*DECIDING, "recoverability"), strict=True):
            panel(told["records"], names, measure, ax)
        against(told, names, axes[4], "cider", "CIDEr-D on held-out captions")
        against(told, names, axes[5], "before", "loss on the old look, nats")
        axes[0].legend(frameon=False, ncols=2, loc="lower right")
    save(figure, stem, kinds=["svg"])


def figure_four(curves: Mapping[str, Sequence[float]], names: Sequence[str], ax: Axes) -> None:
    for name, curve in curves.items():
        style = look(names.index(name) if name in names else -1) | {"marker": ""}
        ax.plot([100 * (i + 1) / len(curve) for i in range(len(curve))], curve, label=name, **style)
    ax.axhline(0.9, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlim=(0, 100), ylim=(0, 1.01), xlabel="directions, % of min(L, d)", ylabel="cumulative share of Σσ")
    panel_title(ax, f"{LAST}, mean over samples")


def panel(records: Sequence[Mapping[str, Any]], names: Sequence[str], measure: str, ax: Axes) -> None:
    mine = [r for r in records if r["measure"] == measure and r["site"].startswith("decoder.")]
    by_arm = {name: [r for r in mine if r["arm"] == name] for name in names}
    lines = [
        Line(name, *(plain(r[k] for r in found) for k in ("value", "low", "high"))) for name, found in by_arm.items()
    ]
    sites = [rankscope.Site.parse(r["site"]) for r in by_arm[names[0]]]
    changes = measure in RANKS
    title = f"{measure}, {'change ' if changes else ''}against pre-trained"
    along(sites, lines, ax, title=title, unit=mine[0]["unit"], zero="pre-trained" if changes else "")


def against(told: Mapping[str, Any], names: Sequence[str], ax: Axes, score: str, label: str) -> None:
    for i, name in enumerate(names):
        values = [run[score] for run in told["scores"][name]]
        ax.plot(told["ranks"][name], values, label=name, **(look(i) | {"linestyle": ""}))
    ax.axhline(told["scores"]["base"][0][score], **(look(-1) | {"linewidth": 0.8}))
    ax.axvline(told["ranks"]["base"][0], **(look(-1) | {"linewidth": 0.8}))
    ax.set(xlabel=f"participation ratio at {LAST}", ylabel=label)
    panel_title(ax, "each point a seed; dashed: pre-trained")


# %%
def main(size_name: str, folder: Path, stem: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    before = before_training(size)
    base = tuned("base", 0, size, folder)
    found = {(method, seed): tuned(method, seed, size, folder) for seed in size["seeds"] for method in METHODS}
    arms = {method: [found[method, seed] for seed in size["seeds"]] for method in METHODS}
    told = {
        "size": {"name": size_name, **size},
        "versions": versions(),
        "before_training": before,
        **summary(base, arms, size["groups"]),
    }
    # What must be so whatever comes out: no adapter here reaches the vision tower.
    untouched = [
        r for r in told["records"] if (r["arm"], r["site"]) == ("lora", "vision.final") and r["measure"] in RANKS
    ]
    assert untouched
    assert all(abs(r["value"]) < 1e-9 for r in untouched)
    draw(told, stem)
    stem.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build") / "effective_rank_by_tuning")
    parser.add_argument("--out", type=Path, default=Path("figures") / "effective_rank_by_tuning")
    asked = parser.parse_args()
    result = main("quick" if asked.quick else "full", asked.folder / ("quick" if asked.quick else "full"), asked.out)
    for measure in DECIDING:
        print(f"{measure}: {result['verdicts'][measure]}; {result['findings'][measure]}")
