"""The whole loop on what the package ships with: tune, collect, compare, draw. No network, a few minutes on two cores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.analysis.compare import compare
from rankscope.collecting.collect import collect
from rankscope.data import embedded_checkpoint
from rankscope.plots import save
from rankscope.progress import Progress, silent
from rankscope.results.runs import Contrast
from rankscope.store import Run
from rankscope.tuning import held_out_loss, train
from rankscope.writing import check_free, write_output

TRAINING = "scenes:captions/train?n=2000"
"""The training data: captions of a look that pre-training did not have."""
HELD_OUT = "scenes:captions/test"
"""The data on which features are read."""
TABLES, ENDINGS = "compare", ("csv", "json", "svg", "pdf", "png")
"""The name of the tables and figures, and their endings."""


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    contrast: Contrast
    """LoRA and prefix-then-LoRA, both against the pre-trained model."""
    losses: dict[str, float]
    """The held-out loss of each model, in nats per token."""
    out: Path
    """The folder of checkpoints, runs, tables and figures."""


def run_demo(
    out: str | Path, *, steps: int = 100, samples: int = 256, overwrite: bool = False, progress: Progress = silent
) -> Demo:
    """Tune the embedded checkpoint with LoRA and with prefix then LoRA, and compare both with where they began.

    LoRA alone has as many steps as the two stages together. What an earlier call left in ``out`` is continued.

    Args:
        out: the folder for everything.
        steps: training steps of each stage.
        samples: held-out samples on which features are read, at most 400.
        overwrite: whether everything in ``out`` is made again.
        progress: called with (parts done, parts in all, the next part).

    Returns:
        The comparison, and the held-out losses.

    Raises:
        OutputExists: if something in ``out`` has a name that the demo uses, and no demo made it.
    """
    out, data = Path(out), f"{HELD_OUT}?n={samples}"
    if not _is_of_a_demo(out / f"{TABLES}.json"):
        for ending in ENDINGS:
            check_free(out / f"{TABLES}.{ending}", overwrite=overwrite)
    models = {"pre-trained": embedded_checkpoint(), "lora": out / "lora", "pt-lora": out / "pt-lora"}
    parts = 2 + 2 * len(models) + 1
    for number, (method, each) in enumerate((("lora", 2 * steps), ("pt-lora", steps))):
        progress(number, parts, f"tuning: {method}")
        train(
            models["pre-trained"],
            method=method,
            data=TRAINING,
            out=models[method],
            steps=each,
            resume=models[method].exists() and not overwrite,
            overwrite=overwrite,
        )
    runs: list[Run] = []
    for number, (name, path) in enumerate(models.items(), start=2):
        progress(number, parts, f"collecting: {name}")
        run = out / f"{name}.pt"
        runs.append(collect(path, data, rows="tokens", out=run, name=name, overwrite=overwrite, reuse=True))
    losses = {}
    for number, (name, path) in enumerate(models.items(), start=5):
        progress(number, parts, f"held-out loss: {name}")
        losses[name] = held_out_loss(path, data)
    progress(parts - 1, parts, "comparing")
    result = Demo(compare(runs[1], runs[2], base=runs[0]), losses, out)
    _leave(result, runs[0].manifest.versions)
    progress(parts, parts, "done")
    return result


def _is_of_a_demo(record: Path) -> bool:
    try:
        return {"versions", "held_out_loss", "records"} <= json.loads(record.read_text()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _leave(result: Demo, versions: Mapping[str, Any]) -> None:
    found = {"versions": versions, "held_out_loss": result.losses, **result.contrast.to_json()}
    # The record first: by it the next demo knows that the others are a demo's.
    write_output(result.out / f"{TABLES}.json", json.dumps(found, indent=1).encode())
    write_output(result.out / f"{TABLES}.csv", result.contrast.to_frame().to_csv(index=False).encode())
    save(result.contrast.plot(), result.out / TABLES)
