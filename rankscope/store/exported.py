"""What ``rankscope export`` wrote, read back: each row with its sample, position and role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rankscope.data.arrow import parquet_table
from rankscope.errors import DataError
from rankscope.features import ROLES
from rankscope.store import files
from rankscope.store.matrices import Foreign, Matrix
from rankscope.store.numpy_files import as_tensor, numpy_arrays
from rankscope.store.plain import LIMIT, Json, member, named_file
from rankscope.store.tables import arrow_table, column

EXPORTED = "run.json"
"""The file by which such a folder is recognised: the manifest of the run."""
ROWS = ("sample", "position", "role")
"""The columns that say where rows came from."""


def holds_rows(table: Any) -> bool:
    """Whether a table has the columns of an exported site."""
    return {*ROWS, "features"} <= set(table.column_names)


def description(folder: Path) -> dict[str, Json] | None:
    """The manifest that ``rankscope export`` wrote into a folder; None if it wrote none there."""
    listing = folder / EXPORTED
    if not listing.is_file():
        return None
    try:
        found = json.loads(files.read_small(listing, LIMIT))
    except ValueError:
        return None
    # Other tools may call a file so, too.
    parts = ("probe", "sites") if isinstance(found, dict) else ()
    return found if parts and all(isinstance(found.get(part), dict) for part in parts) else None


def foreign_to_export(path: Path) -> str | None:
    """The first name in a folder that ``rankscope export`` did not write there; None if it wrote all of it."""
    described = description(path) if path.is_dir() else None
    if described is None:
        return path.name if not path.is_dir() else next(iter(files.names_in(path)), None)
    sites = member(described, "sites", dict, path / EXPORTED)
    stacks = [named_file(sites[site], "stack", path / EXPORTED) for site in sites]
    own = {EXPORTED, "dataset_dict.json", *sites, *(f"{stack}.rows.npz" for stack in stacks)}
    own |= {f"{site}{ending}" for site in sites for ending in (".npy", ".parquet")}
    return next((name for name in files.names_in(path) if name not in own), None)


def read_site(table: Any, form: str, path: Path) -> Foreign:
    """One exported site from a table of its own, the file ``path``."""
    return _from_rows(form, {path.stem: table}, _ids(description(path.parent), path.parent))


def _ids(described: Mapping[str, Json] | None, folder: Path) -> list[str] | None:
    """The ids of all samples of the exported run, also of those without rows; None if the folder does not say."""
    if described is None:
        return None
    probe = member(described, "probe", dict, folder / EXPORTED)
    return [str(i) for i in member(probe, "ids", list, folder / EXPORTED)]


def read_export(path: Path, described: Mapping[str, Json], only: str | None = None) -> Foreign:
    """The folder that ``rankscope export`` wrote, as arrays, Parquet files or data sets; ``only`` one of its sites.

    Raises:
        DataError: if the features of a site are missing, or do not fit its rows.
        UnsafeError: if a name leads out of the folder.
    """
    listing = path / EXPORTED
    sites = member(described, "sites", dict, listing)
    tables: dict[str, Any] = {}
    for site in sites if only is None else [only]:
        stack = named_file(sites[site], "stack", listing)
        tables[site] = _table(path, named_file({"site": site}, "site", listing), stack)
    found = _from_rows("a run that was exported", tables, _ids(described, path))
    if described.get("dtype") != "bfloat16":
        return found
    # Arrays and Arrow have no bfloat16, and float32 holds each of its values exactly.
    return replace(found, sites={name: m._replace(x=m.x.bfloat16()) for name, m in found.sites.items()})


def _table(path: Path, site: str, stack: str) -> Any:
    """The rows of a site: a table, or a mapping of its columns."""
    if (path / f"{site}.npy").is_file():
        rows = numpy_arrays(path / f"{stack}.rows.npz")
        features = as_tensor(numpy_arrays(path / f"{site}.npy")[site])
        return {**{name: rows[name].tolist() for name in ROWS}, "features": features}
    if (path / f"{site}.parquet").is_file():
        return parquet_table(path / f"{site}.parquet")
    if (path / site / "state.json").is_file():
        return arrow_table(sorted((path / site).glob("*.arrow")))
    raise DataError(f"{path} lacks the features of {site}; export the run again")


def _from_rows(form: str, tables: Mapping[str, Any], ids: Sequence[str] | None) -> Foreign:
    """Rows that say which sample, position and role they are; in the order of the samples.

    Raises:
        DataError: if there are not as many of each as rows, or a sample or role is unknown.
    """
    sites: dict[str, Matrix] = {}
    for name, table in tables.items():
        plain = isinstance(table, dict)
        sample, position, role = (table[c] if plain else table.column(c).to_pylist() for c in ROWS)
        vectors = None if plain else column(table.column("features"), "features", Path(name))
        x = table["features"] if vectors is None else vectors.x
        ids = list(dict.fromkeys(map(str, sample))) if ids is None else ids
        places = {text: i for i, text in enumerate(ids)}
        lost = [r for r in role if r not in ROLES] + [s for s in sample if str(s) not in places]
        if lost or x.ndim != 2 or not len(x) == len(sample) == len(position) == len(role):
            raise DataError(
                f"the rows of {name} do not fit its features: {lost[0] if lost else f'{len(sample)} of them for {len(x)}'}"
            )
        index = torch.tensor([places[str(s)] for s in sample], dtype=torch.int64)
        order = torch.argsort(index, stable=True)
        at = torch.tensor(position)[order]
        kinds = torch.tensor([ROLES.index(r) for r in role], dtype=torch.uint8)[order]
        counts = torch.bincount(index, minlength=len(ids))
        sites[name] = Matrix(x[order], counts, bool((at >= 0).any()), at, kinds)
    return Foreign(form, sites, tuple(ids or ()), exact=True)
