"""``rankscope weights``: what tuning did to the weights themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, options, show

if TYPE_CHECKING:
    from rankscope.results.weights import WeightRecord, WeightReport


@dataclass(frozen=True)
class Weighing:
    """What is weighed, and how; fields are named as :func:`rankscope.weigh` names them."""

    modules: Annotated[str, Option(help="Module names, e.g. *.q_proj; several patterns comma-separated.")] = "*"
    k: Annotated[int, Option(min=1, help="Number of leading singular vectors searched for intruders.")] = 10
    threshold: Annotated[float, Option(min=0, max=1, help="The cosine below which a vector is an intruder.")] = 0.5
    draws: Annotated[int, Option(min=0, help="Noise draws per intruder count; 0 for none.")] = 4
    base_model: options.BaseModel = None
    trust_remote_code: options.TrustRemoteCode = False
    device: options.Device = None


def weights(
    checkpoint: options.Checkpoint,
    weighing: Weighing,
    printing: options.Printing,
    spectra: Annotated[
        Path | None, Option(help="Write the singular values of every weight change here (.npz).")
    ] = None,
    overwrite: options.Overwrite = False,
    plot: options.Figure = None,
    download: options.Download = False,
) -> None:
    """Spectra of what tuning changed in each weight matrix, intruder dimensions against those of noise, power-law tails.

    For a prefix or prompt, the effective number of its rows; for a model that was not tuned, the tails alone.

    Example: rankscope weights lora/ --modules '*.q_proj'
    """
    if download:
        fetching.fetch(checkpoint, base_model=weighing.base_model)
    early.need_checkpoint(checkpoint, base_model=weighing.base_model)
    early.need_free(spectra, overwrite=overwrite)
    early.need_figure(plot)
    import rankscope

    with printing.progress("weighing", unit="matrices") as progress:
        result = rankscope.weigh(checkpoint, **vars(weighing), progress=progress)
    printing.notes(result.notes)
    printing.records(result.to_records(), lambda: _table(result, printing))
    show.figure(result, plot, f"{result.name}-weights", quiet=printing.quiet)
    if spectra:
        import numpy as np

        from rankscope.writing import write_output

        arrays: dict[str, Any] = {name: values.numpy() for name, values in result.spectra.items()}
        np.savez(buffer := BytesIO(), **arrays)
        write_output(spectra, buffer.getvalue())
        show.note(f"spectra: {spectra}")


def _table(result: WeightReport, printing: options.Printing) -> None:
    ranks, sizes = ["rank", "effective", "stable"], ["size", "leading"]
    columns = ["module", "kind", "shape", *ranks, *sizes, "intruders (noise)", "gap", "alpha"]
    title = f"{result.name}: weight changes and learnt rows"
    show.table(title, columns, [_line(r) for r in result.records], words=2)
    said = Counter(text for record in result.records for text in record.notes)
    printing.notes(f"{count} of {len(result.records)}: {text}" for text, count in said.items())


def _line(r: WeightRecord) -> list[str]:
    found, tail = r.intruder, r.tail
    noise = "" if found.intruders_of_noise is None else f" ({show.number(found.intruders_of_noise)})"
    before = "" if tail.alpha_before is None else f", before {show.number(tail.alpha_before)}"
    alpha = "–" if tail.alpha is None else f"{show.number(tail.alpha)} ± {show.number(tail.alpha_error)}{before}"
    ranks = [show.number(x) for x in (r.ranks.rank, r.ranks.effective, r.ranks.stable)]
    sizes = [show.number(x) for x in (r.relative.size, r.relative.leading)]
    intruders = [show.number(found.intruders) + noise, show.number(found.gap)]
    return [r.module, r.kind or "–", f"{r.m} × {r.n}", *ranks, *sizes, *intruders, alpha]
