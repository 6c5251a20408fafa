"""Does what tuning does to a model that sees hold for one that hears? The paper's claim, asked of sounds in miniature.

A Qwen2-Audio of eight hundred thousand parameters is made here: pre-trained on scenes of tones, sweeps, noise and spoken digits
(``spoken_scenes.py``) to tell them in order and to answer questions, and tuned on captions in another look (another voice and timbre,
noise behind, told backwards) by every method. Each method has the same number of steps (two-stage recipes spend half on each stage)
and the same budget for its rate: three trials with seed 0, of which the least validation loss is trained with five seeds.
Ranks, basis, recoverability, drift and losses are read at ``decoder.final`` along each training, and at every site at its end.

DECISION RULES, written before the runs. They are those of ``claim.py``, taken from it as code, with one regime in the place of four:
a *lead* is the difference of the means over seeds of PT-X and X, with Welch's interval at 95 % shared by the three kinds of tuning X
(Bonferroni). 1. *Score*: PT-X leads in CIDEr-D. 2. *Space kept*: in recoverability. 3. *Rank kept*: in the participation ratio.
4. *Nothing lost*: in the loss on the look of pre-training, the lower leading. 5. *Collapse*: the participation ratio of full, LoRA
and adapter tuning lies below the base's. If all three intervals of a claim lie above zero it is *supported in miniature*, if some
lie below and none above it is *contradicted*, else it is *not decided*. Each is told as each method ends, and (but for the score)
at the same task loss and at the same drift.

Nothing is said of methods unless the miniature may be judged; the script ends otherwise, by these assertions:

- it *listens*: the held-out loss of pre-training's captions, and of its questions, is at most ``HEARD`` of that with another scene's sound;
- it *bears a shift*: each loss with positions shifted by 1, 4, 16 and 64 lies within ``FLAT`` (``position_shift.py``) of the unshifted;
- an untrained prefix of the default length raises the loss on the old look by at most ``BOUND`` (ditto), whatever the seed;
- LoRA and adapters move nothing before they are trained, and LoRA moves nothing before the decoder ever.

``python analyses/third_modality.py``: twenty-five minutes on two cores, of which pre-training takes three on one; resumable
run by run; ``--quick``: seconds, and decides nothing.
"""

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from claim import (
    CLAIMS,
    KINDS,
    METHODS,
    NOT_TOLD,
    PAIRS,
    PRINCIPAL,
    WAYS,
    along_sites,
    collapsed,
    decided,
    numbers,
    told_by,
)
from findings import arguments, mean, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from position_shift import BOUND, FLAT, SHIFTS
from pretrain_sounds import pretrained
from runs import Setting, Study, held_out, outcomes
from spoken_scenes import BEFORE, OTHER, SpokenData
from torch import nn

import rankscope
from rankscope.data import ProbeSet
from rankscope.models.tunings.prefix import rows_hidden
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix
from rankscope.plots.along import Line, along, plain
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.tuning import held_out_loss
from rankscope.tuning.recipes import recipe

HEARD = 0.5
"""What share of the loss with another scene's sound that with its own may be."""
TRIED = (0.3, 1.0, 3.0)
"""Learning rates, as shares of a method's default, that are tried."""
DRAWN = {"at the end": ("o", "black"), "at the same loss": ("s", "0.4"), "at the same drift": ("^", "0.65")}
"""How the leads are drawn in each way of telling, in the order of ``WAYS``: colours are methods'."""
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "pool": 2000, "batch": 32, "listen": 250, "tell": 700, "methods": METHODS, "training": 1024, "steps": 300, "tried": TRIED,
        "seeds": (0, 1, 2, 3, 4), "study": {},
    },
    "quick": {
        "pool": 16, "batch": 4, "listen": 1, "tell": 1, "methods": ("lora", "pt-lora"), "training": 8, "steps": 2, "tried": (1.0,),
        "seeds": (0,), "study": {"samples": 6, "watched": 6, "groups": 3},
    },
}  # fmt: skip


# %% Whether the miniature may be judged.
def exchanged(data: ProbeSet) -> ProbeSet:
    """The same texts, each with the sound of the next scene."""
    items = list(data)
    heard = [replace(item, audio=other.audio) for item, other in zip(items, items[1:] + items[:1], strict=True)]
    return ProbeSet(f"{data.name}, sounds exchanged", heard)


def losses(study: Study, model: nn.Module) -> dict[str, float]:
    """The held-out losses of a model, nats a token."""
    return {name: held_out(study, name, study.samples).loss(model) for name in ("test", *study.losses)}


