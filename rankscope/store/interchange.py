"""Runs from other tools' features, and features for other tools from runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankscope import writing
from rankscope.data.arrow import pyarrow
from rankscope.errors import DataError, MissingTool, OutputExists, UsageError
from rankscope.features import ROLES, Rows
from rankscope.sites import Site
from rankscope.store import files
from rankscope.store.exported import EXPORTED, foreign_to_export
from rankscope.store.foreign import read_foreign, site_name
from rankscope.store.manifest import DTYPES, Batch, Manifest
from rankscope.store.matrices import Foreign, Matrix
from rankscope.store.onefile import SUFFIXES
from rankscope.store.opening import open_run
from rankscope.store.pack import pack
from rankscope.store.plain import Json
from rankscope.store.run import STRETCH, Places, Run
from rankscope.store.writer import Writer

AT_ONCE = 1 << 16
"""Rows of which it is written at once where they came from."""
_BY_POSITION = "the source has no ids: samples are numbered by position, and matched by it with those of other runs"


def import_features(
    path: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    sites: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Run:
    """A run made from features that another tool has written.

    An array of two dimensions has one row for each sample, one of three (samples, tokens, width) one row for each token.
    Whether such rows include padding or special tokens cannot be known here; the manifest says where they come from.

    Args:
        path: what to import; see :func:`~rankscope.store.foreign.read_foreign`.
        out: the run to make: a folder, or a file ending in ``.pt`` or ``.safetensors``.
        name: the name of the run; that of ``path`` if None.
        sites: sites by the other tool's names, instead of those that :func:`~rankscope.store.foreign.site_name` gives.
        columns: the other tool's names to read; all that can be features if None.
        ids: the ids of the samples; those in the file, or 0, 1, 2, … if None.
        overwrite: whether an existing run is discarded.

    Returns:
        The new run.

    Raises:
        DataError: if there are no features, the number of ids is not that of the samples, or ``sites`` names what the
            source does not have.
        OutputExists: if something is at ``out`` already.
        NonFinite: if a value is NaN or infinite.
    """
    source, target = Path(path), Path(out)
    found = read_foreign(source, columns)
    named = _named(found, sites or {}, source)
    manifest = _manifest(found, named, name or source.stem, source, ids)
    if target.suffix not in SUFFIXES:
        return _write(target, manifest, named, overwrite)
    writing.check_free(target, overwrite=overwrite)
    with writing.new_folder(target) as staging:
        _write(staging, manifest, named, False)
        return pack(staging, target, overwrite=overwrite, within=staging)


def _named(found: Foreign, sites: Mapping[str, str], path: Path) -> dict[str, Matrix]:
    """The matrices by site, the sites of a stack in the order of their numbers."""
    absent = [name for name in sites if name not in found.sites]
    if absent:
        raise DataError(f"{path} has no {absent[0]!r} to name a site; it has {', '.join(found.sites)}")
    named = {
        str(Site.parse(sites.get(name, name if found.exact else site_name(name)))): matrix
        for name, matrix in found.sites.items()
    }
    if len(named) != len(found.sites):
        raise DataError(f"{path}: two of {', '.join(found.sites)} would be the same site; name them with sites")
    stacks: dict[str, Matrix] = {}
    for site, matrix in named.items():
        first = stacks.setdefault(Site.parse(site).stack, matrix)
        if not torch.equal(first.counts, matrix.counts) or first.tokens != matrix.tokens:
            raise DataError(
                f"{path}: the rows of {site} differ from those of another site of its stack; name them with sites"
            )
    order = list(stacks)
    return dict(sorted(named.items(), key=lambda item: _rank(Site.parse(item[0]), order)))


def _rank(site: Site, stacks: Sequence[str]) -> tuple[int, int]:
    """The position of a site in the network: by stack, then embeddings, numbered points and the final one."""
    unnumbered = {"embed": -1, "final": 1 << 30}
    return stacks.index(site.stack), site.index if site.index is not None else unnumbered.get(site.point, 0)


def _manifest(
    found: Foreign, named: Mapping[str, Matrix], name: str, path: Path, ids: Sequence[str] | None
) -> Manifest:
    samples = len(next(iter(named.values())).counts)
    listed: list[Json] = [str(i) for i in (ids if ids is not None else found.ids or range(samples))]
    unnamed = ids is None and not found.ids
    different = len(set(map(str, listed)))
    if len(listed) != samples or different != samples:
        raise DataError(f"{path}: {len(listed)} ids, {different} of them different, for {samples} samples")
    dtypes = {str(matrix.x.dtype).removeprefix("torch.") for matrix in named.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    # The inputs are not known here. Runs with the same ids and shapes pass as read on the same data.
    digest = hashlib.sha256(json.dumps(listed).encode())
    for site, matrix in named.items():
        digest.update(f"{site} {tuple(matrix.x.shape)}".encode())
    checkpoint: dict[str, Json] = {"path": str(path), "form": found.form, "digest": _digest(path)}
    return Manifest(
        name=name,
        checkpoint=checkpoint | ({"ids": "position"} if unnamed else {}),
        probe={"name": path.name, "fingerprint": digest.hexdigest(), "ids": listed},
        rows={"kind": "tokens" if any(m.tokens for m in named.values()) else "pooled", "keep_special": True},
        dtype=dtype if dtype in DTYPES else "float32",
        sites={s: {"width": m.x.shape[1], "stack": Site.parse(s).stack} for s, m in named.items()},
        notes=[f"imported from {found.form}, {path.name}", *found.notes, *([_BY_POSITION] if unnamed else [])],
    )


def _digest(path: Path) -> str:
    return hashlib.sha256("".join(files.digest_of_file(p)[1] for p in files.files_below(path)).encode()).hexdigest()


def _write(path: Path, manifest: Manifest, named: Mapping[str, Matrix], overwrite: bool) -> Run:
    samples = len(next(iter(named.values())).counts)
    largest = max(int(m.counts.sum()) * m.x.shape[1] * m.x.dtype.itemsize for m in named.values())
    # So many samples to a shard that it has about STRETCH bytes, if every site were as large as the largest.
    size = max(1, samples * STRETCH // max(largest * len(named), 1))
    plan = [Batch(k, tuple(range(s, min(s + size, samples))), 0) for k, s in enumerate(range(0, samples, size))]
    starts = {site: [0, *m.counts.cumsum(0).tolist()] for site, m in named.items()}
    with Writer.open(path, manifest, plan, overwrite=overwrite) as writer:
        for batch in writer.todo:
            low, high = batch.samples[0], batch.samples[-1] + 1
            x = {site: m.x[starts[site][low] : starts[site][high]] for site, m in named.items()}
            rows = {Site.parse(site).stack: _places(m, low, high) for site, m in named.items()}
            writer.write(batch.id, x, rows)
        writer.finish()
    return open_run(path)


def _places(matrix: Matrix, low: int, high: int) -> Places:
    """Where the rows of samples ``low`` to ``high`` came from."""
    counts = matrix.counts[low:high]
    sample = torch.arange(low, high).repeat_interleave(counts)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    # A token's position counts from the start of its sample; a row that is a whole sample has position -1.
    position = torch.arange(len(sample)) - starts if matrix.tokens else torch.full_like(sample, -1)
    role = torch.full_like(sample, ROLES.index("text" if matrix.tokens else "pooled"), dtype=torch.uint8)
    first = int(matrix.counts[:low].sum())
    own = slice(first, first + len(sample))
    return (
        sample,
        position if matrix.position is None else matrix.position[own],
        role if matrix.role is None else matrix.role[own],
    )


def export_run(run: Run, out: str | Path, *, to: str = "npy", overwrite: bool = False) -> Path:
    """Write the features of a run for other tools, with the rows in the data's order, a stretch of one site at a time.

    Args:
        run: the run.
        out: the folder to make; it appears when it is whole.
        to: ``npy`` (``decoder.3.npy`` for each site, the rows in ``<stack>.rows.npz``), ``parquet`` (``decoder.3.parquet``
            for each site, with the columns ``sample``, ``position``, ``role`` and ``features``) or ``hf`` (the same columns
            as a dictionary of data sets, one for each site, for ``datasets.load_from_disk``). Arrow and NumPy have no
            bfloat16: such features become float32, which changes no value.
        overwrite: whether an earlier export at ``out`` is replaced.

    Returns:
        The folder.

    Raises:
        UsageError: if ``to`` is none of these.
        OutputExists: if the folder exists, and is not to be replaced or is no export.
        MissingTool: if pyarrow or datasets is needed and not installed.
        StorageError: if the disk is full, read-only or failing.
    """
    writers: dict[str, Callable[[Run, Path], None]] = {"npy": _to_npy, "parquet": _to_parquet, "hf": _to_hf}
    if to not in writers:
        raise UsageError(f"runs are exported to {', '.join(writers)}; not to {to!r}")
    target = Path(out)
    writing.check_free(target, overwrite=overwrite)
    if target.exists() and (strange := foreign_to_export(target)):
        raise OutputExists(
            f"{target} holds {strange!r}, which is no part of an export; it is kept: choose another output"
        )
    with writing.storing(target), writing.new_folder(target) as folder:
        made = folder / "made"
        made.mkdir()
        writers[to](run, made)
        (made / EXPORTED).write_text(json.dumps(run.manifest.to_json(), indent=1) + "\n")
        if target.exists():
            target.rename(folder / "earlier")
        made.rename(target)
    return target


def _values(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def _to_npy(run: Run, folder: Path) -> None:
    dtype = _values(torch.empty(0, dtype=run.manifest.torch_dtype)).dtype
    for site in run.sites:
        with (folder / f"{site}.npy").open("wb") as file:
            _write_array(file, dtype, (run.n(site), run.width(site)), map(_values, run.stretches(site)))
        path = folder / f"{run.manifest.stack(site)}.rows.npz"
        if not path.exists():
            _write_rows(path, run.rows_at(site))


def _write_array(
    file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any] | Sequence[str]]
) -> None:
    """The bytes that ``np.save`` writes of an array, which comes in parts of some rows."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(np.asarray(part, dtype).tobytes())


