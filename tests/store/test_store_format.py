"""``FORMAT.md`` says enough to read a run: here it is read with json, struct and hashlib alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from store_tools import PLAN, SITES, collect, contents, expected, manifest

from rankscope.store import Writer, open_run, pack

FORMAT = Path(__file__).parents[2] / "rankscope" / "store" / "FORMAT.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format") / "run"
    collect(path)
    return path


def line(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def unsealed(path: Path) -> dict[str, object]:
    value = json.loads(path.read_bytes())
    assert path.read_bytes() == (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
    seal = value.pop("sha256")
    assert hashlib.sha256(line(value)).hexdigest() == seal
    return dict(value)


def plan_digest(manifest: dict[str, object]) -> str:
    def without_paths(value: object) -> object:
        if isinstance(value, dict):
            return {k: without_paths(v) for k, v in value.items() if k != "path"}
        return [without_paths(v) for v in value] if isinstance(value, list) else value

    kept = {k: v for k, v in manifest.items() if k not in ("name", "versions", "notes")}
    return hashlib.sha256(line({**kept, "checkpoint": without_paths(kept["checkpoint"])})).hexdigest()


def read_safetensors(data: bytes) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":")).encode()
    assert data[8 : 8 + length] == text + b" " * (-len(text) % 8)
    assert next(iter(header)) == "__metadata__"
    kinds = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}
    metadata, tensors, end = header.pop("__metadata__"), {}, 8 + length
    assert list(metadata) == sorted(metadata)
    for name, item in header.items():
        assert list(item) == ["dtype", "shape", "data_offsets"]
        start, stop = (8 + length + offset for offset in item["data_offsets"])
        raw = torch.frombuffer(bytearray(data[start:stop]), dtype=kinds[item["dtype"]])
        tensors[name] = raw.reshape(item["shape"])
        assert start == end
        end = stop
    assert end == len(data)
    return metadata, tensors


def in_order(manifest: dict[str, object]) -> list[str]:
    """The names of the tensors: the sites, then the rows of each stack in the order of its first site."""
    sites, order = manifest["sites"], manifest["order"]
    assert isinstance(sites, dict)
    assert isinstance(order, list)
    stacks = dict.fromkeys(sites[site]["stack"] for site in order)
    return [*order, *(f"rows/{stack}/{key}" for stack in stacks for key in ("sample", "position", "role"))]


def test_a_folder_is_as_the_page_says(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["index.json", "plan.jsonl", "shards", "store.json"]
    store = unsealed(run / "store.json")
    assert (store["format"], store["version"]) == ("rankscope-store", 1)
    manifest = store["manifest"]
    assert isinstance(manifest, dict)
    plan = (run / "plan.jsonl").read_bytes()
    assert hashlib.sha256(plan).hexdigest() == manifest["plan"]
    assert plan == b"".join(line({"batch": b.id, "length": b.length, "samples": list(b.samples)}) for b in PLAN)
    index = unsealed(run / "index.json")
    assert index["plan_sha256"] == plan_digest(manifest) == open_run(run).manifest.plan_digest
    shards = index["shards"]
    assert isinstance(shards, list)
    assert [s["batch"] for s in shards] == [0, 1, 2, 3, 4]
    assert index["total_bytes"] == sum(s["bytes"] for s in shards)
    found: dict[str, list[tuple[int, int, torch.Tensor]]] = {site: [] for site in SITES}
    for shard in shards:
        data = (run / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        metadata, tensors = read_safetensors(data)
        told = {"batch": str(shard["batch"]), "format": "rankscope-shard", "version": "1"}
        assert metadata == {**told, "plan_sha256": index["plan_sha256"]}
        assert list(tensors) == in_order(manifest)
        for site, told_of_site in SITES.items():
            stack = told_of_site["stack"]
            sample, position = (tensors[f"rows/{stack}/{k}"].tolist() for k in ("sample", "position"))
            assert len(sample) == shard["rows"][stack]
            blocks = [list(rows) for _, rows in itertools.groupby(zip(sample, position, strict=True), lambda r: r[0])]
            assert len(blocks) == len(set(sample))
            assert all(block == sorted(block) for block in blocks)
            found[site] += zip(sample, position, tensors[site], strict=True)
    for site, rows in found.items():
        ordered = [x for _, _, x in sorted(rows, key=lambda row: row[:2])]
        assert torch.equal(torch.stack(ordered), expected(site))


def test_a_single_file_is_as_the_page_says(run: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "run.safetensors")
    pack(run, tmp_path / "run.pt")
    metadata, tensors = read_safetensors((tmp_path / "run.safetensors").read_bytes())
    plain = torch.load(tmp_path / "run.pt", weights_only=True)
    strings = {k: v for k, v in plain.items() if isinstance(v, str)}
    assert metadata == strings
    seal = strings.pop("sha256")
    assert hashlib.sha256(line(strings)).hexdigest() == seal
    digests = json.loads(strings["tensors"])
    told = json.loads(strings["manifest"])
    assert strings["manifest"].encode() + b"\n" == line(told)
    assert strings["tensors"] == json.dumps(digests, separators=(",", ":"))
    assert list(digests) == list(tensors) == in_order(told)
    places = zip(*(tensors[f"rows/decoder/{key}"].tolist() for key in ("sample", "position")), strict=True)
    assert list(places) == [(sample, position) for sample in range(10) for position in range(3)]
    assert {k: hashlib.sha256(x.numpy().tobytes()).hexdigest() for k, x in tensors.items()} == digests
    assert torch.equal(plain["features"]["decoder.1"], expected("decoder.1"))
    with zipfile.ZipFile(tmp_path / "run.pt") as archive:
        records = archive.infolist()
        assert archive.read("run/byteorder") == b"little"
        assert archive.read("run/version").strip() == b"3"
    names = [*(f"data/{i}" for i in range(len(tensors))), "data.pkl", "byteorder", "version"]
    assert [r.filename for r in records] == [f"run/{name}" for name in names]
    data = (tmp_path / "run.pt").read_bytes()
    for record, x in zip(records, tensors.values(), strict=False):
        lengths = struct.unpack("<HH", data[record.header_offset + 26 : record.header_offset + 30])
        start = record.header_offset + 30 + sum(lengths)
        assert start % 64 == 0
        assert data[start : start + record.file_size] == x.numpy().tobytes()
    assert data[-71:-64] == b"sha256:"
    assert hashlib.sha256(data[:-64]).hexdigest().encode() == data[-64:]


def test_the_log_of_an_unfinished_run_is_as_the_page_says(tmp_path: Path) -> None:
    with Writer.open(tmp_path, manifest(), PLAN) as writer:
        writer.write(3, *contents(PLAN[3]))
    there = sorted(p.name for p in tmp_path.iterdir())
    assert there == ["commits", "lock", "plan.jsonl", "shards", "store.json"]
    told = unsealed(tmp_path / "store.json")["manifest"]
    assert isinstance(told, dict)
    shard = (tmp_path / "shards" / "b000003.safetensors").read_bytes()
    commit = {
        "batch": 3,
        "file": "shards/b000003.safetensors",
        "bytes": len(shard),
        "sha256": hashlib.sha256(shard).hexdigest(),
        "rows": {"vision": 1, "decoder": 3},
        "nonfinite": {},
    }
    value = {"commit": commit, "plan_sha256": plan_digest(told)}
    sealed = {**value, "sha256": hashlib.sha256(line(value)).hexdigest()}
    assert (tmp_path / "commits" / "rank00000.jsonl").read_bytes() == line(sealed)


@pytest.mark.parametrize("text", ["é 😀", 'a "b" \\ c', "\x00\x1f\x7f\n\t\u2028", "𝛼/<b>"])
def test_every_text_is_written_as_the_page_says_and_comes_back(tmp_path: Path, text: str) -> None:
    def escaped(c: str) -> str:
        short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
        units = c.encode("utf-16-be").hex(" ", 2).split()
        return short.get(c) or (c if " " <= c <= "~" else "".join(f"\\u{unit}" for unit in units))

    ids = [*(f"sample-{i}" for i in range(9)), text]
    told = manifest(name=text, probe={"name": "p", "fingerprint": "f", "ids": ids}, reading={"scale": 0.1, "n": 1e22})
    with Writer.open(tmp_path / "run", told, PLAN[1:2]) as writer:
        writer.write(1, *contents(PLAN[1]))
        writer.finish()
    data = (tmp_path / "run" / "store.json").read_bytes()
    assert f'"name": "{"".join(map(escaped, text))}"'.encode("ascii") in data
    assert b'"reading": {\n   "n": 1e+22,\n   "scale": 0.1\n  }' in data
    for form in (tmp_path / "run", tmp_path / "run.pt", tmp_path / "run.safetensors"):
        run = open_run(form) if form.is_dir() else pack(tmp_path / "run", form)
        assert (run.manifest.name, run.manifest.ids[-1]) == (text, text)
        assert run.verify().ok


def test_the_page_names_every_member_of_the_manifest(run: Path) -> None:
    text = FORMAT.read_text()
    for key in open_run(run).manifest.to_json():
        assert f"`{key}`" in text
