"""Runs out of other tools' features, and features for other tools out of runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rankscope.errors import DataError, MissingTool, OutputExists, UsageError
from rankscope.features import ROLES
from rankscope.sites import Site
from rankscope.store import files
from rankscope.store.finish import discard
from rankscope.store.foreign import read_foreign
from rankscope.store.manifest import DTYPES, Batch, Manifest
from rankscope.store.opening import open_run
from rankscope.store.pack import SUFFIXES, pack
from rankscope.store.plain import Json
from rankscope.store.run import Run
from rankscope.store.shard import Places
from rankscope.store.tables import Foreign, Table, site_name
from rankscope.store.writer import Writer

_SHARD = 1 << 26


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
    """A run out of features that another tool has written.

    An array of two dimensions has a row a sample, one of three (samples, tokens, width) a row a token. Whether such
    rows include padding or special tokens is not to be known here; the manifest says where they come from.

    Args:
        path: what to import; see :func:`~rankscope.store.foreign.read_foreign`.
        out: the run to make: a folder, or a file ending in ``.pt`` or ``.safetensors``.
        name: what the run is called; the name of ``path`` if None.
        sites: the sites by the other tool's names, where :func:`~rankscope.store.tables.site_name` is not meant.
        columns: the other tool's names to read; all that can be features if None.
        ids: the ids of the samples; those in the file, or 0, 1, 2, … if None.
        overwrite: whether a run that is there is thrown away.

    Raises:
        DataError: if there are no features, the ids are not as many as the samples, or ``sites`` names what is not there.
        OutputExists: if something is there already.
        NonFinite: if a value is NaN or infinite.
    """
    source, target = Path(path), Path(out)
    found = read_foreign(source, columns)
    named = _named(found, sites or {}, source)
    manifest = _manifest(found, named, name or source.stem, source, ids)
    if target.suffix not in SUFFIXES:
        return _written(target, manifest, named, overwrite)
    if target.exists() and not overwrite:
        raise OutputExists(f"{target} exists and is kept unless --overwrite is given")
    staging = target.with_name(f"{target.name}.parts")
    _written(staging, manifest, named, True)
    run = pack(staging, target, overwrite=overwrite)
    discard(staging)
    return run


def _named(found: Foreign, sites: Mapping[str, str], path: Path) -> dict[str, Table]:
    """The tables by site, the sites of a stack in the order of their numbers."""
    absent = [name for name in sites if name not in found.tables]
    if absent:
        raise DataError(f"{path} has no {absent[0]!r} to name a site; it has {', '.join(found.tables)}")
    named = {str(Site.parse(sites.get(name, site_name(name)))): table for name, table in found.tables.items()}
    if len(named) != len(found.tables):
        raise DataError(f"{path}: two of {', '.join(found.tables)} would be the same site; name them with sites")
    stacks: dict[str, Table] = {}
    for site, table in named.items():
        first = stacks.setdefault(Site.parse(site).stack, table)
        if not torch.equal(first.counts, table.counts) or first.tokens != table.tokens:
            raise DataError(f"{path}: {site} has other rows than another site of its stack; name them with sites")
    order = {"embed": -1, "final": 1 << 30}
    return dict(sorted(named.items(), key=lambda item: _rank(Site.parse(item[0]), list(stacks), order)))


def _rank(site: Site, stacks: Sequence[str], order: Mapping[str, int]) -> tuple[int, int]:
    return stacks.index(site.stack), site.index if site.index is not None else order.get(site.point, 0)


def _manifest(found: Foreign, named: Mapping[str, Table], name: str, path: Path, ids: Sequence[str] | None) -> Manifest:
    samples = len(next(iter(named.values())).counts)
    told = [str(i) for i in (ids if ids is not None else found.ids or range(samples))]
    if len(told) != samples or len(set(told)) != samples:
        raise DataError(f"{path}: {len(told)} ids, {len(set(told))} of them different, for {samples} samples")
    dtypes = {str(table.x.dtype).removeprefix("torch.") for table in named.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    digest = hashlib.sha256(json.dumps(told).encode())
    for site, table in named.items():
        digest.update(f"{site} {tuple(table.x.shape)}".encode())
    listed: list[Json] = [*told]
    notes: list[Json] = [f"imported from {found.form}, {path.name}", *found.notes]
    return Manifest(
        name=name,
        checkpoint={"path": str(path), "form": found.form, "digest": _digest(path)},
        probe={"name": path.name, "fingerprint": digest.hexdigest(), "ids": listed},
        rows={"kind": "tokens" if any(t.tokens for t in named.values()) else "pooled", "keep_special": True},
        dtype=dtype if dtype in DTYPES else "float32",
        sites={s: {"width": t.x.shape[1], "stack": Site.parse(s).stack} for s, t in named.items()},
        notes=notes,
    )


def _digest(path: Path) -> str:
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return hashlib.sha256("".join(files.digest_of_file(p)[1] for p in found).encode()).hexdigest()


def _written(path: Path, manifest: Manifest, named: Mapping[str, Table], overwrite: bool) -> Run:
    first = next(iter(named.values()))
    widest = max(int(t.counts.sum()) * t.x.shape[1] * t.x.dtype.itemsize for t in named.values())
    samples = len(first.counts)
    size = max(1, samples * _SHARD // max(widest * len(named), 1))
    plan = [Batch(k, tuple(range(s, min(s + size, samples))), 0) for k, s in enumerate(range(0, samples, size))]
    starts = {site: torch.cat([torch.zeros(1, dtype=torch.int64), t.counts.cumsum(0)]) for site, t in named.items()}
    with Writer.open(path, manifest, plan, overwrite=overwrite) as writer:
        for batch in writer.todo:
            low, high = batch.samples[0], batch.samples[-1] + 1
            x = {site: t.x[int(starts[site][low]) : int(starts[site][high])] for site, t in named.items()}
            rows = {Site.parse(site).stack: _places(t, low, high) for site, t in named.items()}
            writer.write(batch.id, x, rows)
        writer.finish()
    return open_run(path)


def _places(table: Table, low: int, high: int) -> Places:
    counts = table.counts[low:high]
    sample = torch.arange(low, high).repeat_interleave(counts)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    position = torch.arange(len(sample)) - starts if table.tokens else torch.full_like(sample, -1)
    role = ROLES.index("text" if table.tokens else "pooled")
    return sample, position, torch.full_like(sample, role, dtype=torch.uint8)


def export_run(run: Run, out: str | Path, *, to: str = "npy") -> Path:
    """Writes the features of a run for other tools, a site at a time, with the rows in the data's order.

    Args:
        run: the run.
        out: the folder to make; it appears when it is whole.
        to: ``npy`` (``decoder.3.npy`` a site, the rows in ``<stack>.rows.npz``), ``parquet`` (``decoder.3.parquet`` a
            site, with the columns ``sample``, ``position``, ``role`` and ``features``) or ``hf`` (the same columns as a
            dictionary of data sets, a site each, for ``datasets.load_from_disk``). Arrow and NumPy have no bfloat16:
            such features become float32, which changes no value.

    Returns:
        The folder.

    Raises:
        UsageError: if ``to`` is none of these.
        OutputExists: if the folder is there.
        MissingTool: if pyarrow or datasets is needed and not installed.
        StorageError: if the disk is full, read-only or failing.
    """
    writers: dict[str, Callable[[Run, Path], None]] = {"npy": _to_npy, "parquet": _to_parquet, "hf": _to_hf}
    if to not in writers:
        raise UsageError(f"runs are exported to {', '.join(writers)}; not to {to!r}")
    target = Path(out)
    if target.exists():
        raise OutputExists(f"{target} exists and is kept; choose another output")
    with _whole_folder(target) as temporary:
        writers[to](run, temporary)
        (temporary / "run.json").write_text(json.dumps(run.manifest.to_json(), indent=1) + "\n")
    return target


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that gets its name when it is whole, and is gone if that fails."""
    temporary = target.with_name(f"{files.TEMPORARY}{target.name}")
    files.make_folder(target.absolute().parent)
    with files.storing(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _values(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def _to_npy(run: Run, folder: Path) -> None:
    for site in run.sites:
        np.save(folder / f"{site}.npy", _values(run.features(site)), allow_pickle=False)
        rows = run.rows_at(site)
        path = folder / f"{run.manifest.stack(site)}.rows.npz"
        if not path.exists():
            sample, role = np.array(rows.sample_ids), np.array(rows.roles)
            np.savez(path, sample=sample, position=rows.position.numpy(), role=role)


def _arrow_table(run: Run, site: Site) -> object:
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise MissingTool("Arrow and Parquet are written by pyarrow: pip install 'rankscope[data]'") from error
    x, rows = _values(run.features(site)), run.rows_at(site)
    features = arrow.FixedSizeListArray.from_arrays(arrow.array(x.reshape(-1)), x.shape[1])
    columns = {
        "sample": list(rows.sample_ids),
        "position": rows.position.numpy(),
        "role": list(rows.roles),
        "features": features,
    }
    return arrow.table(columns)


def _to_parquet(run: Run, folder: Path) -> None:
    for site in run.sites:
        table = _arrow_table(run, site)
        import pyarrow.parquet as parquet

        parquet.write_table(table, folder / f"{site}.parquet")


def _to_hf(run: Run, folder: Path) -> None:
    try:
        from datasets import Dataset, DatasetDict
    except ImportError as error:
        raise MissingTool("data sets are written by datasets: pip install 'rankscope[data]'") from error
    DatasetDict({str(site): Dataset(_arrow_table(run, site)) for site in run.sites}).save_to_disk(folder)
