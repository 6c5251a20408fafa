"""``FORMAT.md`` says enough to read a run: here it is read with json, struct and hashlib alone."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from store_tools import PLAN, SITES, collect, expected

from rankscope.store import open_run, pack

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
    kinds = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}
    metadata, tensors = header.pop("__metadata__"), {}
    assert length % 8 == 0
    for name, item in header.items():
        start, stop = (8 + length + offset for offset in item["data_offsets"])
        raw = torch.frombuffer(bytearray(data[start:stop]), dtype=kinds[item["dtype"]])
        tensors[name] = raw.reshape(item["shape"])
    return metadata, tensors


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
        assert list(tensors)[:3] == manifest["order"]
        for site, told_of_site in SITES.items():
            stack = told_of_site["stack"]
            sample, position = (tensors[f"rows/{stack}/{k}"].tolist() for k in ("sample", "position"))
            assert len(sample) == shard["rows"][stack]
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
    assert list(digests) == list(tensors)
    assert {k: hashlib.sha256(x.numpy().tobytes()).hexdigest() for k, x in tensors.items()} == digests
    assert torch.equal(plain["features"]["decoder.1"], expected("decoder.1"))
    data = (tmp_path / "run.pt").read_bytes()
    assert data[-71:-64] == b"sha256:"
    assert hashlib.sha256(data[:-64]).hexdigest().encode() == data[-64:]


def test_the_page_names_every_member_of_the_manifest(run: Path) -> None:
    text = FORMAT.read_text()
    for key in open_run(run).manifest.to_json():
        assert f"`{key}`" in text
