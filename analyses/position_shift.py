"""Does the embedded checkpoint bear a prefix? What a shift of positions does by itself, and an untrained prefix, beside a trained one.

A prefix of n rows moves the text n places along the position table. The checkpoint of 0.1.0 had been pre-trained with every word
at the same few places; a shift of 16, with no prefix at all, took its loss on the old look from 0.16 to 4.57 nats, and that was
reported as what prefix-tuning forgets. Before anything is said of prefixes on a checkpoint, this script says what they do to it
untrained.

RULES, written before the runs. The checkpoint *bears a shift* if each of the three losses at shifts of 1, 4, 16 and 64 lies within
``FLAT`` of the unshifted one. It *bears an untrained prefix* of the default start if that raises the loss on the old look by at most
``BOUND[n]`` nats for a prefix of n rows, in each of three seeds. The default start (``prefix_init``) is the one that gives the lower
mean held-out task loss after training, over three seeds, if the means differ by more than the largest spread of one start's seeds;
else the one that raises the loss on the old look less before training.

Then the artifacts of the same kind: padding on the left, the company in the batch, prompts worded otherwise, one query fewer, and
samples longer than those seen.

    python analyses/position_shift.py                      a quarter of an hour on one core
    python analyses/position_shift.py --checkpoint FOLDER  of another checkpoint of the scenes
    python analyses/position_shift.py --quick              two minutes: fewer samples, nothing trained
"""

# %%
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rankscope
from rankscope.data import ProbeSet
from rankscope.data.scenes import scenes
from rankscope.models.tunings.prefix import rows_hidden
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix
from rankscope.plots.style import look, new_figure, panel_title, panels, save, styled
from rankscope.tuning import held_out_loss
from rankscope.tuning.recipes import recipe
from rankscope.tuning.record import versions

TASKS = {"task": "captions", "old look": "pretrain-captions", "questions": "questions"}
"""What each loss is of: the captions that are tuned on, those of pre-training, and another task."""
SHIFTS = (0, 1, 4, 16, 64)
LENGTHS = (1, 4, 16, 64)
STARTS = ("random", "tokens")
FLAT = 0.02
"""How far, as a share, a loss at a shift may lie from the unshifted one."""
BOUND = {1: 0.1, 4: 0.2, 16: 0.6, 64: 1.5}
"""By how much, in nats, an untrained prefix of so many rows may raise the loss on the old look."""
SEEDS = (0, 1, 2)
STEPS = 400
RATES = (None, 1e-3, 3e-4)
"""Learning rates of a trained prefix; None is the default."""
Losses = dict[str, float]


# %% Losses, and the state before any training.
def losses(checkpoint: Path, n: int, model: nn.Module) -> Losses:
    """The three held-out losses of a model, nats a token."""
    data = {name: f"scenes:{task}/test?n={n}" for name, task in TASKS.items()}
    return {name: held_out_loss(checkpoint, of, model=model) for name, of in data.items()}


def shifted(checkpoint: Path, n: int, rows: int, model: nn.Module) -> Losses:
    """The losses with positions shifted by ``rows``, and nothing else: a prefix that nothing sees."""
    if not rows:
        return losses(checkpoint, n, model)
    with rows_hidden(attach_prefix(model, new_prefix(model, rows=rows))):
        found = losses(checkpoint, n, model)
    detach_prefix(model)
    return found


def untrained(checkpoint: Path, n: int, rows: int, start: str, seed: int, model: nn.Module) -> Losses:
    """The losses with a prefix as training would begin with it."""
    from rankscope.tuning.planning import attach_stage, make_plan

    made = recipe("prefix", options={"prefix_length": rows, "prefix_init": start})
    data = f"scenes:{TASKS['task']}/train?n=64"
    _, plan = make_plan(checkpoint, made, data, seed=seed)
    attach_stage(model, plan, 0)
    found = losses(checkpoint, n, model.eval())
    detach_prefix(model)
    return found


def bears_a_shift(by_shift: Mapping[int, Losses]) -> bool:
    """The first rule."""
    return all(abs(found[name] / by_shift[0][name] - 1) <= FLAT for found in by_shift.values() for name in TASKS)


def bears_a_prefix(base: Losses, by_length: Mapping[int, Sequence[Losses]]) -> bool:
    """The second rule."""
    return all(
        found["old look"] - base["old look"] <= BOUND[n] for n, several in by_length.items() for found in several
    )


