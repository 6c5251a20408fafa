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
    name: Annotated[str | None, Option(help="The run's name in tables and figures.")] = None,
    site: Annotated[list[str] | None, Option(help="The site for a name in the source, e.g. h3=decoder.3.")] = None,
    columns: Annotated[str | None, Option(help="Import only these names, comma-separated.")] = None,
    ids: Annotated[Path | None, Option(help="A text file with one sample id per line.")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Turn the features of another tool into a run: .npy, .npz, .pt, .safetensors, Parquet, Arrow, SAELens, TorchLens.

    Example: rankscope import activations.npz --out lora.pt --site layer3=decoder.3
    """
    target = out or source.with_name(f"{source.stem}.run")
    early.need_file(source)
    early.need_free(target, overwrite=overwrite)
    early.need_free_for_run(target, overwrite=overwrite)
    sites = options.pairs(site, "a site is written name=site, e.g. h3=decoder.3", str.rpartition)
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
        raise UsageError(f"there is no ids file {path}")
    return path.read_text(encoding="utf-8").splitlines()


def export(
    run: options.Stored,
    out: Annotated[Path, Option(help="The folder to create.")],
    to: Annotated[options.Form, Option(help="The output format.")] = "npy",
    overwrite: options.Overwrite = False,
) -> None:
    """Export a run's features for other tools, one site at a time, with the origin of each row.

    Example: rankscope export lora.pt --out lora-npy
    """
    early.need_stored(run)
    early.need_free(out, overwrite=overwrite)
    from rankscope.store import export_run, open_run

    show.made(export_run(open_run(run), out, to=to, overwrite=overwrite))
