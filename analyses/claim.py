"""Does tuning collapse the space, does PT-PEFT keep it, and does it score better? The paper's claim, fairly, in miniature.

The embedded checkpoint is tuned on captions of scenes in a look that its pre-training did not have (``limited_scenes.py``), by eight
methods and from 64, 256, 1,024 and 4,000 captions: the paper's premise is a strong base and a small task. In each regime every
method has the same number of steps (two-stage recipes spend half on each stage) and the same budget for its settings: six trials
with seed 0, of learning rates and of sizes (prefix length, LoRA rank, adapter width), as ``TRIALS`` says; the one with the least
validation loss is trained with five seeds. Ranks, basis, recoverability, drift and losses are read at ``decoder.final`` along each
training, and at every site at its end.

Each number is told three ways: as each method ends (*at best validation*); where each training first has the *same task loss*, the
least that all reach; and where it first has the *same drift*, the largest that all reach: between looks, by straight lines.

DECISION RULES, written before the runs. A *lead* is the difference of two methods' means over seeds with Welch's interval, at
95 % shared by the twelve pairs of a claim (three kinds of tuning X, four regimes; Bonferroni).

1. *Score.* PT-X leads X in CIDEr-D on held-out captions. 2. *Space kept.* PT-X leads X in recoverability. 3. *Rank kept.* PT-X leads X
in the participation ratio. 4. *Nothing lost.* X has a higher loss on the look of pre-training than PT-X. 5. *Collapse.* The
participation ratio of X is below the base's (three kinds of tuning, four regimes: a mean over seeds with Student's interval).

Each of 1 to 4 is decided in each of the three ways (a score only at the end). Of the twelve leads, if all lie above zero the claim is
*supported in miniature*; if some lie below and none above it is *contradicted*; else *not decided*, and which leads lie where is
told. Of 5 likewise, with falls in the place of leads. Lower rank is not called worse, nor is higher better.

Added when the runs had been seen, and deciding nothing: the untrained state of every method, and the leads *from its own start*,
which count what a training moved after its prefix was attached. An untrained prefix moves the space by itself.

Asserted whatever comes out: an untrained prefix of the default length raises the loss on the old look by no more than the bound
of ``position_shift.py``; LoRA and adapters move nothing before they are trained, and LoRA nothing in the vision tower ever.

``python analyses/claim.py``: two and a half hours on two cores, run by run resumable; ``--quick``: seconds, and decides nothing.
"""

# %%
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from findings import Interval, arguments, decide, difference, forest, mean, write
from limited_scenes import BEFORE, NEW, OTHER, SEEN, data
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from position_shift import BOUND, untrained
from runs import RANKS, RELATIONS, Setting, Study, in_processes, outcomes

import rankscope
from rankscope.plots.style import legend, look, new_figure, panel_title, styled
from rankscope.store import open_run
from rankscope.tuning.recipes import recipe
from rankscope.writing import write_output

STUDY = Study(
    base=rankscope.embedded_checkpoint(),
    data=data,
    site="decoder.final",
    losses=(BEFORE, OTHER, SEEN, *NEW),
    before=BEFORE,
)
KINDS = ("full", "lora", "adapter")
METHODS = (*KINDS, "prefix", *(f"pt-{kind}" for kind in KINDS), "prefix+lora")
PAIRS = tuple((f"pt-{kind}", kind) for kind in KINDS)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Learning rates, as shares of a method's default, that are tried where a method has no size; the middle four for others."""
SIZES_TRIED = {
    "prefix": ("prefix_length", (4, 32)),
    "lora": ("lora_rank", (2, 32)),
    "adapter": ("adapter_size", (4, 64)),
}
"""The option that is a method's size, and what is tried besides its default: for PT-X that of the prefix."""
PRINCIPAL = "participation-ratio-clustered"
WAYS = ("at best validation", "at the same task loss", "at the same drift")
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "methods": METHODS,
        "steps": {64: 100, 256: 200, 1024: 400, 4000: 800},
        "trials": 6,
        "seeds": (0, 1, 2, 3, 4),
        "study": STUDY,
    },
    "quick": {
        "methods": ("lora", "pt-lora"),
        "steps": {16: 2},
        "trials": 1,
        "seeds": (0, 1),
        "study": replace(STUDY, samples=8, watched=8, groups=4),
    },
}


NOT_TOLD = {("score", WAYS[1]), ("score", WAYS[2])}
"""Claims that cannot be told in a way: nothing is generated half way through a training."""
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""The outcomes of each method's seeds, in one regime."""