# %% After training.
def trained(checkpoint: Path, n: int, start: str, seed: int, rate: float | None, folder: Path) -> Losses:
    """The losses after a prefix was trained; made once and then found in its folder."""
    out = folder / f"{start}-{rate or 'default'}-s{seed}"
    kept = out / "losses.json"
    if not kept.exists():
        rankscope.train(
            checkpoint,
            method="prefix",
            data=f"scenes:{TASKS['task']}/train",
            out=out / "checkpoint",
            steps=STEPS,
            seed=seed,
            prefix_init=start,
            learning_rate=rate,
            resume=(out / "checkpoint").exists(),
        )
        model = rankscope.load_model(out / "checkpoint")
        kept.write_text(json.dumps(losses(checkpoint, n, model)))
    return json.loads(kept.read_text())


def better_start(before: Mapping[str, Sequence[Losses]], after: Mapping[str, Sequence[Losses]]) -> str:
    """The third rule: the start that is the default."""
    tasks = {start: [found["task"] for found in several] for start, several in after.items()}
    means = {start: sum(values) / len(values) for start, values in tasks.items()}
    spread = max(max(values) - min(values) for values in tasks.values())
    if max(means.values()) - min(means.values()) > spread:
        return min(means, key=lambda start: means[start])
    old = {start: sum(found["old look"] for found in several) for start, several in before.items()}
    return min(old, key=lambda start: old[start])


# %% Artifacts of the same kind.
def neighbours(checkpoint: Path, n: int, folder: Path) -> dict[str, float]:
    """How far features at the last site move, relative to their norm, with padding on the left and alone in the batch."""
    data = f"scenes:{TASKS['old look']}/test?n={n}"

    def features(name: str, **options: Any) -> torch.Tensor:
        out = folder / f"{name}.pt"
        run = rankscope.collect(
            checkpoint, data, sites="decoder.final", rows="tokens", out=out, overwrite=True, **options
        )
        return run.features("decoder.final").double()

    right, left, alone = features("right"), features("left", padding_side="left"), features("alone", tokens_per_batch=1)
    return {"padding on the left": _apart(left, right), "alone in the batch": _apart(alone, right)}


