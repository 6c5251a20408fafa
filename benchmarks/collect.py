"""Collecting features: this library beside the scripts and tools that do it too, as parts of the forward passes alone.

    python benchmarks/collect.py            # writes benchmarks/collect.json and prints a line for each way

A GPT-2 of six blocks of width 384 with 20,000 words reads 256 texts of 4 to 154 words, most of them short. One is the time of the plain
forward passes over the texts in their own order, 32 a batch, with nothing read; every way gets the model loaded. Peers: hooks that keep
the real tokens of every block and save them at the end, the same with ``output_hidden_states=True``, and TransformerLens and
TorchLens where they are installed, with what they cache saved. The floor is the passes that the library itself does, batches by length that
end at the last site, with nothing read. Peak memory is of a process of its own, at two numbers of texts. Processor time stands beside
the clock's, because on a shared machine it says more.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from timing import machine, side_by_side
from torch import Tensor

HERE = Path(__file__).parent
BATCH, WIDTH, BLOCKS, WORDS = 32, 384, 6, 20_000
GOALS = {
    "all tokens, a folder": 0.35,
    "all tokens, one .pt": 0.35,
    "last tokens, a folder": 0.3,
    "all tokens, moments": 0.45,
}
"""The parts of the plain forward passes that this library's ways should take at most."""


class Work(NamedTuple):
    """What every way is given."""

    model: Any
    """The model, loaded."""
    tokenizer: Any
    """Its tokenizer."""
    base: Path
    """The folder that both came from."""
    data: Path
    """The texts, as JSON lines."""
    folder: Path
    """Where outputs go."""

    @classmethod
    def of(cls, base: Path, data: Path, folder: Path) -> Work:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(base).eval()
        return cls(model, AutoTokenizer.from_pretrained(base), base, data, folder)

    def lines(self) -> list[str]:
        """The texts in their own order."""
        return [json.loads(line)["text"] for line in self.data.read_text().splitlines()]

    def batches(self) -> list[dict[str, Tensor]]:
        """The texts in their own order, tokenized and padded."""
        lines = self.lines()
        parts = [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]
        return [dict(self.tokenizer(part, return_tensors="pt", padding=True)) for part in parts]

    def save(self, kept: Sequence[Sequence[Tensor]]) -> None:
        """One tensor a layer, as scripts save them."""
        torch.save({f"layer.{i}": torch.cat(list(layer)) for i, layer in enumerate(kept)}, self.folder / "peer.pt")


def checkpoint(folder: Path) -> Path:
    """A random GPT-2 with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    pad = WORDS - 1
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(pad)} | {"<pad>": pad}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    ends = {"pad_token_id": pad, "bos_token_id": pad, "eos_token_id": pad}
    config = GPT2Config(vocab_size=WORDS, n_embd=WIDTH, n_layer=BLOCKS, n_head=6, n_positions=256, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>").save_pretrained(folder)
    return folder


def texts(n: int, path: Path) -> Path:
    """``n`` texts of 4 to 154 words, most of them short."""
    draw = random.Random(0)
    lengths = [4 + int(151 * draw.random() ** 3) for _ in range(n)]
    lines = [" ".join(f"w{draw.randrange(WORDS - 1)}" for _ in range(length)) for length in lengths]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@torch.inference_mode()
def plain_forwards(work: Work) -> None:
    for batch in work.batches():
        work.model(**batch)


def by_rankscope(work: Work, rows: str, name: str, keep: Literal["rows", "moments"] = "rows") -> None:
    import rankscope

    out = work.folder / name
    rankscope.collect(work.model, work.data, processor=work.base, rows=rows, out=out, keep=keep)
    shutil.rmtree(out) if out.is_dir() else out.unlink()


@torch.inference_mode()
def floor(work: Work) -> None:
    """The forward passes of the library's own batches, each ended at the last site, with nothing read."""
    from rankscope.collecting.budget import ON_CPU
    from rankscope.reading.forward import batches_by_length

    class Ended(BaseException): ...

    def end(*told: object) -> None:
        raise Ended

    lines = work.lines()
    handle = work.model.transformer.ln_f.register_forward_hook(end)
    for samples, _ in batches_by_length([len(line.split()) for line in lines], ON_CPU):
        with suppress(Ended):
            work.model(**work.tokenizer([lines[i] for i in samples], return_tensors="pt", padding=True))
    handle.remove()


@torch.inference_mode()
def by_hooks(work: Work) -> None:
    """The script that many write: a hook on each block, the real tokens kept, one file at the end."""
    kept: list[list[Tensor]] = [[] for _ in range(BLOCKS)]
    real = torch.empty(0)

    def keep(layer: int, module: object, args: object, output: Any) -> None:
        kept[layer].append((output[0] if isinstance(output, tuple) else output)[real])

    handles = [b.register_forward_hook(partial(keep, i)) for i, b in enumerate(work.model.transformer.h)]
    for batch in work.batches():
        real = batch["attention_mask"].bool()
        work.model(**batch)
    for handle in handles:
        handle.remove()
    work.save(kept)


@torch.inference_mode()
def by_output_hidden_states(work: Work) -> None:
    """The script that most write."""
    kept: list[list[Tensor]] = [[] for _ in range(BLOCKS + 1)]
    for batch in work.batches():
        states = work.model(**batch, output_hidden_states=True).hidden_states
        for layer, state in zip(kept, states, strict=True):
            layer.append(state[batch["attention_mask"].bool()])
    work.save(kept)