def _write_rows(path: Path, rows: Rows) -> None:
    """The bytes that ``np.savez`` writes of where rows came from; as text a column may be larger than the features."""
    samples, roles = (
        [names[i] for i in x.unique().tolist()] for names, x in ((rows.ids, rows.sample), (ROLES, rows.role))
    )
    parts = partial(_parts, rows)
    columns: dict[str, tuple[np.dtype[Any], Iterator[NDArray[Any] | Sequence[str]]]] = {
        "sample": (np.array(samples).dtype, (part.sample_ids for part in parts())),
        "position": (np.dtype(np.int64), (part.position.numpy() for part in parts())),
        "role": (np.array(roles).dtype, (part.roles for part in parts())),
    }
    with ZipFile(path, "w") as archive:
        for name, (dtype, column) in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_array(file, dtype, (len(rows),), column)


def _parts(rows: Rows) -> Iterator[Rows]:
    return (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))


def _arrow_tables(run: Run, site: Site) -> Iterator[Any]:
    """The rows of a site as tables, a stretch each; one without rows if there are none."""
    arrow, rows, start = pyarrow("pyarrow"), run.rows_at(site), 0
    for x in map(_values, run.stretches(site)):
        here = rows[start : start + len(x)]
        start += len(x)
        features = arrow.FixedSizeListArray.from_arrays(arrow.array(x.reshape(-1)), x.shape[1])
        columns = {"sample": list(here.sample_ids), "position": here.position.numpy(), "role": list(here.roles)}
        schema = arrow.schema([("sample", arrow.string()), ("position", arrow.int64()), ("role", arrow.string()),
                               ("features", features.type)])  # fmt: skip
        yield arrow.table({**columns, "features": features}, schema=schema)


def _to_parquet(run: Run, folder: Path) -> None:
    for site in run.sites:
        _write_tables(pyarrow("pyarrow.parquet").ParquetWriter, folder / f"{site}.parquet", _arrow_tables(run, site))


def _write_tables(writer_of: Callable[..., Any], path: Path, tables: Iterator[Any]) -> None:
    first = next(tables)
    with writer_of(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _to_hf(run: Run, folder: Path) -> None:
    try:
        from datasets import Dataset
        from datasets.table import MemoryMappedTable
    except ImportError as error:
        raise MissingTool("data sets need the package datasets: pip install 'rankscope[data]'") from error
    for site in run.sites:
        # A data set of a file is written batch by batch, one of a table after it was hashed as a whole
        rows, mark = folder.with_name("rows.arrow"), hashlib.sha256(f"{run.manifest.continuation} {site}".encode())
        _write_tables(pyarrow("pyarrow.ipc").new_stream, rows, _arrow_tables(run, site))
        Dataset(MemoryMappedTable.from_file(str(rows)), fingerprint=mark.hexdigest()[:16]).save_to_disk(
            folder / str(site)
        )
        rows.unlink()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [str(site) for site in run.sites]}))