def state(study: Study) -> dict[str, Any]:
    """What the miniature does with sounds that are not its own, and with positions shifted and nothing else."""
    model = rankscope.load_model(study.base)
    others = {name: exchanged(study.data(name, study.samples)) for name in study.losses}
    found: dict[str, Any] = {"shifted": {0: losses(study, model)}}
    found["exchanged"] = {name: held_out_loss(study.base, data, model=model) for name, data in others.items()}
    for rows in SHIFTS[1:]:
        with rows_hidden(attach_prefix(model, new_prefix(model, rows=rows))):
            found["shifted"][rows] = losses(study, model)
        detach_prefix(model)
    return found


def fit(found: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], before: Mapping[str, float]) -> dict[str, bool]:
    """The assertions at the top of what is seen before training: by name, whether each holds.

    Args:
        found: made by :func:`state`.
        runs: all trainings, of which the first look is at what is attached and not yet trained.
        before: the look at the base.
    """
    own = found["shifted"][0]
    first = {method: [run["looks"][0] for run in runs if run["setting"]["method"] == method] for method in METHODS}
    prefixed = [at for method in METHODS if method.startswith(("prefix", "pt-")) for at in first[method]]
    return {
        "listens": all(own[name] <= HEARD * other for name, other in found["exchanged"].items()),
        "bears a shift": all(abs(at[k] / own[k] - 1) <= FLAT for at in found["shifted"].values() for k in own),
        "bears an untrained prefix": all(at[BEFORE] - before[BEFORE] <= BOUND[16] for at in prefixed),
        "is not moved by an untrained update": all(at["drift"] < 1e-9 for k in KINDS[1:] for at in first[k]),
    }


# %% The trainings: three rates of each method, then five seeds at the best.
def searched(study: Study, home: Path, size: Mapping[str, Any]) -> dict[str, list[tuple[Setting, float]]]:
    """Every rate that is tried of each method with its validation loss, the least first; one alone is not tried."""
    asked = [
        Setting(method, size["training"], size["steps"], 0, (("learning_rate", _rates(method, share)),), searched=True)
        for method in size["methods"]
        for share in size["tried"]
    ]
    made = outcomes(study, home, asked, "rates") if len(size["tried"]) > 1 else []
    losses = [outcome["losses"]["validation"] for outcome in made] or [0.0] * len(asked)
    pairs = sorted(zip(asked, losses, strict=True), key=lambda pair: pair[1])
    return {method: [pair for pair in pairs if pair[0].method == method] for method in size["methods"]}


def _rates(method: str, share: float) -> tuple[float, ...]:
    """A share of the default rate of each stage of a method."""
    return tuple(float(f"{share * stage.learning_rate:.3g}") for stage in recipe(method).stages)


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Make what is missing, judge, decide, write the figure and its JSON, and return what they tell."""
    size, home = SIZES[size_name], folder / "sounds"
    study = Study(
        base=pretrained(home, size),
        data=SpokenData(home / "data"),
        site="decoder.final",
        losses=(BEFORE, OTHER),
        before=BEFORE,
        **size["study"],
    )
    study.data("train", size["training"])  # made here, before several processes ask for them
    for name in ("validation", "test", *study.losses):
        study.data(name, study.samples), study.data(name, study.watched)
    found = state(study)
    assert size_name == "quick" or fit(found, [], {})["listens"], f"the miniature does not listen: {found}"
    tried = searched(study, home / "runs", size)
    best = [replace(rates[0][0], searched=False) for rates in tried.values()]
    asked = [replace(setting, seed=seed) for seed in size["seeds"] for setting in best]
    base, *made = outcomes(study, home / "runs", [Setting("base", 0, 0), *asked], "seeds")
    runs = {method: [run for run in made if run["setting"]["method"] == method] for method in tried}
    fits = fit(found, [run for several in runs.values() for run in several], base["looks"][0])
    assert size_name == "quick" or all(fits.values()), f"nothing may be said of methods: {fits}"
    base_run = home / "runs" / Setting("base", 0, 0).name / "run.safetensors"
    sites = along_sites({size["training"]: runs}, base_run, home / "runs", study.groups)[size["training"]]
    heard = [r for r in sites if r["arm"] == "lora" and not r["site"].startswith("decoder") and r["measure"] == "drift"]
    assert heard, "drift was not read before the decoder"
    assert all(abs(r["value"]) < 1e-9 for r in heard), "LoRA moves what it is not attached to"
    regime = {way: {size["training"]: told_by(way, runs)} for way in WAYS}
    told = {
        "size": {"name": size_name, **{k: size[k] for k in ("training", "steps", "seeds")}, "samples": study.samples},
        "before training": {**found, **fits},
        "base": base,
        "verdicts": {
            **{c: {way: decided(regime[way], c) for way in WAYS if (c, way) not in NOT_TOLD} for c in CLAIMS},
            "collapse": {way: collapsed(regime[way], base["looks"][0][PRINCIPAL]) for way in WAYS},
        },
        "trials": {m: [{**dict(s.options), "validation": loss} for s, loss in pairs] for m, pairs in tried.items()},
        "runs": runs,
        "sites": sites,
    }
    with styled():
        write(draw(told, {way: regime[way][size["training"]] for way in WAYS}), told, out)
    return told


# %% The figure.
def draw(told: Mapping[str, Any], ways: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What is heard, scores and forgetting by method, rank and what is readable along the sites, and the leads."""
    figure = new_figure(6.6)
    axes = figure.subplots(3, 2).ravel()
    listening(told["before training"], axes[0])
    end, base = ways[WAYS[0]], told["base"]
    against(end, "score", axes[1], "CIDEr-D on held-out captions", base["scores"]["test"])
    against(end, BEFORE, axes[2], "loss on the old look, nats a token", base["looks"][0][BEFORE])
    sites_of(told["sites"], PRINCIPAL, axes[3], "pre-trained")
    sites_of(told["sites"], "recoverability", axes[4], "")
    leads(told["verdicts"], axes[5])
    legend(figure)
    return figure


