"""``rankscope import`` and ``rankscope export``: features of other tools into runs, and runs out for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rankscope.cli import early, options, show
from rankscope.errors import UsageError
from rankscope.sites import Site


def import_(
    source: Annotated[Path, Argument(help="An array, a dictionary of tensors, columns, or another tool's store.")],
    out: Annotated[Path | None, Option(help="The run: a folder, .pt or .safetensors. Default: SOURCE.run")] = None,
    name: Annotated[str | None, Option(help="What tables and figures call it.")] = None,
    site: Annotated[list[str] | None, Option(help="The site of a name in the source, as h3=decoder.3.")] = None,
    columns: Annotated[str | None, Option(help="Only these names of the source, by comma.")] = None,
    ids: Annotated[Path | None, Option(help="A text file with the id of each sample, a line each.")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a run of what another tool wrote: .npy, .npz, .pt, .safetensors, Parquet, Arrow, SAELens, TorchLens.

    Example: rankscope import activations.npz --out lora.pt --site layer3=decoder.3
    """
    target = out or source.with_name(f"{source.stem}.run")
    early.need_file(source)
    early.need_free(target, overwrite=overwrite)
    early.need_free_for_run(target, overwrite=overwrite)
    sites = options.pairs(site, "a site is name=site, as h3=decoder.3", str.rpartition)
    for spelled in sites.values():
        Site.parse(spelled)
    names = _lines(ids) if ids else None
    from rankscope.store import import_features

    run = import_features(
        source,
        target,
        name=name,
        sites=sites,
        columns=columns.split(",") if columns else None,
        ids=names,
        overwrite=overwrite,
    )
    for text in run.manifest.notes:
        show.note(f"note: {text}")
    show.made(run.path)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"there is no file {path} to take the ids from")
    return path.read_text(encoding="utf-8").splitlines()


def export(
    run: options.Stored,
    out: Annotated[Path, Option(help="The folder to make.")],
    to: Annotated[options.Form, Option(help="What is written.")] = "npy",
    overwrite: options.Overwrite = False,
) -> None:
    """Write a run's features for other tools, a site at a time, with where each row came from.

    Example: rankscope export lora.pt --out lora-npy
    """
    early.need_stored(run)
    early.need_free(out, overwrite=overwrite)
    from rankscope.store import export_run, open_run

    show.made(export_run(open_run(run), out, to=to, overwrite=overwrite))
