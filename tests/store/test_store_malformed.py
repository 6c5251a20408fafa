"""Headers, archives, documents and names that no writer makes are refused, with the file named, though a seal may be right."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from store_tools import SITES, in_child

from rankscope.errors import RankscopeError, StoreCorrupt, StoreError
from rankscope.store import open_run
from rankscope.store.plain import document, sealed
from rankscope.store.tensors import read_header


def header_of(value: object, length: int | None = None) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def entry(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: list[bytes] = [
    b"",
    b"\0" * 7,
    struct.pack("<Q", 0),
    struct.pack("<Q", 1 << 63) + b"{}",
    struct.pack("<Q", 100_000_001) + b"{}",
    header_of(b"not json"),
    header_of(b"\xff\xfe{}"),
    header_of(b"\xef\xbb\xbf{}"),
    header_of([1]),
    header_of({"a": 1}),
    header_of({"a": entry()}),
    header_of({"a": entry()}) + b"\0" * 5,
    header_of({"a": entry(offsets=(4, 0))}) + b"\0" * 4,
    header_of({"a": entry(offsets=(0, 8))}) + b"\0" * 8,
    header_of({"a": entry(shape=(-1,))}) + b"\0" * 4,
    header_of({"a": entry(shape=(1 << 40, 1 << 40), offsets=(0, 1 << 82))}),
    header_of({"a": entry(shape=(1.0,))}) + b"\0" * 4,
    header_of({"a": entry(shape=(True,))}) + b"\0" * 4,
    header_of({"a": entry(dtype="F8_E5M2")}) + b"\0" * 4,
    header_of({"a": entry(dtype=["F32"])}) + b"\0" * 4,
    header_of({"a": {"dtype": "F32", "shape": [1]}}) + b"\0" * 4,
    header_of({"a": entry(), "b": entry()}) + b"\0" * 4,
    header_of({"a": entry(), "b": entry(offsets=(5, 9))}) + b"\0" * 9,
    header_of({"__metadata__": {"a": 1}}),
    header_of({"__metadata__": "text"}),
    header_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + b"\0" * 4,
    header_of(b'{"a":NaN}'),
    header_of(b'{"a":1e400}'),
    header_of(b"[" * 100_000),
    header_of(b'{"a":' * 20_000),
]


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_a_malformed_header_is_refused_and_its_file_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "strange.safetensors"
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"strange\.safetensors"):
        open_run(path)


@settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_mutated_header_raises_nothing_but_what_it_should(runs: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray((runs / "run.safetensors").read_bytes())
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(whole)
    if bytes(whole) == (runs / "run.safetensors").read_bytes():
        return
    with pytest.raises(RankscopeError, match=r"mutated\.safetensors"):
        open_run(path).verify().check()


@settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_mutated_archive_raises_nothing_but_what_it_should(runs: Path, tmp_path: Path, data: st.DataObject) -> None:
    original = (runs / "run.pt").read_bytes()
    whole = bytearray(original)
    start = original.index(b"run/data.pkl")
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(start - 30, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutated.pt"
    path.write_bytes(whole)
    if bytes(whole) == original:
        return
    with pytest.raises(RankscopeError, match=r"mutated\.pt"):
        open_run(path).verify().check()


def documents(value: dict[str, object]) -> dict[str, bytes]:
    """Ways in which the sealed document of a store can be wrong, by name; some with a seal that is right."""
    text = document(sealed(value))  # type: ignore[arg-type]
    ways = {
        "empty": b"",
        "torn": text[: len(text) // 2],
        "bom": b"\xef\xbb\xbf" + text,
        "utf16": text.decode().encode("utf-16"),
        "spaces": text.replace(b" ", b"  "),
        "list": b"[]\n",
        "null": b"null\n",
        "deep": b"[" * 10_000 + b"]" * 10_000,
        "nan": text.replace(b'"version": 1', b'"version": NaN'),
        "huge": text.replace(b'"version": 1', b'"version": 1e400'),
        "twice": text.replace(b'"version": 1', b'"version": 1,\n "version": 1'),
        "number": b'{"version": ' + b"1" * 5000 + b"}",
        "unsealed": document(value),  # type: ignore[arg-type]
        "later": document(sealed({**value, "version": 2})),  # type: ignore[arg-type]
        "foreign": document(sealed({**value, "format": "other"})),  # type: ignore[arg-type]
    }
    for key in value:
        for kind, wrong in (("missing", None), ("text", "text"), ("list", [1]), ("true", True), ("object", {"a": 1})):
            changed = {k: v for k, v in value.items() if k != key} if kind == "missing" else {**value, key: wrong}
            if changed != value:
                ways[f"{key}-{kind}"] = document(sealed(changed))  # type: ignore[arg-type]
    return ways


def unseal(path: Path) -> dict[str, object]:
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}


@pytest.mark.parametrize("name", ["store.json", "index.json"])
def test_a_document_that_cannot_be_meant_is_refused(runs: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    victim = tmp_path / "run" / name
    cases = documents(unseal(victim))
    assert len(cases) >= 28
    for case, data in cases.items():
        victim.write_bytes(data)
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            print(case, open_run(tmp_path / "run"))


def test_a_manifest_that_cannot_be_meant_is_refused_though_its_seal_is_right(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    victim = tmp_path / "run" / "store.json"
    value, swept = unseal(victim), 0
    told = value["manifest"]
    assert isinstance(told, dict)
    wrong: list[dict[str, object]] = [
        {**told, key: bad} for key in told for bad in (None, 1.5, "text", [1], {"a": 1}, True) if bad != told[key]
    ]
    wrong += [{k: v for k, v in told.items() if k != key} for key in told]
    wrong += [
        {**told, "sites": {**SITES, "vision.0": entry}} for entry in ({}, {"width": -1, "stack": "v"}, {"width": 2}, [])
    ]
    wrong += [{**told, "sites": {"nodot": {"width": 1, "stack": "v"}}, "order": ["nodot"]}, {**told, "extra": 1}]
    for changed in wrong:
        free = {"checkpoint", "probe", "rows", "pooling", "reading", "versions", "notes", "name"}
        victim.write_bytes(document(sealed({**value, "manifest": changed})))  # type: ignore[dict-item]
        only = {k for k in {*changed, *told} if changed.get(k, ...) != told.get(k, ...)}
        if only <= free and all(type(changed.get(k)) is type(told[k]) for k in only) and only != {"probe"}:
            continue  # another run's manifest, which the index then refuses
        with pytest.raises(StoreError, match=r"store\.json|index\.json|plan\.jsonl"):
            open_run(tmp_path / "run")
        swept += 1
    assert swept > 70


def hostile(value: dict[str, object], file: str) -> dict[str, object]:
    shards = value["shards"]
    assert isinstance(shards, list)
    return {**value, "shards": [{**shards[0], "file": file}, *shards[1:]]}


NAMES = ["../b000000.safetensors", "/etc/passwd", "shards/../../x", "shards/b000000.safetensors\0", "C:\\x", "a" * 4096]
NAMES += [
    "shards/B000000.safetensors",
    "shards/b0.safetensors",
    "",
    ".",
    "shards",
    "shards/b000001.safetensors",
    "http://x/y",
]


def test_a_hostile_name_in_the_index_is_never_followed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    index = tmp_path / "run" / "index.json"
    value = unseal(index)
    for name in NAMES:
        index.write_bytes(document(sealed(hostile(value, name))))  # type: ignore[arg-type]
        with pytest.raises(StoreCorrupt, match=r"index\.json: not a commit of a shard"):
            open_run(tmp_path / "run")
    assert len(NAMES) == 13


def test_a_malformed_file_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    """A header that claims terabytes is refused before anything is allocated."""
    import resource

    path = tmp_path / "huge.safetensors"
    shape = [1 << 20, 1 << 21]
    path.write_bytes(header_of({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 1 << 43]}}))

    def work() -> None:
        limit = 1 << 32
        resource.setrlimit(resource.RLIMIT_AS, (max(limit, 4 * _address_space()), resource.RLIM_INFINITY))
        with pytest.raises(StoreCorrupt):
            open_run(path)

    assert in_child(work) == 0


def _address_space() -> int:
    return (
        int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        if sys.platform == "linux"
        else 1 << 33
    )


def test_the_reader_of_headers_agrees_with_safetensors_itself(runs: Path) -> None:
    from safetensors.torch import load_file

    for path in [runs / "run.safetensors", *sorted((runs / "run" / "shards").iterdir())]:
        theirs = load_file(path)
        fd = os.open(path, os.O_RDONLY)
        try:
            entries = read_header(fd, path)[1]
        finally:
            os.close(fd)
        assert {k: (v.dtype, tuple(v.shape)) for k, v in theirs.items()} == {
            k: (e.dtype, e.shape) for k, e in entries.items()
        }
