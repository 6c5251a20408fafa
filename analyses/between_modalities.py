"""How much of the image can be read from the text, where in depth, and does tuning change it? And how far apart do they lie?

In the embedded checkpoint the image enters the decoder as rows of its own, ahead of the text; what the text knows of it has been
carried over by attention. ``rankscope.between`` relates the rows of two sites of one model, one row a sample (the mean over its rows of
a kind): the vision tower's last rows to the prompt's rows at each later site, and in each block of the decoder the image's rows to
the prompt's. Five methods tuned from 1,024 captions for 400 steps, five seeds, 1,000 held-out scenes, the base beside each.

DECISION RULES, written before the runs; intervals are Student's over seeds, at 95 % shared by all methods of a claim (Bonferroni),
of the change from the base at the last hidden states (``decoder.final``).

1. *Tuning carries more of the image into the text*: the recoverability of ``vision.final:image`` from ``decoder.final:text`` rises.
   The prompt is the same in all samples, so whatever can be read there came from the image. Scenes are read without their
   captions: the rows of ``text`` would have them too, and a first run, which did, read R² = 0.79 at the very embeddings; the script still does so once, for the base, and keeps the number.
2. *Prefixes carry as much*: PT-LoRA less LoRA in that number, Welch's interval above zero.
3. *The gap between image and text narrows*: the share of variance that the kind of row explains (``modality-share``) falls.

1 and 3 are supported in miniature if the interval of every method lies on that side; contradicted if one lies on the other and
none on it; else not decided. A gap that is wider or narrower is not called worse.

Asserted whatever comes out: nothing can be read at ``decoder.embed``, where nothing has been carried yet. Told beside: what
shuffled samples score, and what the image's rows score against themselves, which is the ceiling.

``python analyses/between_modalities.py``: a quarter of an hour on two cores, less once the others have run.
"""

# %%
from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from claim import STUDY
from findings import Interval, arguments, decide, difference, mean, write
from limited_scenes import data
from matplotlib.axes import Axes
from runs import Setting, Study, by_name, in_processes

import rankscope
from rankscope.data import ProbeSet
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.writing import write_output

METHODS = ("full", "lora", "adapter", "prefix", "pt-lora")
SITES = "vision.final,decoder.*"
LAST = "decoder.final"
CARRIED, GAP = "recoverability", "modality-share"
SIZES: dict[str, dict[str, Any]] = {
    "full": {"methods": METHODS, "training": 1024, "steps": 400, "seeds": (0, 1, 2, 3, 4), "n": 1000, "study": STUDY},
    "quick": {
        "methods": ("lora", "pt-lora"),
        "training": 16,
        "steps": 2,
        "seeds": (0, 1),
        "n": 24,
        "study": replace(STUDY, samples=8, watched=8, groups=4),
    },
}
Along = Mapping[str, Mapping[str, Any]]
"""The numbers of one model by site."""


# %% What one model says.
def prompts(n: int) -> ProbeSet:
    """Held-out scenes with their prompt and without their captions, which would tell what is in the image."""
    scenes = data("test", n)
    return replace(scenes, examples=[replace(one, targets=()) for one in scenes])


def read_base(base: Path, n: int, home: Path) -> Path:
    """The base on the scenes that all are compared on."""
    out = home / f"prompts-base-{n}.safetensors"
    rankscope.collect(base, prompts(n), sites=SITES, rows="tokens", out=out, name="base", reuse=True)
    return out


def related(base: Path, n: int, groups: int, folder: Path) -> dict[str, Along]:
    """The numbers of one tuned model along its sites beside the base's, kept in its folder; its rows are not."""
    kept = folder / f"between-prompts-{n}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as here:
            out = Path(here) / "tuned.safetensors"
            rankscope.collect(folder / "checkpoint", prompts(n), sites=SITES, rows="tokens", out=out, name="tuned")
            found = {
                CARRIED: rankscope.between(
                    out, "vision.final:image", "decoder:text", base=base, measures=[CARRIED], groups=groups
                ),
                GAP: rankscope.between(out, "decoder:image", "decoder:text", base=base, measures=[GAP], groups=groups),
            }
        told = {name: along(result.to_records()) for name, result in found.items()}
        assert told[CARRIED]["decoder.embed"]["tuned"] < 0.05, "the image can be read before anything was carried"
        write_output(kept, json.dumps(told).encode())
    return dict(json.loads(kept.read_text()))


