"""A run is the same in its three forms; what is no run is named, and what could run code is refused."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from store_tools import PLAN, SITES, contents, expected, in_child, manifest

from rankscope.errors import (
    CheckpointError,
    OutputExists,
    StoreCorrupt,
    StoreError,
    UnknownName,
    UnsafeError,
    UsageError,
)
from rankscope.sites import Site
from rankscope.store import Batch, Writer, open_run, pack

FORMS = ["run", "run.pt", "run.safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_features_in_the_order_of_the_data(runs: Path, form: str) -> None:
    run = open_run(runs / form)
    assert run.name == "tiny"
    assert run.sites == tuple(Site.parse(name) for name in SITES)
    assert run.manifest == manifest().planned(PLAN)
    for site in SITES:
        assert torch.equal(run.features(site), expected(site))
        assert run.width(site) == SITES[site]["width"]
        assert run.n(site) == len(run.rows_at(site)) == len(expected(site))
    assert run.rows.keys() == [(f"sample-{i}", p, "text") for i in range(10) for p in range(3)]
    assert run.rows_at("vision.0").keys() == [(f"sample-{i}", 0, "image") for i in range(10)]
    assert repr(run) == "Run('tiny', vision (0), decoder (0, 1), n=30, float32)"
    assert run.verify().check().ok
    assert run.verify().bytes == sum(p.stat().st_size for p in (runs / form).rglob("*") if p.is_file()) + (
        (runs / form).stat().st_size if form != "run" else 0
    )


@pytest.mark.parametrize("form", FORMS)
def test_stretches_are_the_features_a_few_rows_at_a_time(
    runs: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankscope.store.run.STRETCH", 100)
    for site in SITES:
        pieces = list(open_run(runs / form).stretches(site))
        assert len(pieces) > 1
        assert max(len(x) for x in pieces) == max(1, 25 // int(str(SITES[site]["width"])))
        assert torch.equal(torch.cat(pieces), expected(site))


def test_pt_is_a_plain_dictionary_for_torch_and_an_archive_for_zip(runs: Path, tmp_path: Path) -> None:
    for mapped in (False, True):
        value = torch.load(runs / "run.pt", weights_only=True, mmap=mapped)
        assert list(value["features"]) == list(SITES)
        assert torch.equal(value["features"]["decoder.1"], expected("decoder.1"))
        assert value["features"]["decoder.1"].data_ptr() % 64 == 0 or not mapped
        assert value["rows"]["decoder"]["sample"].tolist() == [i for i in range(10) for _ in range(3)]
    assert zipfile.ZipFile(runs / "run.pt").testzip() is None
    torch.save(value, tmp_path / "again.pt")
    again = open_run(tmp_path / "again.pt")
    assert again.verify().ok
    assert torch.equal(again.features("decoder.0"), expected("decoder.0"))
    value["features"]["decoder.0"][0, 0] += 1
    torch.save(value, tmp_path / "changed.pt")
    with pytest.raises(StoreCorrupt, match=r"changed\.pt was altered: the SHA-256 of its decoder\.0 differs"):
        open_run(tmp_path / "changed.pt").features("decoder.0")


def test_safetensors_is_one_for_safetensors_itself(runs: Path) -> None:
    value = load_file(runs / "run.safetensors")
    assert torch.equal(value["decoder.1"], expected("decoder.1"))
    shard = load_file(runs / "run" / "shards" / "b000000.safetensors")
    assert torch.equal(shard["decoder.1"], contents(PLAN[0])[0]["decoder.1"])
    assert shard["rows/decoder/role"].dtype == torch.uint8


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("form", ["run", "run.pt", "run.safetensors"])
def test_every_dtype_comes_back(tmp_path: Path, dtype: str, form: str) -> None:
    with Writer.open(tmp_path / "run", manifest(dtype=dtype), PLAN) as writer:
        for batch in PLAN:
            writer.write(batch.id, *contents(batch))
        writer.finish()
    if form != "run":
        pack(tmp_path / "run", tmp_path / form)
    x = open_run(tmp_path / form).features("decoder.1")
    assert x.dtype == getattr(torch, dtype)
    assert torch.equal(x, expected("decoder.1").to(x.dtype))


def test_packing_keeps_what_is_there_and_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("run.pt", "run.safetensors"):
        target = tmp_path / name
        target.write_text("mine")
        with pytest.raises(OutputExists, match="exists and is kept unless --overwrite"):
            pack(runs / "run", target)
        assert target.read_text() == "mine"
        pack(runs / "run", target, overwrite=True)
        assert target.read_bytes() == (runs / name).read_bytes()
        other = tmp_path / f"from-{name}"
        pack(runs / "run.pt", other)
        assert other.read_bytes() == (runs / name).read_bytes()
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(OutputExists, match="is a folder, and the run would be a file; it is kept"):
        pack(runs / "run", tmp_path / "folder.pt", overwrite=True)
    with pytest.raises(UsageError, match=r"ends in \.pt or \.safetensors; 'run\.npz' does not"):
        pack(runs / "run", tmp_path / "run.npz")
    assert not list(tmp_path.glob("tmp-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("count", "width"), [(24, 128), (1, 3072)], ids=["sites", "rows"])
def test_memory_while_packing_does_not_grow_with_sites_or_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, width: int
) -> None:
    """48 MiB at 24 sites or at one are packed in a process that may take 24 MiB more than it has."""
    monkeypatch.setattr("rankscope.store.run.STRETCH", 1 << 21)
    sites = {f"decoder.{i}": {"width": width, "stack": "decoder"} for i in range(count)}
    ids, size = [str(i) for i in range(4096)], 256
    told = manifest(sites=sites, probe={"name": "n", "fingerprint": "f", "ids": ids})
    plan = [Batch(k, tuple(range(k, 4096, 16)), 1) for k in range(16)]  # each stretch has rows of every batch
    with Writer.open(tmp_path / "run", told, plan) as writer:
        for batch in plan:
            sample = torch.tensor(batch.samples)
            rows = {"decoder": (sample, torch.zeros_like(sample), torch.zeros(size, dtype=torch.uint8))}
            writer.write(batch.id, dict.fromkeys(sites, torch.randn(size, width)), rows)
        writer.finish()

    def work(source: str, form: str) -> None:
        have = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (have + (24 << 20), resource.RLIM_INFINITY))
        pack(tmp_path / source, tmp_path / form)

    for source, form in (("run", "run.pt"), ("run.pt", "run.safetensors")):
        assert in_child(lambda source=source, form=form: work(source, form)) == 0
        assert (tmp_path / form).stat().st_size > 48 << 20
    first = f"decoder.{count - 1}"
    assert torch.equal(
        open_run(tmp_path / "run.safetensors").features(first), open_run(tmp_path / "run").features(first)
    )


def test_a_site_that_is_not_there_is_an_error_that_lists_those_that_are(runs: Path) -> None:
    run = open_run(runs / "run")
    for ask in (run.features, run.rows_at, run.width, run.n):
        with pytest.raises(UnknownName, match=r"no site 'decoder\.9'; it has vision \(0\), decoder \(0, 1\)"):
            ask("decoder.9")


def test_what_is_no_run_is_named_for_what_it_is(tmp_path: Path, runs: Path) -> None:
    state = {"model.layers.0.weight": torch.zeros(2, 2), "model.norm.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "weights.pt")
    torch.save(state, tmp_path / "weights.bin")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("x", "y")
    for name in ("checkpoint", "adapter", "nothing"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    weights = r"is not a run: it holds 2 tensors, such as 'model\.layers\.0\.weight'.*weights of a checkpoint.*rankscope collect"
    for name, kind, message in (
        ("weights.pt", CheckpointError, weights),
        ("weights.bin", CheckpointError, weights),
        ("model.safetensors", CheckpointError, weights),
        ("tensor.pt", CheckpointError, "is not a run"),
        ("old.pt", StoreError, "is a pickle, as old versions of torch wrote them"),
        ("texts.jsonl", StoreError, "is not a run: a run is a folder.*rankscope import"),
        ("empty.pt", StoreCorrupt, r"empty\.pt is not a whole"),
        ("some.zip", StoreError, "an archive, but not one of torch"),
        ("checkpoint", CheckpointError, r"is a checkpoint \(it has config\.json\), not a run.*rankscope collect"),
        ("adapter", CheckpointError, r"it has adapter_config\.json"),
        ("nothing", StoreError, r"has no store\.json, so it is not a run"),
        ("absent", StoreError, "there is no run at .*absent; 'rankscope collect"),
    ):
        with pytest.raises(kind, match=message):
            open_run(tmp_path / name)
    with pytest.raises(StoreError, match="is one shard of a run; give the run's folder"):
        open_run(runs / "run" / "shards" / "b000000.safetensors")


class Canary:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, runs: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"format": "rankscope-run", "features": Canary(canary)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Canary(canary)))
    with zipfile.ZipFile(runs / "run.pt") as source, zipfile.ZipFile(tmp_path / "swapped.pt", "w") as archive:
        for name in source.namelist():
            archive.writestr(name, pickle.dumps(Canary(canary), 2) if name.endswith(".pkl") else source.read(name))
    for name in ("evil.pt", "swapped.pt"):
        with pytest.raises(
            UnsafeError, match=r"tensors and text, .+, and could run code .* save its tensors"
        ) as refused:
            open_run(tmp_path / name)
        assert "weights_only" not in str(refused.value)
    with pytest.raises(StoreError, match="is a pickle"):
        open_run(tmp_path / "plain.pt")
    assert not canary.exists()


def test_a_dictionary_of_another_form_is_refused(tmp_path: Path, runs: Path) -> None:
    value = torch.load(runs / "run.pt", weights_only=True)
    x = value["features"]["decoder.1"]
    for wrong, message in (
        ({**value, "version": "2"}, "is version '2'; this rankscope reads 'rankscope-run' version 1"),
        ({**value, "manifest": value["manifest"].replace("tiny", "huge")}, "manifest does not match the SHA-256"),
        ({**value, "features": 1}, "no dictionaries 'features' and 'rows'"),
        ({**value, "features": {**value["features"], "decoder.1": "x"}}, "not whole tensors"),
        ({**value, "features": {**value["features"], "decoder.1": x.T}}, "not whole tensors"),
        ({**value, "features": {**value["features"], "decoder.1": x[:, :4].clone()}}, "not those of its manifest"),
        ({**value, "features": {**value["features"], "decoder.2": x.clone()}}, "not those of its manifest"),
        (
            {**value, "features": {**value["features"], "decoder.1": value["features"]["decoder.0"]}},
            "does not have the",
        ),
        ({k: v for k, v in value.items() if k != "sha256"}, "manifest does not match"),
    ):
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(StoreCorrupt, match=message):
            open_run(tmp_path / "wrong.pt")
