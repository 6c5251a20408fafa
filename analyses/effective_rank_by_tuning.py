"""Does rank fall under full, LoRA and adapter tuning, and stay under prefix-tuning and PT-PEFT? In miniature, with the honest sign.

The embedded checkpoint is tuned on captions of scenes in a look that its pre-training did not have, by every method and with
several seeds; features are read at every site on held-out captions. Every method has the same number of steps; those of two
stages spend half on each.

DECISION RULE, written before the runs. For each of the two numbers below, at ``decoder.final`` (the last hidden states, as in
the paper's Figure 4), a method's *change* is its value less that of the pre-trained model, with an interval over seeds and
samples. The margin is the largest retraining floor of any method: how far two trainings of one recipe may lie apart. Then

- the rank **falls** if the whole interval is below zero and the change is below minus the margin; it **rises** if the mirror
  image holds;
- it is **kept** if two one-sided tests put the change inside the margin;
- otherwise the finding is **inconclusive**.

The paper's claim is *supported in miniature* if the rank falls under full, LoRA and adapter, and is kept (or rises) under
prefix, PT-full, PT-LoRA and PT-adapter; *contradicted* if it rises under one of the first, or falls under one of the second;
and *not decided* otherwise. Falling is not called worse: what was lost is asked of recoverability and of the scores.

Run ``python analyses/effective_rank_by_tuning.py`` (about an hour on two cores, resumable run by run) or with ``--quick``.
"""

# %%
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

import rankscope
from rankscope.estimate import View
from rankscope.inference.equivalence import arm_difference, components, equivalence, retraining_floor
from rankscope.inference.jackknife import pseudo_values
from rankscope.plots.along import Line, along
from rankscope.plots.style import look, new_figure, panel_title, save, styled
from rankscope.registry import known
from rankscope.sites import Site
from rankscope.tuning import held_out_loss
from rankscope.tuning.record import versions

METHODS = ("full", "lora", "adapter", "prefix", "pt-full", "pt-lora", "pt-adapter", "prefix+lora")
FALLING, KEEPING = ("full", "lora", "adapter"), ("prefix", "pt-full", "pt-lora", "pt-adapter")
DECIDING = ("pt-peft", "participation-ratio-clustered")
RANKS = (*DECIDING, "roy-vetterli")
RELATIONS = ("recoverability", "overlap", "cka", "drift")
TASK, BEFORE, OTHER = "scenes:captions/{}", "scenes:pretrain-captions/test", "scenes:questions/test"
LAST = "decoder.final"
SIZES: dict[str, dict[str, Any]] = {
    "full": {"steps": 1000, "seeds": (0, 1, 2, 3, 4), "training": 4000, "samples": 400, "groups": 20},
    "quick": {"steps": 8, "seeds": (0, 1, 2), "training": 64, "samples": 24, "groups": 6},
}


