"""What is a learned prefix? Its spectrum, the words it is nearest to, who looks at it, and what goes when a row is taken away.

Sixteen rows, tuned from 1,024 captions of the scenes for 400 steps, with five seeds; beside each the same prefix as training
began with it. A row of a prefix is a key and a value for each of the decoder's blocks.

In one attention a prefix does one thing, exactly (Petrov et al., 2310.19698): with a the share of a query's attention that goes to
the prefix, v the mean of the prefix's values under that attention and out₀ what the query would get without it,

    out = (1 − a) out₀ + a v.

DECISION RULES, written before the runs.

1. *The identity* holds if out and the right-hand side differ by less than 1e-4 of out's largest entry, in every block, head and
   seed; asserted, because it is algebra.
2. *Rows are used* if the effective number of the prefix's rows (exp of the entropy of its normalised singular values) exceeds half of
   them, with Student's interval over seeds above 8; *collapsed* if the interval lies below 2; else *partly*.
3. *A prefix is made of words* is supported in miniature if the keys of the first block are nearer to keys of words (mean over rows of
   the largest cosine) than Gaussian rows with the mean and covariance of words' keys are, in every seed, beyond the 97.5 % quantile of 200
   draws; contradicted if in every seed they are less near than the 2.5 % quantile; else not decided. The untrained prefix is told beside it.
4. *Few rows do the work* is supported in miniature if taking away the one row that costs most raises the task loss by more than
   half of what taking away all rows does, with Student's interval over seeds above one half; contradicted if below; else not decided.

Attention is told by block and by who looks (image, prompt, caption), beside what equal attention to all that is seen would give.

``python analyses/what_a_prefix_is.py``: ten minutes on two cores, less once ``claim.py`` has run; ``--quick``: seconds, decides nothing.
"""

# %%
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from claim import STUDY
from findings import CONTRADICTED, SUPPORTED, UNDECIDED, Interval, arguments, decide, mean, write
from limited_scenes import data
from matplotlib.axes import Axes
from runs import Setting, Study, begun, held_out, outcomes
from torch import Tensor, nn

import rankscope
from rankscope.checkpoint import Checkpoint
from rankscope.features import ANSWER, IMAGE
from rankscope.models.inputs.reader import reader
from rankscope.models.stacks import stacks
from rankscope.models.tunings.prefix import Prefix
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, prefix_of
from rankscope.plots.style import look, new_figure, panel_title, styled

STACK = "decoder"
LOOKING = ("image", "prompt", "caption")
SIZES: dict[str, dict[str, Any]] = {
    "full": {"training": 1024, "steps": 400, "seeds": (0, 1, 2, 3, 4), "draws": 200, "study": STUDY},
    "quick": {"training": 16, "steps": 2, "seeds": (0, 1), "draws": 20, "study": replace(STUDY, samples=8, watched=8)},
}


# %% The model with and without its prefix, and what its attentions do.
def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder's attentions."""
    return [block.get_submodule("self_attn") for block in stacks(model)[STACK].blocks]


def heads(x: Tensor, attention: nn.Module) -> Tensor:
    """``(b, t, d)`` as ``(b, heads, t, width)``."""
    return x.unflatten(-1, (int(attention.num_heads), -1)).transpose(1, 2)