# %% The settings: six trials of each method in each regime, then five seeds at the best.
def trials(method: str, training: int, steps: int) -> list[Setting]:
    """The budget of one method in one regime."""
    kind = "prefix" if method.startswith("pt-") else method.partition("+")[0]
    defaults = [stage.learning_rate for stage in recipe(method).stages]
    name, sizes = SIZES_TRIED.get(kind, ("", ()))
    tried: list[tuple[str, Any]] = [
        ("learning_rate", tuple(float(f"{rate * own:.3g}") for own in defaults))
        for rate in (RATES[1:5] if sizes else RATES)
    ]
    tried += [(name, size) for size in sizes]
    return [Setting(method, training, steps, options=(option,), searched=True) for option in tried]


def search(home: Path, training: int, size: Mapping[str, Any]) -> dict[str, list[tuple[Setting, float]]]:
    """Every trial of a regime with its validation loss, by method, the least first."""
    steps, methods = size["steps"][training], size["methods"]
    asked = [trial for method in methods for trial in trials(method, training, steps)[: size["trials"]]]
    losses = [o["losses"]["validation"] for o in outcomes(size["study"], home, asked, f"{training} captions, trials")]
    found: dict[str, list[tuple[Setting, float]]] = {method: [] for method in methods}
    for trial, loss in sorted(zip(asked, losses, strict=True), key=lambda pair: pair[1]):
        found[trial.method].append((trial, loss))
    return found


def chosen(home: Path, training: int, size: Mapping[str, Any]) -> tuple[dict[str, Any], Runs]:
    """What was tried in a regime, and the outcomes of each method's seeds at the best of it."""
    tried = search(home, training, size)
    best = {method: replace(found[0][0], searched=False) for method, found in tried.items()}
    asked = [replace(setting, seed=seed) for seed in size["seeds"] for setting in best.values()]
    made = outcomes(size["study"], home, asked, f"{training} captions, seeds")
    told = {method: [{**dict(t.options), "validation": loss} for t, loss in found] for method, found in tried.items()}
    return told, {method: [o for o in made if o["setting"]["method"] == method] for method in tried}


# %% The three ways of telling.
def reached(path: Sequence[Mapping[str, float]], name: str, target: float) -> dict[str, float] | None:
    """The numbers of a training where it first has a number, by straight lines between its looks; None if it never has."""
    for earlier, later in pairwise(path):
        here, there = earlier[name], later[name]
        if min(here, there) <= target <= max(here, there):
            share = (target - here) / (there - here) if there != here else 0.0
            return {key: earlier[key] + share * (later[key] - earlier[key]) for key in earlier}
    return None


def told_by(way: str, runs: Runs) -> dict[str, list[dict[str, float] | None]]:
    """The numbers of every run of a regime, told one way."""
    paths = {method: [run["looks"] for run in several] for method, several in runs.items()}
    every = [path for several in paths.values() for path in several]
    if way == WAYS[0]:
        ends = {method: [path[-1] for path in several] for method, several in paths.items()}
        return {
            m: [end | {"score": r["scores"]["test"]} for end, r in zip(ends[m], runs[m], strict=True)] for m in runs
        }
    name = "validation" if way == WAYS[1] else "drift"
    furthest = max(min(p["validation"] for p in path) for path in every) if way == WAYS[1] else 0.0
    target = furthest or min(max(p["drift"] for p in path) for path in every)
    return {method: [reached(path, name, target) for path in several] for method, several in paths.items()}


def numbers(runs: Sequence[Mapping[str, float] | None], name: str) -> list[float]:
    """One number of the seeds that have it."""
    return [run[name] for run in runs if run is not None and name in run]


# %% The claims, each over pairs and regimes.
CLAIMS = {
    "score": ("score", 1),
    "space kept": ("recoverability", 1),
    "rank kept": (PRINCIPAL, 1),
    "nothing lost": (BEFORE, -1),
}
"""The number of each claim, and the sign with which PT-X leads."""


def decided(by_regime: Mapping[int, Mapping[str, Sequence[Mapping[str, float] | None]]], claim: str) -> dict[str, Any]:
    """The leads of a claim told one way, and what they decide."""
    name, sign = CLAIMS[claim]
    level = 1 - 0.05 / (len(PAIRS) * len(by_regime))
    leads = {}
    for training, runs in by_regime.items():
        for tuned, plain in PAIRS:
            a, b = ([sign * x for x in numbers(runs.get(method, ()), name)] for method in (tuned, plain))
            if a and b:
                leads[f"{tuned} less {plain}, {training}"] = difference(a, b, level)
    return {"verdict": decide(leads.values()), "leads": {pair: lead._asdict() for pair, lead in leads.items()}}


def from_its_own_start(runs: Runs) -> dict[str, list[dict[str, float] | None]]:
    """How far every number of every run of a regime moved while it was trained: what an untrained prefix moves is taken off."""
    return {
        method: [{name: run["looks"][-1][name] - start for name, start in run["looks"][0].items()} for run in several]
        for method, several in runs.items()
    }


