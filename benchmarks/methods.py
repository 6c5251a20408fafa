"""Every tuning method on the embedded checkpoint: trainable numbers, seconds a step, peak memory, loss and score.

    python benchmarks/methods.py            # writes benchmarks/methods.json and prints the table
    python benchmarks/methods.py --steps 2000 --test 400

All methods see the same captions of the downstream scenes for the same number of optimiser steps in total: a method
of two stages has half of them in each. Each runs in a process of its own, so that the peak memory is its own; encoded
samples are part of it, of which training keeps up to 512 MiB, so that it grows with the steps of a stage until then.
The floor is the untuned base, the first row: each must come 0.1 nats below its held-out loss and 1 above its CIDEr-D,
which no model does that was not trained. Rates are the defaults of each method: this compares costs, and shows that
every method learns; it is no ranking of methods, for which rates would have to be searched and seeds repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def measured(method: str, steps: int, train: int, test: int) -> dict[str, object]:
    """One row of the table."""
    import torch

    from rankscope.data import embedded_checkpoint, open_data
    from rankscope.scores.cider import CiderReward
    from rankscope.tuning import generate, held_out_loss, train as tune
    from rankscope.tuning.recipes import recipe
    from rankscope.tuning.record import peak_bytes

    base, held = embedded_checkpoint(), open_data(f"scenes:captions/test?n={test}")
    row: dict[str, object] = {"method": method, "trained": 0, "seconds_per_step": None, "peak_mib": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(base)
        if method != "base":
            stages = len(recipe(method).stages)
            begun = time.monotonic()
            done = tune(
                base,
                method=method,
                data=f"scenes:captions/train?n={train}",
                out=Path(folder) / "o",
                steps=steps // stages,
            )
            told = done.training[-1]
            row |= {"trained": sum(told["trained"].values()), "seconds": time.monotonic() - begun}
            row |= {"seconds_per_step": told["seconds_per_step"], "peak_mib": peak_bytes() / 2**20}
            path = done.path
        said = generate(path, held)
        reward = CiderReward({example.id: list(example.targets) for example in held})
        row["cider"] = float(reward([p.id for p in said], [p.text for p in said]).mean())
        row["loss"] = held_out_loss(path, held)
    return row | {"device": "cuda" if torch.cuda.is_available() else "cpu", "threads": torch.get_num_threads()}


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", help="measure this one only, and print its row as JSON")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "methods.json")
    given = parser.parse_args()
    if given.method:
        print(json.dumps(measured(given.method, given.steps, given.train, given.test)))
        return
    from rankscope.tuning.recipes import METHODS
    from rankscope.tuning.record import versions

    rows = []
    for method in ("base", *METHODS):
        command = [sys.executable, __file__, "--method", method]
        command += [f"--{name}={getattr(given, name)}" for name in ("steps", "train", "test")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(
            "  ".join(
                _cell(rows[-1][k]) for k in ("method", "trained", "seconds_per_step", "peak_mib", "loss", "cider")
            )
        )
    result = {"steps": given.steps, "train": given.train, "test": given.test, "versions": versions(), "rows": rows}
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    base, *tuned = rows
    learnt = [r["method"] for r in tuned if r["loss"] < base["loss"] - 0.1 and r["cider"] > base["cider"] + 1]
    assert len(learnt) == len(METHODS), f"only {learnt} come well below the untuned loss of {base['loss']:.3f}"


def _cell(value: object) -> str:
    return f"{value:>10.3f}" if isinstance(value, float) else f"{value!s:>15}"


if __name__ == "__main__":
    main()