def transformer_lens(work: Work) -> Callable[[], None]:
    """The outputs of all blocks by the cache of TransformerLens; the model is a copy, for it is rebuilt."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        str(work.base), hf_model=deepcopy(work.model), tokenizer=work.tokenizer
    )
    names = [f"blocks.{i}.hook_out" for i in range(BLOCKS)]

    @torch.inference_mode()
    def run() -> None:
        kept: list[list[Tensor]] = [[] for _ in names]
        for batch in work.batches():
            _, cache = bridge.run_with_cache(
                batch["input_ids"], attention_mask=batch["attention_mask"], names_filter=names
            )
            for layer, name in zip(kept, names, strict=True):
                layer.append(cache[name][batch["attention_mask"].bool()])
        work.save(kept)

    return run


def torchlens(work: Work) -> Callable[[], None]:
    """The outputs of all blocks by TorchLens, without a mask, which GPT-2 does not need behind padding on the right."""
    import torchlens as lens

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = lens.trace(work.model, work.batches()[0]["input_ids"][:1, :4])
        names = [trace.modules[f"transformer.h.{i}"].output_ops[0] for i in range(BLOCKS)]

    @torch.inference_mode()
    def run() -> None:
        kept: list[list[Tensor]] = [[] for _ in names]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in work.batches():
                found = lens.extract(work.model, batch["input_ids"], names)
                for layer, name in zip(kept, names, strict=True):
                    layer.append(found[name][batch["attention_mask"].bool()])
        work.save(kept)

    return run


WAYS: dict[str, Callable[[Work], None]] = {
    "plain forwards": plain_forwards,
    "all tokens, a folder": partial(by_rankscope, rows="tokens", name="run"),
    "all tokens, one .pt": partial(by_rankscope, rows="tokens", name="run.pt"),
    "last tokens, a folder": partial(by_rankscope, rows="last", name="run"),
    "all tokens, moments": partial(by_rankscope, rows="tokens", name="run", keep="moments"),
    "floor": floor,
    "plain hooks": by_hooks,
    "output_hidden_states": by_output_hidden_states,
}
LENSES: dict[str, Callable[[Work], Callable[[], None]]] = {
    "transformer-lens": transformer_lens,
    "torchlens": torchlens,
}
"""Tools that need not be installed, by the names of their packages; they are timed in one round."""
MEASURED = ("all tokens, a folder", "all tokens, one .pt", "all tokens, moments", "plain hooks", "output_hidden_states")
"""The ways whose peak memory is measured."""


def peak(way: str, base: Path, data: Path) -> float:
    """Peak memory in MiB of one way in a process of its own."""
    command = [sys.executable, __file__, "--peak", way, str(base), str(data)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def own_peak() -> float:
    """Peak resident memory of this process in MiB; what getrusage says is inherited from the process that started it."""
    status = Path("/proc/self/status").read_text()
    return float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def main(n: int, rounds: int, out: Path) -> dict[str, Any]:
    shape = {"width": WIDTH, "blocks": BLOCKS, "words": WORDS, "texts": n, "batch": BATCH, "rounds": rounds}
    told: dict[str, Any] = {**machine(), **shape, "goals": GOALS, "lenses": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        work = Work.of(checkpoint(root / "base"), texts(n, root / "texts.jsonl"), root)
        told["times"] = side_by_side({name: partial(way, work) for name, way in WAYS.items()}, rounds)
        for name, made in LENSES.items():
            there = find_spec(name.replace("-", "_")) is not None
            told["lenses"][name] = version(name) if there else None
            if there:
                told["times"][name] = side_by_side({"": partial(plain_forwards, work), name: made(work)}, 1)[name]
        more = texts(4 * n, root / "more.jsonl")
        told["peak_mib"] = {
            name: {str(k): peak(name, work.base, data) for k, data in ((n, work.data), (4 * n, more))}
            for name in MEASURED
        }
    out.write_text(json.dumps(told, indent=1) + "\n")
    return told


def lines(told: dict[str, Any]) -> list[str]:
    """What was found, a line for each way, and for each goal whether it is met."""
    one = told["times"]["plain forwards"]["seconds"]
    found = [f"parts of the plain forward passes, {one:.1f} s; medians of {told['rounds']} rounds"]
    for name, time in told["times"].items():
        goal = told["goals"].get(name)
        met = "" if goal is None else f"   goal {goal:.2f}: {'met' if time['ratio'] <= goal else 'missed'}"
        found.append(f"  {name:22s} {time['ratio']:6.2f} by the clock  {time['cpu_ratio']:6.2f} of the processor{met}")
    found += [f"  {name:22s} is not installed here" for name, there in told["lenses"].items() if there is None]
    for name, sizes in told["peak_mib"].items():
        found.append(f"  {name:22s} {', '.join(f'{mib:,.0f} MiB at {n} texts' for n, mib in sizes.items())}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "collect.json")
    parser.add_argument("--peak", nargs=3, metavar=("WAY", "BASE", "DATA"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        way, base, data = asked.peak
        with tempfile.TemporaryDirectory() as folder:
            WAYS[way](Work.of(Path(base), Path(data), Path(folder)))
            print(own_peak())
    else:
        print("\n".join(lines(main(asked.texts, asked.rounds, asked.out))))