def collapsed(
    by_regime: Mapping[int, Mapping[str, Sequence[Mapping[str, float] | None]]], base: float
) -> dict[str, Any]:
    """How far the participation ratio of full, LoRA and adapter tuning falls below the base's, told one way."""
    level = 1 - 0.05 / (len(KINDS) * len(by_regime))
    falls = {
        f"{kind}, {training}": mean([base - x for x in found], level)
        for training, runs in by_regime.items()
        for kind in KINDS
        if (found := numbers(runs.get(kind, ()), PRINCIPAL))
    }
    return {"verdict": decide(falls.values()), "falls": {name: fall._asdict() for name, fall in falls.items()}}


def along_sites(by_regime: Mapping[int, Runs], base: Path, home: Path, groups: int) -> dict[int, list[dict[str, Any]]]:
    """Ranks and relations at every site, of the seeds of each method against the base, by regime; each stack kept in a file."""
    stacks = list(dict.fromkeys(site.stack for site in open_run(base).sites))
    asked = [(runs, stack) for runs in by_regime.values() for stack in stacks]
    found = iter(in_processes(partial(_along_stack, base, home, groups), asked, "sites"))
    return {n: [record for _ in stacks for record in next(found)] for n in by_regime}


def _along_stack(base: Path, home: Path, groups: int, asked: tuple[Runs, str]) -> list[dict[str, Any]]:
    runs, stack = asked
    folders = {
        m: [home / Setting(**_plain(r["setting"])).name / "run.safetensors" for r in several]
        for m, several in runs.items()
    }
    asked_of = json.dumps([stack, groups, {m: [path.parent.name for path in paths] for m, paths in folders.items()}])
    kept = home / f"sites-{hashlib.sha256(asked_of.encode()).hexdigest()[:12]}.json"
    if not kept.exists():
        found = rankscope.compare_arms(folders, base=base, measures=[*RANKS, *RELATIONS], sites=stack, groups=groups)
        keys = ("arm", "site", "measure", "value", "low", "high", "floor")
        told = [{key: r[key] for key in keys} for r in found.to_records() if r["arm"] in runs]
        write_output(kept, json.dumps(told).encode())
    return list(json.loads(kept.read_text()))


def _means(several: Sequence[Mapping[str, float] | None]) -> dict[str, Any]:
    """Every number of a method, as a mean over its runs with Student's interval."""
    there = [one for one in several if one is not None]
    return {name: mean([one[name] for one in there])._asdict() for name in there[0]}


