"""Collecting features: this library, the script that everyone writes, and the forward passes alone.

    python benchmarks/collect.py            # writes benchmarks/collect.json and prints the table

The peer is a loop over batches in the order of the data with ``output_hidden_states=True``, which keeps every layer of every
token in memory, picks the real tokens and saves one tensor a layer. The floor is the very forward passes that the library
does, with nothing read. All three see the same texts and the same number of texts a batch of the longest length; peak memory is
of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import machine, side_by_side

HERE = Path(__file__).parent
BATCH, WIDTH, BLOCKS = 16, 256, 8


def checkpoint(folder: Path) -> Path:
    """A random GPT-2 of eight blocks with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(500)} | {"<pad>": 500}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_embd=WIDTH, n_layer=BLOCKS, n_head=4, n_positions=256, pad_token_id=500
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>").save_pretrained(folder)
    return folder


def texts(n: int, path: Path) -> Path:
    """``n`` texts of 4 to 128 words, most of them short."""
    draw = random.Random(0)
    lines = [" ".join(f"w{draw.randrange(500)}" for _ in range(4 + int(124 * draw.random() ** 3))) for _ in range(n)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def by_hand(base: Path, data: Path, out: Path) -> None:
    """The script that everyone writes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    lines = [json.loads(line)["text"] for line in data.read_text().splitlines()]
    kept: list[list[torch.Tensor]] = [[] for _ in range(BLOCKS + 1)]
    for start in range(0, len(lines), BATCH):
        batch = tokenizer(lines[start : start + BATCH], return_tensors="pt", padding=True)
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states
        for layer, state in zip(kept, states, strict=True):
            layer.append(state[batch["attention_mask"].bool()])
    torch.save({f"layer.{i}": torch.cat(layer) for i, layer in enumerate(kept)}, out)


def by_rankscope(base: Path, data: Path, out: Path) -> None:
    import rankscope

    rankscope.collect(base, data, rows="tokens", out=out, overwrite=True)


def forwards_alone(base: Path, data: Path, out: Path) -> None:
    """The forward passes of the library's own plan, without a hook and without a store."""
    from rankscope.collecting.job import Request, prepare
    from rankscope.collecting.loading import Loading

    job = prepare(base, data, Request(rows="tokens", out=out.with_name("never-written")), Loading())
    source, model = job.source, job.source.model
    with torch.no_grad():
        for batch in job.plan:
            model(**source.collate(batch.samples).kwargs)


def own_peak() -> float:
    """Peak resident memory of this process in MiB; what getrusage says is inherited from the process that started it."""
    status = Path("/proc/self/status").read_text()
    return float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


WAYS = {"rankscope": by_rankscope, "by hand": by_hand, "floor": forwards_alone}


def peak(way: str, base: Path, data: Path, out: Path) -> float:
    """Peak memory in MiB of one way in a process of its own."""
    command = [sys.executable, __file__, "--peak", way, str(base), str(data), str(out)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(sizes: list[int], out: Path) -> dict[str, Any]:
    told: dict[str, Any] = {**machine(), "width": WIDTH, "blocks": BLOCKS, "batch": BATCH, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = checkpoint(work / "base")
        for n in sizes:
            data = texts(n, work / f"{n}.jsonl")
            rivals = {name: partial(way, base, data, work / "run.pt") for name, way in WAYS.items()}
            row = {"texts": n, "times": side_by_side(rivals, rounds=5)}
            row["peak_mib"] = {name: peak(name, base, data, work / f"{name}.pt") for name in WAYS}
            told["rows"].append(row)
    out.write_text(json.dumps(told, indent=1) + "\n")
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--out", type=Path, default=HERE / "collect.json")
    parser.add_argument("--peak", nargs=4, metavar=("WAY", "BASE", "DATA", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        way, *paths = asked.peak
        WAYS[way](*map(Path, paths))
        print(own_peak())
    else:
        for row in main(asked.sizes, asked.out)["rows"]:
            print(row["texts"], "texts")
            for name, time in row["times"].items():
                print(
                    f"  {name:10s} {time['seconds']:7.2f} s  {time['ratio']:5.2f} of rankscope's  {row['peak_mib'][name]:6.0f} MiB"
                )