def listening(found: Mapping[str, Any], ax: Axes) -> None:
    """The losses of pre-training with a scene's own sound and with another's."""
    rows = [(name, found["shifted"][0][name], other) for name, other in found["exchanged"].items()]
    for place, (label, values) in enumerate((("its own", [r[1] for r in rows]), ("another", [r[2] for r in rows]))):
        style = look(place)
        ax.barh([i + 0.36 * place for i in range(len(rows))], values, 0.34, color=style["color"])
        for i, value in enumerate(values):
            ax.text(value, i + 0.36 * place, f" {label}: {value:.2f}", va="center", fontsize=6)
    ax.set(yticks=[i + 0.18 for i in range(len(rows))], yticklabels=[r[0] for r in rows], xlabel="nats a token")
    ax.set_xlim(0, 1.35 * max(r[2] for r in rows))
    ax.invert_yaxis()
    panel_title(ax, "held-out loss with its own sound, or another")


def against(runs: Mapping[str, Any], name: str, ax: Axes, title: str, base: float) -> None:
    """A number of each method at the end of its trainings: every seed, and the mean with Student's interval."""
    for i, method in enumerate(runs):
        values, style = numbers(runs[method], name), look(METHODS.index(method)) | {"linestyle": ""}
        ax.plot(values, [i] * len(values), alpha=0.4, **(style | {"markersize": 3}))
        told = mean(values)
        ax.plot(told.value, i, **style)
        if told.low is not None:
            ax.hlines(i, told.low, told.high, color=style["color"], linewidth=0.8)
    ax.axvline(base, **(look(-1) | {"linewidth": 0.8, "marker": ""}))
    ax.set(yticks=range(len(runs)), yticklabels=list(runs), ylim=(len(runs) - 0.5, -0.5))
    panel_title(ax, title)


def sites_of(records: Sequence[Mapping[str, Any]], measure: str, ax: Axes, zero: str) -> None:
    """A measure of each method along all sites, against the base."""
    mine = [r for r in records if r["measure"] == measure]
    arms = list(dict.fromkeys(r["arm"] for r in mine))
    lines = [
        Line(
            arm,
            *(plain(r[key] for r in mine if r["arm"] == arm) for key in ("value", "low", "high")),
            METHODS.index(arm),
        )
        for arm in arms
    ]
    sites = [rankscope.Site.parse(r["site"]) for r in mine if r["arm"] == arms[0]]
    along(sites, lines, ax, title=f"{measure}{', change' if zero else ''}", unit="", zero=zero)


def leads(verdicts: Mapping[str, Any], ax: Axes) -> None:
    """Every lead of PT-X in recoverability, in the three ways."""
    for place, (way, (told, (marker, grey))) in enumerate(zip(WAYS, DRAWN.items(), strict=True)):
        for name, lead in verdicts["space kept"][way]["leads"].items():
            row = next(i for i, (tuned, _) in enumerate(PAIRS) if name.startswith(tuned))
            y = row + 0.2 * (place - 1)
            ax.plot(lead["value"], y, marker, color=grey, markersize=3, label=None if row else told)
            if lead["low"] is not None:
                ax.hlines(y, lead["low"], lead["high"], color=grey, linewidth=0.8)
    ax.axvline(0, **(look(-1) | {"linewidth": 0.8, "marker": ""}))
    ax.set(yticks=range(len(PAIRS)), yticklabels=[f"{a} less {b}" for a, b in PAIRS], ylim=(len(PAIRS) - 0.5, -0.5))
    ax.set_xlabel("recoverability")
    panel_title(ax, "PT-X less X")


if __name__ == "__main__":
    asked = arguments(__doc__, "third_modality")
    result = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for claim, told_ways in result["verdicts"].items():
        for way, found in told_ways.items():
            print(f"{claim}, {way}: {found['verdict']}")