def at_embeddings_with_captions(study: Study, n: int) -> float:
    """What of the image the base's rows of ``text`` tell at the embeddings if the captions are among them: an artifact, shown."""
    with tempfile.TemporaryDirectory() as here:
        run = rankscope.collect(
            study.base, data("test", n), sites="vision.final,decoder.embed", rows="tokens", out=Path(here) / "base.pt"
        )
        found = rankscope.between(
            run, "vision.final:image", "decoder.embed:text", measures=[CARRIED], groups=study.groups
        )
    return float(along(found.to_records())["decoder.embed"]["base"])


def along(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By site, what the base and the tuned model score; of a relation with a direction, the image read from the text."""
    found: dict[str, dict[str, Any]] = {}
    for r in records:
        if ":image" in r["a"]:
            here = found.setdefault(r["site"], {"noise": r["noise"], "itself": r["itself"]})
            here[r["run"]] = r["value"]
    return found


def changes(told: Sequence[Mapping[str, Along]], what: str) -> list[float]:
    """The change from the base at the last hidden states, of each seed."""
    return [t[what][LAST]["tuned"] - t[what][LAST]["base"] for t in told]


def verdicts(told: Mapping[str, Sequence[Mapping[str, Along]]]) -> dict[str, Any]:
    """The verdicts and their intervals, by the rules at the top."""
    level = 1 - 0.05 / len(told)
    carried = {method: mean(changes(several, CARRIED), level) for method, several in told.items()}
    narrowed = {method: mean((-change for change in changes(several, GAP)), level) for method, several in told.items()}
    lead = difference(changes(told["pt-lora"], CARRIED), changes(told["lora"], CARRIED))
    return {
        "tuning carries more of the image into the text": {"verdict": decide(carried.values()), "rises": carried},
        "prefixes carry as much": {"verdict": decide([lead]), "lead": lead},
        "the gap narrows": {"verdict": decide(narrowed.values()), "falls": narrowed},
    }


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Train what is missing, relate, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home = size["study"], folder / "scenes"
    settings = {method: Setting(method, size["training"], size["steps"]) for method in size["methods"]}
    by_name(study, home, settings, size["seeds"], "methods")
    base = read_base(study.base, size["n"], home)
    asked = [home / replace(setting, seed=seed).name for setting in settings.values() for seed in size["seeds"]]
    read = iter(in_processes(partial(related, base, size["n"], study.groups), asked, "image and text"))
    told = {method: [next(read) for _ in size["seeds"]] for method in settings}
    result = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}},
        "verdicts": verdicts(told),
        "artifact_at_embeddings_with_captions": at_embeddings_with_captions(study, size["n"]),
        "told": told,
    }
    with styled():
        figure = new_figure(2.8)
        left, right = figure.subplots(1, 2)
        profile(told, CARRIED, left, "R², image of the tower read from the prompt")
        profile(told, GAP, right, "share of variance that the kind explains")
        legend(figure)
        write(figure, result, out)
    return result


def profile(told: Mapping[str, Sequence[Mapping[str, Along]]], what: str, ax: Axes, title: str) -> None:
    """A number along the sites: the base, and the mean over the seeds of each method with Student's interval."""
    sites = list(next(iter(told.values()))[0][what])
    x = range(len(sites))
    one = next(iter(told.values()))[0][what]
    ax.plot(x, [one[site]["base"] for site in sites], label="pre-trained", **look(-1))
    for method, several in told.items():
        style = look(METHODS.index(method)) | {"markersize": 3}
        found: list[Interval] = [mean(t[what][site]["tuned"] for t in several) for site in sites]
        ax.plot(x, [f.value for f in found], label=method, **style)
        ax.fill_between(x, *zip(*((f.low, f.high) for f in found), strict=True), color=style["color"], alpha=0.15, lw=0)
    ax.plot(x, [one[site]["noise"] for site in sites], color="0.6", linestyle=":", label="shuffled")
    ax.set_xticks(list(x), [site.removeprefix("decoder.") for site in sites], rotation=45)
    ax.set_xlabel("site of the decoder")
    panel_title(ax, title)


if __name__ == "__main__":
    asked = arguments(__doc__, "between_modalities")
    found = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for claim, of in found["verdicts"].items():
        print(f"{claim}: {of['verdict']}")
