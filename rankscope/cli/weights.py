"""``rankscope weights``: what tuning did to the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, options, show, weight_table


@dataclass(frozen=True)
class Weighing:
    """What is weighed, and how; fields are named as :func:`rankscope.weigh` names them."""

    modules: Annotated[str, Option(help="Module names, e.g. *.q_proj; several patterns comma-separated.")] = "*"
    k: Annotated[int, Option(min=1, help="Number of leading singular vectors searched for intruders.")] = 10
    threshold: Annotated[float, Option(min=0, max=1, help="The cosine below which a vector is an intruder.")] = 0.5
    draws: Annotated[int, Option(min=0, help="Draws of noise beside each number; 0 for none.")] = 4
    n: Annotated[int | None, Option("--n", min=1, help="With data: read only the first n samples.")] = None
    processor: Annotated[Path | None, Option(help="With data: the folder of the tokenizer or processor.")] = None
    chat: Annotated[bool, Option("--chat", help="With data: put the texts through the chat template.")] = False
    max_length: Annotated[int | None, Option(min=1, help="With data: truncate texts to this many tokens.")] = None
    base_model: options.BaseModel = None
    trust_remote_code: options.TrustRemoteCode = False
    device: options.Device = None


def weights(
    checkpoint: options.Checkpoint,
    weighing: Weighing,
    probes: options.Data,
    printing: options.Printing,
    data: Annotated[
        str | None,
        Option(
            help="A file or folder on which the base is read: what the changes do to the inputs that their modules meet."
        ),
    ] = None,
    full: options.Full = False,
    spectra: Annotated[
        Path | None, Option(help="Write the singular values of every weight change here (.npz).")
    ] = None,
    overwrite: options.Overwrite = False,
    plot: options.Figure = None,
    download: options.Download = False,
) -> None:
    """What tuning changed in each weight matrix: spectra, rotations, intruder dimensions beside those of noise, power-law tails.

    For a prefix or prompt, the effective number of its rows; for a model that was not tuned, the tails alone. With --data also
    how many directions of the outputs each change uses on the inputs that occur, and how much of the output it is.

    Example: rankscope weights lora/ --modules '*.q_proj' --data texts.jsonl
    """
    if download:
        fetching.fetch(checkpoint, base_model=weighing.base_model)
    early.need_checkpoint(checkpoint, base_model=weighing.base_model, processor=weighing.processor)
    early.need_data(data)
    early.need_free(spectra, overwrite=overwrite)
    early.need_figure(plot)
    examples = probes.open(data)
    import rankscope

    with printing.progress("weighing", unit="matrices") as progress:
        result = rankscope.weigh(checkpoint, data=examples, **vars(weighing), progress=progress)
    printing.notes(result.notes)
    printing.records(result.to_records(), weight_table.printed(result, printing, full=full))
    show.figure(result, plot, f"{result.name}-weights", quiet=printing.quiet)
    if spectra:
        import numpy as np

        from rankscope.writing import write_output

        arrays: dict[str, Any] = {name: values.numpy() for name, values in result.spectra.items()}
        np.savez(buffer := BytesIO(), **arrays)
        write_output(spectra, buffer.getvalue())
        show.note(f"spectra: {spectra}")