def _plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as it was before JSON made its tuples lists."""
    options = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in setting["options"])
    return dict(setting) | {"options": options}


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home = size["study"], folder / "scenes"
    base = outcomes(study, home, [Setting("base", 0, 0)], "the base")[0]
    before = base["looks"][0]
    untuned = untrained(study.base, study.samples, 16, "random", 0, rankscope.load_model(study.base))["old look"]
    assert untuned - base["losses"][BEFORE] <= BOUND[16], (
        f"an untrained prefix has a loss of {untuned:.2f} on the old look"
    )
    regimes = {training: chosen(home, training, size) for training in size["steps"]}
    ways = {way: {training: told_by(way, runs) for training, (_, runs) in regimes.items()} for way in WAYS}
    started = {training: from_its_own_start(runs) for training, (_, runs) in regimes.items()}
    for runs in (runs for _, runs in regimes.values()):
        starts = [run["looks"][0]["drift"] for kind in ("lora", "adapter") for run in runs.get(kind, ())]
        assert max(starts) < 1e-9, "an untrained update moves features"
    base_run = home / Setting("base", 0, 0).name / "run.safetensors"
    sites = along_sites({n: runs for n, (_, runs) in regimes.items()}, base_run, home, study.groups)
    for records in sites.values():
        still = [r for r in records if (r["arm"], r["site"], r["measure"]) == ("lora", "vision.final", "drift")]
        assert still, "drift was not read at the vision tower"
        assert all(abs(r["value"]) < 1e-9 for r in still)
    told = {
        "size": {"name": size_name, "seeds": size["seeds"], "steps": size["steps"], "samples": study.samples},
        "base": base,
        "untrained_prefix": {BEFORE: untuned},
        "verdicts": {
            **{c: {way: decided(ways[way], c) for way in WAYS if (c, way) not in NOT_TOLD} for c in CLAIMS},
            "collapse": {way: collapsed(ways[way], before[PRINCIPAL]) for way in WAYS},
        },
        "from its own start": {
            "leads": {c: decided(started, c)["leads"] for c in CLAIMS if c != "score"},
            "means": {n: {m: _means(several) for m, several in runs.items()} for n, runs in started.items()},
        },
        "untrained": {
            n: {m: _means([r["looks"][0] for r in of]) for m, of in runs.items()} for n, (_, runs) in regimes.items()
        },
        "trials": {n: tried for n, (tried, _) in regimes.items()},
        "runs": {n: runs for n, (_, runs) in regimes.items()},
        "sites": sites,
    }
    with styled():
        write(draw(ways, started, base, untrained_rank(regimes)), told, out)
    return told


# %% The figure.
def draw(
    ways: Mapping[str, Mapping[int, Mapping[str, Any]]],
    started: Mapping[int, Mapping[str, Any]],
    base: Mapping[str, Any],
    untrained: float | None,
) -> Figure:
    """Score, rank from both zeros, what is readable and what is forgotten, against the number of captions; and the leads."""
    figure = new_figure(6.6)
    axes = figure.subplots(3, 2).ravel()
    end, before = ways[WAYS[0]], base["looks"][0]
    against_captions(end, "score", axes[0], "CIDEr-D on held-out captions", None)
    against_captions(end, PRINCIPAL, axes[1], "participation ratio at the end", before[PRINCIPAL])
    if untrained is not None:
        axes[1].axhline(untrained, color="0.5", linestyle=":", linewidth=0.8, label="untrained prefix")
    against_captions(started, PRINCIPAL, axes[2], "participation ratio, from its own start", 0.0)
    against_captions(end, "recoverability", axes[3], "recoverability at the end", None)
    against_captions(ways[WAYS[1]], BEFORE, axes[4], "loss on the old look at the same task loss", before[BEFORE])
    axes[4].set_yscale("log")
    axes[4].set_yticks(ticks := (0.1, 0.2, 0.5, 1, 2), [f"{x:g}" for x in ticks])
    axes[4].minorticks_off()
    leads(ways, axes[5])
    legend(figure)
    return figure


def untrained_rank(regimes: Mapping[int, tuple[Any, Runs]]) -> float | None:
    """The participation ratio with an untrained prefix of the default length; None where no training begins with one."""
    begun = [
        run["looks"][0][PRINCIPAL]
        for _, runs in regimes.values()
        for method, several in runs.items()
        for run in several
        if method not in KINDS and "prefix_length" not in dict(run["setting"]["options"])
    ]
    return mean(begun).value if begun else None


def against_captions(
    by_regime: Mapping[int, Mapping[str, Any]], name: str, ax: Axes, title: str, base: float | None
) -> None:
    """A number of every method against the number of training captions: means over seeds with Student's intervals."""
    for i, method in enumerate(METHODS):
        style = look(i) | {"markersize": 3}
        found = {n: mean(values) for n, runs in by_regime.items() if (values := numbers(runs.get(method, ()), name))}
        if not found:
            continue
        x = [n * 1.05 ** (i - len(METHODS) / 2) for n in found]  # side by side, so that intervals can be told apart
        ax.plot(x, [m.value for m in found.values()], label=method, **style)
        ends = [(m.value if m.low is None else m.low, m.value if m.high is None else m.high) for m in found.values()]
        ax.vlines(x, *zip(*ends, strict=True), color=style["color"], linewidth=0.8)
    if base is not None:
        ax.axhline(base, **(look(-1) | {"linewidth": 0.8}), label="pre-trained")
    ax.set(xscale="log", xticks=list(by_regime), xticklabels=[f"{n:,}" for n in by_regime], xlabel="training captions")
    ax.minorticks_off()
    panel_title(ax, title)


def leads(ways: Mapping[str, Mapping[int, Mapping[str, Any]]], ax: Axes) -> None:
    """Each lead in recoverability, at the end and at the same task loss."""
    rows, styles = {}, []
    for place, way in enumerate(WAYS[:2]):
        for pair, lead in decided(ways[way], "space kept")["leads"].items():
            rows[pair, place] = Interval(**lead)
            styles.append(look(place))
    order = sorted(rows, key=lambda row: (list(dict.fromkeys(pair for pair, _ in rows)).index(row[0]), row[1]))
    by_row = dict(zip(rows, styles, strict=True))
    forest({row: rows[row] for row in order}, [by_row[row] for row in order], ax)
    ax.set_yticks(range(0, len(order), 2), [pair.replace(" less ", " − ") for pair, place in order if not place])
    ax.set_xlabel("circles: at the end; squares: same loss")
    panel_title(ax, "PT-X less X in recoverability")


if __name__ == "__main__":
    asked = arguments(__doc__, "claim")
    result = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for claim, told_ways in result["verdicts"].items():
        for way, found in told_ways.items():
            print(f"{claim}, {way}: {found['verdict']}")
