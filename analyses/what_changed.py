"""What does a change mean? The words that its directions say through the model's own head, and the tokens that move most.

Tuning on the scenes teaches a manner: numbers are spelled out and the colour comes after them (``seven in red``, where pre-training
had ``red 7``). So it is known what a change ought to say. Five methods are tuned from 1,024 captions for 400 steps, with five
seeds, and ``rankscope.examples`` is asked at the site of the decoder that moves most, on 200 held-out scenes.

A word *was tuned* if its share of the words in tuning's captions is more than twice its share in those of pre-training, and *was
left* if less than half.

DECISION RULES, written before the runs; intervals are Student's over seeds, at 95 % shared by all methods (Bonferroni).

1. *The mean change names what was tuned*: tuned words among the ten that it promotes less tuned words among the ten that it
   suppresses, as shares. A direction that means nothing has 0 on average, because its opposite is as likely. Supported in
   miniature if the interval of every method lies above zero; contradicted if one lies below and none above; else not decided.
2. *So do the leading directions*: the same for the mean over the first three directions, each with the sign that the mean change
   has along it.
3. *What moves most is what is said*: tokens of the caption among the twenty rows with the largest drift, less their share of all rows.

Words left are told beside the tuned ones. Asserted whatever comes out: every run has a head that reads the site.

``python analyses/what_changed.py``: a quarter of an hour on two cores, less once the others have run.
"""

# %%
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from claim import STUDY
from findings import Interval, arguments, decide, forest, mean, write
from limited_scenes import BEFORE, data
from runs import Setting, by_name, in_processes

import rankscope
from rankscope.features import ANSWER, ROLES
from rankscope.plots.style import look, new_figure, panel_title, styled
from rankscope.results.examples import ExampleRecord

METHODS = ("full", "lora", "adapter", "prefix", "pt-lora")
CLAIMS = ("the mean change names what was tuned", "so do the leading directions", "what moves most is what is said")
WORDS, TOKENS, DIRECTIONS = 10, 20, 3
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "methods": METHODS,
        "training": 1024,
        "steps": 400,
        "seeds": (0, 1, 2, 3, 4),
        "study": STUDY,
        "texts": 1000,
    },
    "quick": {
        "methods": ("lora",),
        "training": 16,
        "steps": 2,
        "seeds": (0, 1),
        "study": replace(STUDY, samples=8, watched=8),
        "texts": 50,
    },
}


# %% What was tuned.
def shares(name: str, n: int) -> dict[str, float]:
    """The share of each word among those of the captions of a set of data."""
    counts = Counter(word for example in data(name, n) for text in example.targets for word in text.split())
    return {word: count / counts.total() for word, count in counts.items()}


def taught(n: int) -> tuple[frozenset[str], frozenset[str]]:
    """The words that were tuned, and those that were left."""
    now, before = shares("train", n), shares(BEFORE, n)
    words = now.keys() | before.keys()
    tuned = frozenset(w for w in words if now.get(w, 0.0) > 2 * before.get(w, 0.0))
    return tuned, frozenset(w for w in words if now.get(w, 0.0) < before.get(w, 0.0) / 2)


# %% What a run says.
def lead(record: ExampleRecord, among: frozenset[str]) -> float:
    """The share of some words among those that a direction promotes, less that among those that it suppresses."""
    ends = ([word.strip() in among for word in end] for end in (record.promotes, record.suppresses))
    up, down = (sum(found) / len(found) for found in ends)
    return up - down


def said(base: Path, words: tuple[frozenset[str], frozenset[str]], samples: int, run: Path) -> dict[str, Any]:
    """What one run says by the three rules, and the words themselves."""
    given: dict[str, Any] = {"data": data("test", samples), "sites": "decoder.*"}
    found = rankscope.examples(base, run, n=TOKENS, directions=DIRECTIONS, words=WORDS, **given)
    (average,), directions, tokens = found.only("mean"), found.only("direction"), found.only("token")
    assert average.promotes, f"no head reads {found.site}: {' '.join(found.notes)}"
    opened = rankscope.load(run)
    answers = float((opened.rows_at(found.site).role == ANSWER).double().mean())
    tuned, left = words
    return {
        "site": found.site,
        CLAIMS[0]: lead(average, tuned),
        CLAIMS[1]: sum(lead(d, tuned) for d in directions) / len(directions),
        CLAIMS[2]: sum(t.role == "answer" for t in tokens) / len(tokens) - answers,
        "left": lead(average, left),
        "moved": moved(rankscope.load(base), opened, found.site),
        "most": [(t.sample, t.position, t.role, t.token) for t in tokens],
        "promotes": average.promotes,
        "suppresses": average.suppresses,
        "directions": [
            {"share": d.estimate.value, "promotes": d.promotes, "suppresses": d.suppresses} for d in directions
        ],
    }


def moved(base: rankscope.Run, tuned: rankscope.Run, site: str) -> dict[str, float]:
    """By the role of a row, the mean squared length of its change."""
    lengths = (tuned.features(site).double() - base.features(site).double()).square().sum(1)
    roles = tuned.rows_at(site).role
    return {ROLES[role]: float(lengths[roles == role].mean()) for role in roles.unique().tolist()}


def intervals(told: Mapping[str, Sequence[Mapping[str, Any]]], claim: str) -> dict[str, Interval]:
    """A number of every method over its seeds."""
    return {method: mean((t[claim] for t in several), 1 - 0.05 / len(told)) for method, several in told.items()}


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Train what is missing, read, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home, words = size["study"], folder / "scenes", taught(size["texts"])
    settings = {method: Setting(method, size["training"], size["steps"]) for method in size["methods"]}
    by_name(study, home, {"base": Setting("base", 0, 0)}, [0], "the base")
    by_name(study, home, settings, size["seeds"], "methods")
    base = home / Setting("base", 0, 0).name / "run.safetensors"
    asked = [
        home / replace(setting, seed=seed).name / "run.safetensors"
        for setting in settings.values()
        for seed in size["seeds"]
    ]
    read = iter(in_processes(partial(said, base, words, study.samples), asked, "what they say"))
    told = {method: [next(read) for _ in size["seeds"]] for method in settings}
    result = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}},
        "tuned": sorted(words[0]),
        "left": sorted(words[1]),
        "verdicts": {claim: decide(intervals(told, claim).values()) for claim in CLAIMS},
        "intervals": {claim: intervals(told, claim) for claim in (*CLAIMS, "left")},
        "told": told,
    }
    with styled():
        figure = new_figure(2.4)
        titles = ("mean change: tuned words", "three directions: tuned words", "largest drift: caption tokens")
        for ax, claim, title in zip(figure.subplots(1, 3, sharey=True), CLAIMS, titles, strict=True):
            rows = intervals(told, claim)
            forest(rows, [look(METHODS.index(method)) for method in rows], ax)
            ax.set_xlabel("share, less chance")
            panel_title(ax, title)
        write(figure, result, out)
    return result


if __name__ == "__main__":
    asked = arguments(__doc__, "what_changed")
    found = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for claim, verdict in found["verdicts"].items():
        print(f"{claim}: {verdict}")