# %% One run: tune, read features, and keep every number with each group of samples left out.
def tuned(method: str, seed: int, size: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The numbers of one training, made once and then read from its folder."""
    out = folder / f"{method}-s{seed}"
    kept = out / "numbers.json"
    if kept.exists():
        return json.loads(kept.read_text())
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
    run = rankscope.collect(checkpoint, data, rows="tokens", out=out / "run.safetensors", overwrite=True)
    said = rankscope.generate(checkpoint, data, out=out / "predictions.jsonl", overwrite=True)
    score = rankscope.score({p.id: p.text for p in said}, data, kind="captions", metrics=["CIDEr-D"])
    numbers = {
        "method": method,
        "seed": seed,
        "sites": measured(run, base_of(run, folder), size["groups"]),
        "cider": score["CIDEr-D"],
        "loss": {name: held_out_loss(checkpoint, f"{of}?n={size['samples']}") for name, of in losses().items()},
    }
    kept.write_text(json.dumps(numbers))
    return numbers


def losses() -> dict[str, str]:
    """The data of each held-out loss: the task, the look before, and the other task."""
    return {"task": TASK.format("test"), "before": BEFORE, "other": OTHER}


def base_of(run: rankscope.Run, folder: Path) -> rankscope.Run:
    """The pre-trained model on the same rows."""
    path = folder / "base-s0" / "run.safetensors"
    return rankscope.load(path) if path.exists() else run


def measured(run: rankscope.Run, base: rankscope.Run, groups: int) -> dict[str, dict[str, list[float]]]:
    """Site → measure → the value, then the value without each group of samples."""
    found: dict[str, dict[str, list[float]]] = {}
    for site in run.sites:
        view = View([run.features(site), base.features(site)], run.rows_at(site), groups=groups)
        each = {name: view.measured(rankscope.DEFINITIONS[name], 0) for name in RANKS}
        each |= {name: view.related(rankscope.COMPARISONS[name], 1, 0) for name in RELATIONS}
        found[str(site)] = {name: [float(r.value), *r.left_out.tolist()] for name, r in each.items()}
        found[str(site)]["curve"] = curve(run, site)
    return found


def curve(run: rankscope.Run, site: Site) -> list[float]:
    """The cumulative curve that the paper draws: the mean over samples, at equal fractions of their length."""
    prepare = rankscope.DEFINITIONS["pt-peft"].prepare
    assert prepare is not None
    return prepare(run.features(site).double(), run.rows_at(site).sample).mean(0).tolist()


# %% What the runs say together.
def pseudo(runs: Sequence[dict[str, Any]], site: str, measure: str) -> Tensor:
    """``(R, G)`` pseudo-values of an arm."""
    values = torch.tensor([run["sites"][site][measure] for run in runs], dtype=torch.float64)
    return torch.stack([pseudo_values(v[0], v[1:]) for v in values])


def change(runs: Sequence[dict[str, Any]], base: dict[str, Any], site: str, measure: str) -> dict[str, float]:
    """The change of an arm against the base with its interval over seeds and samples, and its retraining floor."""
    arm, start = pseudo(runs, site, measure), pseudo([base], site, measure)
    found = arm_difference(start, arm)
    within = components(arm - start)
    return {
        "value": float(found.value),
        "low": float(found.low),
        "high": float(found.high),
        "se": float(within.se),
        "df": float(within.df),
        "floor": float(retraining_floor(arm.mean(1))),
    }


def finding(changes: dict[str, float], margin: float) -> str:
    """falls, rises, kept or inconclusive, by the rule at the top."""
    if changes["high"] < 0 and changes["value"] < -margin:
        return "falls"
    if changes["low"] > 0 and changes["value"] > margin:
        return "rises"
    if margin > 0:
        value, se = (torch.tensor(changes[k], dtype=torch.float64) for k in ("value", "se"))
        if bool(equivalence(value, se, changes["df"], margin=margin).equivalent):
            return "kept"
    return "inconclusive"


def verdict(findings: dict[str, str]) -> str:
    """What the findings say of the paper's claim, by the rule at the top."""
    if any(findings[m] == "rises" for m in FALLING) or any(findings[m] == "falls" for m in KEEPING):
        return "contradicted"
    fell, stayed = (findings[m] == "falls" for m in FALLING), (findings[m] in ("kept", "rises") for m in KEEPING)
    return "supported in miniature" if all(fell) and all(stayed) else "not decided"


def summary(arms: dict[str, list[dict[str, Any]]], base: dict[str, Any]) -> dict[str, Any]:
    """Everything that the figure draws."""
    measures = (*RANKS, *RELATIONS)
    sites = list(base["sites"])
    changes = {name: {m: {s: change(runs, base, s, m) for s in sites} for m in measures} for name, runs in arms.items()}
    margins = {m: max(changes[name][m][LAST]["floor"] for name in arms) for m in RANKS}
    findings = {m: {name: finding(changes[name][m][LAST], margins[m]) for name in arms} for m in RANKS}
    scores = {
        name: [{"seed": r["seed"], "cider": r["cider"], **r["loss"]} for r in runs]
        for name, runs in {"base": [base], **arms}.items()
    }
    return {
        "base": {s: {m: base["sites"][s][m][0] for m in measures} for s in sites},
        "changes": changes,
        "margins": margins,
        "findings": findings,
        "verdicts": {m: verdict(findings[m]) for m in DECIDING},
        "scores": scores,
        "curves": {n: mean_curve(runs) for n, runs in {"base": [base], **arms}.items()},
    }


def mean_curve(runs: Sequence[dict[str, Any]]) -> list[float]:
    return torch.tensor([run["sites"][LAST]["curve"] for run in runs]).mean(0).tolist()


# %% The figure.
def draw(told: dict[str, Any], stem: Path) -> None:
    """Figure 4 in miniature, rank and recoverability along the sites, and what they go with."""
    names = list(told["changes"])
    sites = [Site.parse(s) for s in told["base"] if Site.parse(s).stack == "decoder"]
    with styled():
        figure = new_figure(7.2)
        axes = figure.subplots(3, 2).ravel()
        figure_four(told, names, axes[0])
        for ax, measure in zip(axes[1:4], ("pt-peft", "participation-ratio-clustered", "recoverability"), strict=True):
            lines = [arm_line(told, name, measure, sites) for name in names]
            title = f"{measure}, change against pre-trained"
            along(sites, lines, ax, title=title, unit=known(measure).unit, zero="pre-trained")
        against(told, names, axes[4], "cider", "CIDEr-D on held-out captions")
        against(told, names, axes[5], "before", "held-out loss before tuning's look, nats")
        axes[0].legend(frameon=False, ncols=2, loc="lower right")
    save(figure, stem, kinds=["svg"])


def figure_four(told: dict[str, Any], names: Sequence[str], ax: Axes) -> None:
    for name, curve in told["curves"].items():
        style = look(names.index(name) if name in names else -1) | {"marker": ""}
        ax.plot([100 * (i + 1) / len(curve) for i in range(len(curve))], curve, label=name, **style)
    ax.axhline(0.9, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlim=(0, 100), ylim=(0, 1.01), xlabel="directions, % of min(L, d)", ylabel="cumulative share of Σσ")
    panel_title(ax, f"{LAST}, mean over samples")


def arm_line(told: dict[str, Any], name: str, measure: str, sites: Sequence[Site]) -> Line:
    found = [told["changes"][name][measure][str(s)] for s in sites]
    return Line(name, *([f[k] for f in found] for k in ("value", "low", "high")))


def against(told: dict[str, Any], names: Sequence[str], ax: Axes, score: str, label: str) -> None:
    for i, name in enumerate(names):
        rank = told["changes"][name]["participation-ratio-clustered"][LAST]["value"]
        values = [run[score] for run in told["scores"][name]]
        ax.plot([rank] * len(values), values, label=name, **(look(i) | {"linestyle": ""}))
    ax.axhline(told["scores"]["base"][0][score], **(look(-1) | {"linewidth": 0.8}))
    ax.set(xlabel=f"participation ratio at {LAST}, change", ylabel=label)
    panel_title(ax, "each point a seed; dashed: pre-trained")


# %%
def main(size_name: str, folder: Path, stem: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    base = tuned("base", 0, size, folder)
    arms = {method: [tuned(method, seed, size, folder) for seed in size["seeds"]] for method in METHODS}
    told = {"size": {"name": size_name, **size}, "versions": versions(), **summary(arms, base)}
    # What must be so whatever comes out: no tuning here reaches the vision tower, and the base is its own reference.
    assert all(abs(told["changes"]["lora"][m]["vision.final"]["value"]) < 1e-9 for m in RANKS)
    assert abs(told["base"][LAST]["recoverability"] - 1) < 0.05
    draw(told, stem)
    stem.with_suffix(".json").write_text(json.dumps(told, indent=1))
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
