"""The whole loop on what the package brings along: tune, collect, compare, draw. No network, a few minutes on two cores."""

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
from rankscope.writing import storing

TRAINING = "scenes:captions/train?n=2000"
"""The training data: captions of a look that pre-training did not have."""
HELD_OUT = "scenes:captions/test"
"""The data on which features are read."""
SHOWN = ("participation-ratio", "pt-peft", "overlap", "recoverability", "drift")
"""The measures in the printed table."""


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
    """
    out, data = Path(out), f"{HELD_OUT}?n={samples}"
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


def _leave(result: Demo, versions: Mapping[str, Any]) -> None:
    save(result.contrast.plot(), result.out / "compare")
    found = {"versions": versions, "held_out_loss": result.losses, "records": result.contrast.to_records()}
    with storing(result.out):
        result.contrast.to_frame().to_csv(result.out / "compare.csv", index=False)
        (result.out / "compare.json").write_text(json.dumps(found, indent=1))