def _apart(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


def reworded(checkpoint: Path, n: int, model: nn.Module) -> Losses:
    """The loss on the old look where the prompt "describe the scene :" is another one, of words that the model knows."""
    found = {}
    for prompt in ("describe the scene :", "describe the scene", "the scene :", "the black scene :", ""):
        data = ProbeSet(prompt or "none", [replace(e, text=prompt) for e in scenes(TASKS["old look"], "test", n=n)])
        found[prompt or "(none)"] = held_out_loss(checkpoint, data, task="captioning", model=model)
    return found


def one_query_fewer(checkpoint: Path, n: int, folder: Path) -> dict[int, Losses]:
    """The losses without one of the queries that stand for no cell of the scene, by its place."""
    from transformers import AutoProcessor, Blip2ForConditionalGeneration

    found = {}
    for query in (9, 10, 11):
        model = Blip2ForConditionalGeneration.from_pretrained(checkpoint)
        kept = [i for i in range(model.query_tokens.shape[1]) if i != query]
        model.query_tokens = nn.Parameter(model.query_tokens[:, kept].detach().clone())
        model.config.num_query_tokens = len(kept)
        processor = AutoProcessor.from_pretrained(checkpoint)
        processor.num_query_tokens = len(kept)
        out = folder / f"without-query-{query}"
        model.save_pretrained(out)
        processor.save_pretrained(out)
        found[query] = losses(out, n, rankscope.load_model(out))
    return found


def longer(checkpoint: Path, n: int, model: nn.Module) -> dict[int, float]:
    """The loss on the old look where so many captions of other scenes stand before the prompt; pre-training saw up to 64 tokens."""
    items = list(scenes(TASKS["old look"], "test", n=n))

    def after(others: int) -> ProbeSet:
        def text(i: int) -> str:
            return " ".join([*(items[(i + k + 1) % len(items)].targets[0] for k in range(others)), items[i].text])

        return ProbeSet(f"after {others}", [replace(e, text=text(i)) for i, e in enumerate(items)])

    return {k: held_out_loss(checkpoint, after(k), task="captioning", model=model) for k in range(4)}


# %% The figure.
def draw(found: Mapping[str, Any], stem: Path) -> None:
    """Losses against the shift alone, and on the old look against the length of an untrained prefix."""
    with styled():
        figure = new_figure(2.4)
        one, two = panels(figure, 2)
        for i, name in enumerate(TASKS):
            one.plot(range(len(SHIFTS)), [found["shifted"][s][name] for s in SHIFTS], label=name, **look(i))
        one.set(ylim=(0, None), xlabel="shift of positions, no prefix", ylabel="held-out loss, nats a token")
        one.set_xticks(range(len(SHIFTS)), [str(s) for s in SHIFTS])
        panel_title(one, "the shift alone")
        for i, start in enumerate(STARTS):
            means = [sum(f["old look"] for f in found["untrained"][start][n]) / len(SEEDS) for n in LENGTHS]
            two.plot(range(len(LENGTHS)), means, label=f"started {start}", **look(i))
        two.axhline(found["shifted"][0]["old look"], label="no prefix", **look(-1))
        two.set(ylim=(0, None), xlabel="rows of an untrained prefix", ylabel="loss on the old look, nats a token")
        two.set_xticks(range(len(LENGTHS)), [str(n) for n in LENGTHS])
        panel_title(two, "the prefix before training, mean of three seeds")
        for ax in (one, two):
            ax.legend(frameon=False)
    save(figure, stem, kinds=["svg"])


# %%
def state(checkpoint: Path, n: int) -> dict[str, Any]:
    """What shifts and untrained prefixes do: all that the first two rules ask."""
    model = rankscope.load_model(checkpoint)
    by_shift = {s: shifted(checkpoint, n, s, model) for s in SHIFTS}
    before = {
        start: {rows: [untrained(checkpoint, n, rows, start, seed, model) for seed in SEEDS] for rows in LENGTHS}
        for start in STARTS
    }
    default = recipe("prefix").options["prefix"].init
    return {
        "shifted": by_shift,
        "untrained": before,
        "bears a shift": bears_a_shift(by_shift),
        "bears an untrained prefix": bears_a_prefix(by_shift[0], before[default]),
    }


def table(found: Mapping[str, Any]) -> str:
    """The table of ``analyses/README.md``."""
    lines = ["| | task | old look | questions |", "|---|---|---|---|"]

    def row(name: str, several: Sequence[Losses]) -> None:
        lines.append(f"| {name} | " + " | ".join(" · ".join(f"{f[t]:.3f}" for f in several) for t in TASKS) + " |")

    row("embedded checkpoint", [found["shifted"][0]])
    row("positions shifted by 1 · 4 · 16 · 64, no prefix", [found["shifted"][s] for s in SHIFTS[1:]])
    for start in STARTS:
        row(f"untrained prefix, {start}, of 1 · 4 · 16 · 64 rows", [found["untrained"][start][n][0] for n in LENGTHS])
    for start, several in found.get("trained", {}).items():
        row(f"trained prefix, {start}, {STEPS} steps, three seeds", several)
    for start, several in found.get("rates", {}).items():
        row(f"trained prefix, {start}, rate 1e-3 · 3e-4", several)
    return "\n".join(lines)


def main(checkpoint: Path, n: int, folder: Path, stem: Path, *, train: bool) -> dict[str, Any]:
    """Everything, written as a figure and its JSON."""
    found = {"versions": versions(), "samples": n, **state(checkpoint, n)}
    model = rankscope.load_model(checkpoint)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    found["neighbours"] = neighbours(checkpoint, min(n, 64), folder / "runs")
    found["prompts"] = reworded(checkpoint, n, model)
    found["one query fewer"] = one_query_fewer(checkpoint, n, folder)
    found["longer"] = longer(checkpoint, n, model)
    if train:
        tune: Callable[..., Losses] = lambda *a: trained(checkpoint, n, *a, folder / "trained")  # noqa: E731
        found["trained"] = {start: [tune(start, seed, None) for seed in SEEDS] for start in STARTS}
        found["rates"] = {start: [tune(start, 0, rate) for rate in RATES[1:]] for start in STARTS}
        found["better start"] = better_start({s: found["untrained"][s][16] for s in STARTS}, found["trained"])
    draw(found, stem)
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build") / "position_shift")
    parser.add_argument("--out", type=Path, default=Path("figures") / "position_shift")
    asked = parser.parse_args()
    embedded = rankscope.embedded_checkpoint()
    result = main(
        asked.checkpoint or embedded, 48 if asked.quick else 200, asked.folder, asked.out, train=not asked.quick
    )
    print(table(result))
    for part in (
        "bears a shift",
        "bears an untrained prefix",
        "neighbours",
        "prompts",
        "one query fewer",
        "longer",
        "better start",
    ):
        print(f"{part}: {result.get(part)}")
    assert asked.checkpoint or (result["bears a shift"] and result["bears an untrained prefix"])