@contextmanager
def seen(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """What enters every attention of the decoder, and what it gives before its output projection, in the order of the blocks."""
    found: list[dict[str, Tensor]] = [{} for _ in blocks(model)]
    hooks = []
    for here, attention in zip(found, blocks(model), strict=True):

        def before(module: nn.Module, args: Any, kwargs: Any, here: dict[str, Tensor] = here) -> None:
            here["hidden"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

        def inner(module: nn.Module, args: tuple[Tensor], here: dict[str, Tensor] = here) -> None:
            here["out"] = args[0]

        hooks.append(attention.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(attention.get_submodule("out_proj").register_forward_pre_hook(inner))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attended(model: nn.Module, study: Study, n: int) -> dict[str, Any]:
    """The identity's largest error; and for every block and kind of query the share of attention that the prefix gets."""
    prefix = prefix_of(model)
    assert prefix is not None
    reads = reader(model, Checkpoint.read(study.base))
    batch = reads.read(list(data("test", n)))
    grid = batch.grids[STACK]
    with seen(model) as found:
        model(**batch.inputs)
    length = found[0]["hidden"].shape[1]
    roles, real = grid.role[:, -length:], grid.real[:, -length:].bool()
    kinds = {"image": roles == IMAGE, "caption": roles == ANSWER}
    kinds["prompt"] = ~(kinds["image"] | kinds["caption"])
    causal = torch.ones(length, length, dtype=torch.bool).tril() & real[:, None, None, :]
    shares: dict[str, list[float]] = {name: [] for name in LOOKING}
    errors = []
    for here, attention, (keys, values) in zip(found, blocks(model), prefix(STACK), strict=True):
        q, k, v = (heads(attention.get_submodule(f"{p}_proj")(here["hidden"]), attention) for p in "qkv")
        scale = k.shape[-1] ** -0.5
        own = (q @ k.mT * scale).masked_fill(~causal, -torch.inf)
        ahead = q @ keys.mT * scale  # (b, heads, t, rows)
        both = torch.cat([ahead, own], -1).softmax(-1)
        a = both[..., : prefix.rows].sum(-1, keepdim=True)
        without = own.softmax(-1).nan_to_num() @ v
        by_prefix = ahead.softmax(-1) @ values
        told = (1 - a) * without + a * by_prefix
        out = heads(here["out"], attention)
        where = real[:, None, :, None].expand_as(out)
        errors.append(float((told - out)[where].abs().max() / out[where].abs().max()))
        for name in LOOKING:
            shares[name].append(float(a[..., 0].mean(1)[kinds[name] & real].mean()))
    places = real.cumsum(1).float()  # how many a query sees, itself included
    equal = {name: float((prefix.rows / (prefix.rows + places))[kinds[name] & real].mean()) for name in LOOKING}
    return {"error": max(errors), "attention": shares, "equal": equal}


# %% The prefix by itself.
def effective_rows(prefix: Prefix) -> float:
    """exp of the entropy of the prefix's normalised singular values, over all blocks."""
    return float(rankscope.effective_rank(torch.linalg.svdvals(prefix.tables()[STACK].double())))


@torch.no_grad()
def nearness(model: nn.Module, draws: int) -> dict[str, Any]:
    """How near the first block's keys are to those of words, what Gaussian rows of the words' moments score, and which words."""
    prefix = prefix_of(model)
    assert prefix is not None
    first = stacks(model)[STACK].blocks[0]
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    words = first.get_submodule("self_attn.k_proj")(first.get_submodule("self_attn_layer_norm")(table.weight))
    keys = prefix(STACK)[0][0].transpose(0, 1).flatten(1)

    def near(rows: Tensor) -> Tensor:
        return nn.functional.normalize(rows, dim=-1) @ nn.functional.normalize(words, dim=-1).T

    centre, spread = words.mean(0), torch.linalg.cholesky(words.T.cov() + 1e-6 * torch.eye(words.shape[1]))
    random = torch.Generator().manual_seed(0)
    null = torch.stack(
        [
            near(centre + torch.randn(keys.shape, generator=random) @ spread.mT).max(-1).values.mean()
            for _ in range(draws)
        ]
    )
    best = near(keys).max(-1)
    low, high = null.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {
        "nearness": float(best.values.mean()),
        "null": {"mean": float(null.mean()), "low": low, "high": high},
        "words": best.indices.tolist(),
    }


def without_rows(model: nn.Module, study: Study) -> dict[str, Any]:
    """The task loss with the prefix, without each of its rows, with each alone, and without any."""
    whole = detach_prefix(model)
    assert whole is not None
    asked = held_out(study, "validation", study.watched)

    def loss(keep: Sequence[int]) -> float:
        if not keep:
            return asked.loss(model)
        attach_prefix(model, Prefix.of_tables({s: t[list(keep)] for s, t in whole.tables().items()}, whole.shapes))
        found = asked.loss(model.eval())
        detach_prefix(model)
        return found

    rows = range(whole.rows)
    told = {
        "all": loss(rows),
        "none": loss([]),
        "without": [loss([r for r in rows if r != row]) for row in rows],
        "alone": [loss([row]) for row in rows],
    }
    attach_prefix(model, whole)
    return told


# %% What the rules say.
def used(effective: Interval, rows: int) -> str:
    """Whether rows are used, by rule 2."""
    if effective.low is not None and effective.low > rows / 2:
        return "used"
    return "collapsed" if effective.high is not None and effective.high < 2 else "partly used"


def made_of_words(found: Sequence[Mapping[str, Any]]) -> str:
    """Whether a prefix is made of words, by rule 3."""
    if all(f["nearness"] > f["null"]["high"] for f in found):
        return SUPPORTED
    return CONTRADICTED if all(f["nearness"] < f["null"]["low"] for f in found) else UNDECIDED


def share_of_one(taken: Mapping[str, Any]) -> float:
    """How much of what all rows are worth goes with the one that is worth most."""
    worth = taken["none"] - taken["all"]
    return (max(taken["without"]) - taken["all"]) / worth if worth > 0 else 0.0


def share_alone(taken: Mapping[str, Any]) -> float:
    """How much of what all rows are worth the best of them has by itself."""
    worth = taken["none"] - taken["all"]
    return (taken["none"] - min(taken["alone"])) / worth if worth > 0 else 0.0


def looked_at(model: nn.Module, study: Study, draws: int) -> dict[str, Any]:
    """Everything about one prefix but what its rows are worth."""
    prefix = prefix_of(model)
    assert prefix is not None
    found = {
        "effective_rows": effective_rows(prefix),
        **nearness(model, draws),
        **attended(model, study, study.watched),
    }
    assert found["error"] < 1e-4, f"the identity is {found['error']:.1e} off"
    return found


# %%
def main(size_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Train what is missing, look, decide, write the figure and its JSON, and return what they tell."""
    size = SIZES[size_name]
    study, home = size["study"], folder / "scenes"
    settings = [Setting("prefix", size["training"], size["steps"], seed=seed) for seed in size["seeds"]]
    outcomes(study, home, settings, "prefixes")
    words = reader(rankscope.load_model(study.base), Checkpoint.read(study.base)).inputs.tokenizer
    trained, started = [], []
    for setting in settings:
        model = rankscope.load_model(home / setting.name / "checkpoint")
        told = looked_at(model, study, size["draws"])
        told["words"] = words.convert_ids_to_tokens(told["words"])
        trained.append(told | {"rows": without_rows(model, study)})
        started.append(looked_at(begun(study, setting), study, size["draws"]))
    rows = len(trained[0]["rows"]["without"])
    effective, shares = mean(t["effective_rows"] for t in trained), [share_of_one(t["rows"]) for t in trained]
    share = mean(share - 0.5 for share in shares)
    result = {
        "size": {"name": size_name, **{k: v for k, v in size.items() if k != "study"}},
        "verdicts": {
            "rows are used": used(effective, rows),
            "a prefix is made of words": made_of_words(trained),
            "few rows do the work": decide([share]),
        },
        "effective_rows": effective._asdict(),
        "share_of_one": shares,
        "share_of_one_alone": [share_alone(t["rows"]) for t in trained],
        "trained": trained,
        "untrained": started,
    }
    with styled():
        figure = new_figure(4.6)
        axes = figure.subplots(2, 2).ravel()
        draw_rows(trained, axes[0])
        draw_nearness(trained, started, axes[1])
        draw_attention(trained, started, axes[2])
        draw_worth(trained, axes[3])
        write(figure, result, out)
    return result


# %% The figure.
def draw_rows(trained: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """What each row is worth by itself and in company."""
    for place, (name, key) in enumerate((("only this row", "alone"), ("all but this row", "without"))):
        several = [sorted(t["rows"][key], reverse=key == "without") for t in trained]
        style = look(place)
        for i, values in enumerate(several):
            ax.plot(
                range(1, len(values) + 1), values, label=name if not i else None, color=style["color"], linewidth=0.8
            )
    for key, name, style in (("none", "no rows", "--"), ("all", "all rows", "-")):
        level = sum(t["rows"][key] for t in trained) / len(trained)
        ax.axhline(level, color="black", linestyle=style, linewidth=0.8, label=name)
    ax.set(xlabel="rows, sorted", ylabel="task loss, nats a token")
    ax.legend(frameon=False, fontsize=6)
    panel_title(ax, "what a row is worth")


def draw_nearness(trained: Sequence[Mapping[str, Any]], started: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """How near the first keys are to words' keys, and the null."""
    null = trained[0]["null"]
    ax.axhspan(null["low"], null["high"], color="0.88", label="Gaussian rows like words")
    for place, (name, several) in enumerate((("untrained", started), ("trained", trained))):
        style = look(place) | {"linestyle": ""}
        ax.plot([place] * len(several), [t["nearness"] for t in several], **style)
        ax.text(place, min(t["nearness"] for t in several) - 0.03, name, ha="center", va="top", fontsize=7)
    ax.set(xlim=(-0.6, 1.6), xticks=[], ylim=(0, 1), ylabel="largest cosine with a word")
    ax.legend(frameon=False, fontsize=6, loc="upper left")
    panel_title(ax, "nearness to words, first block")


def draw_attention(trained: Sequence[Mapping[str, Any]], started: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """The share of attention that the prefix gets, by block and by who looks."""
    for place, name in enumerate(LOOKING):
        style = look(place) | {"markersize": 4}
        for several, line in ((trained, "-"), (started, ":")):
            lines = [t["attention"][name] for t in several]
            middle = [sum(values) / len(values) for values in zip(*lines, strict=True)]
            label = name if several is trained else None
            ax.plot(range(1, len(middle) + 1), middle, **(style | {"linestyle": line}), label=label)
    ax.set(ylim=(0, 1), xticks=range(1, len(trained[0]["attention"]["image"]) + 1), xlabel="block")
    ax.set_ylabel("share of attention")
    ax.legend(frameon=False, fontsize=6)
    panel_title(ax, "who looks at it (dotted: untrained)")


def draw_worth(trained: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """Each row's worth against how many rows there effectively are."""
    x = [t["effective_rows"] for t in trained]
    ax.plot(x, [share_of_one(t["rows"]) for t in trained], **(look(0) | {"linestyle": ""}))
    ax.axhline(0.5, **(look(-1) | {"linewidth": 0.8}))
    ax.set(xlabel="effective number of rows", ylabel="share of the worth in one row")
    panel_title(ax, "each point a seed")


if __name__ == "__main__":
    asked = arguments(__doc__, "what_a_prefix_is")
    result = main("quick" if asked.quick else "full", asked.folder, asked.out)
    for name, said in result["verdicts"].items():
        print(f"{name}: {said}")
