"""``rankscope weights``: what tuning did to the weights themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.results.weights import WeightRecord, WeightReport


def weights(
    checkpoint: Annotated[list[Path], typer.Argument(help="A checkpoint folder, or several in order: base, adapters.")],
    modules: Annotated[str, typer.Option(help="Which modules, as *.q_proj; several patterns by comma.")] = "*",
    k: Annotated[int, typer.Option(help="Leading singular vectors in which intruders are looked for.")] = 10,
    threshold: Annotated[float, typer.Option(help="The cosine below which a vector is an intruder.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Noises beside each count of intruders; 0 for none.")] = 4,
    spectra: Annotated[Path | None, typer.Option(help="Write the singular values of every change here (.npz).")] = None,
    base_model: Annotated[str | None, typer.Option(help="The base, where the adapter's own record is wrong.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Allow code that lies in the checkpoint to run.")] = False,
    as_json: show.Json = False,
    as_csv: show.Csv = False,
    device: show.Device = None,
    quiet: show.Quiet = False,
) -> None:
    """Spectra of what tuning changed in each weight matrix, intruder dimensions beside those of noise, power-law tails.

    Of a prefix or prompt the effective number of its rows; of a model that was not tuned the tails alone.

    Example: rankscope weights lora/ --modules '*.q_proj'
    """
    from rankscope.analysis.weigh import weigh

    with show.progress("weighing", quiet=quiet) as progress:
        result = weigh(
            checkpoint,
            base_model=base_model,
            modules=modules,
            k=k,
            threshold=threshold,
            draws=draws,
            trust_remote_code=trust_remote_code,
            device=device,
            progress=progress,
        )
    for text in () if quiet else result.notes:
        show.note(f"note: {text}")
    show.records(result.to_records(), as_json=as_json, as_csv=as_csv, table=lambda: _table(result))
    if spectra:
        import numpy as np

        arrays: dict[str, Any] = {name: values.numpy() for name, values in result.spectra.items()}
        np.savez(spectra, **arrays)
        show.note(f"spectra: {spectra}")


def _table(result: WeightReport) -> None:
    ranks, sizes = ["rank", "effective", "stable"], ["size", "leading"]
    columns = ["module", "kind", "shape", *ranks, *sizes, "intruders (noise)", "gap", "alpha"]
    title = f"{result.name}: changes of weights, and rows that were learnt"
    show.table(title, columns, [_line(r) for r in result.records], words=2)
    for text, count in Counter(text for record in result.records for text in record.notes).items():
        show.note(f"note: {count} of {len(result.records)}: {text}")


def _line(r: WeightRecord) -> list[str]:
    found, tail = r.intruder, r.tail
    noise = "" if found.intruders_of_noise is None else f" ({show.number(found.intruders_of_noise)})"
    before = "" if tail.alpha_before is None else f", before {show.number(tail.alpha_before)}"
    alpha = "–" if tail.alpha is None else f"{show.number(tail.alpha)} ± {show.number(tail.alpha_error)}{before}"
    ranks = [show.number(x) for x in (r.ranks.rank, r.ranks.effective, r.ranks.stable)]
    sizes = [show.number(x) for x in (r.relative.size, r.relative.leading)]
    intruders = [show.number(found.intruders) + noise, show.number(found.gap)]
    return [r.module, r.kind or "–", f"{r.m} × {r.n}", *ranks, *sizes, *intruders, alpha]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(weights)
