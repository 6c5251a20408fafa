"""What other tools wrote becomes a run, and a run becomes what other tools read."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from digests import tree_digest
from safetensors.torch import save_file
from store_tools import PLAN, SITES, collect, contents, expected, manifest

from rankscope.errors import DataError, MissingTool, NonFinite, OutputExists, StoreCorrupt, UnsafeError, UsageError
from rankscope.store import Run, Writer, export_run, import_features, open_run
from rankscope.store.foreign import site_name

TORCHLENS = Path(__file__).parent / "torchlens"
"""Saved by TorchLens 2.7.0: a linear map, a ReLU and a linear map on five samples; without its ``metadata.pkl``."""


def test_an_array_becomes_a_run_with_a_row_a_sample(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5))
    np.save(tmp_path / "layer_3.npy", x)
    run = import_features(tmp_path / "layer_3.npy", tmp_path / "run")
    assert [str(s) for s in run.sites] == ["layer.3"]
    assert run.name == "layer_3"
    assert np.array_equal(run.features("layer.3").numpy(), x)
    assert run.rows.keys() == [(str(i), -1, "pooled") for i in range(7)]
    assert run.manifest.rows["kind"] == "pooled"
    assert run.verify().ok


def test_an_array_of_tokens_becomes_a_run_with_a_row_a_token(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
    np.savez(
        tmp_path / "x.npz",
        **{
            "blocks.0.hook_resid_pre": x,
            "blocks.10.hook_resid_post": x + 1,
            "blocks.2.hook_resid_post": 2 * x,
            "ids": list("abcdefg"),
            "n": np.arange(7),
        },
    )
    run = import_features(tmp_path / "x.npz", tmp_path / "run.pt", name="gpt")
    assert [str(s) for s in run.sites] == ["decoder.embed", "decoder.2", "decoder.10"]
    assert np.array_equal(run.features("decoder.10").numpy(), (x + 1).reshape(21, 5))
    assert run.rows.keys() == [(i, p, "text") for i in "abcdefg" for p in range(3)]
    assert not (tmp_path / "run.pt.parts").exists()
    with pytest.raises(OutputExists, match=r"run\.pt exists and is kept unless"):
        import_features(tmp_path / "x.npz", tmp_path / "run.pt")
    again = import_features(
        tmp_path / "x.npz", tmp_path / "run.pt", overwrite=True, columns=["blocks.2.hook_resid_post"]
    )
    assert [str(s) for s in again.sites] == ["decoder.2"]


def test_a_dictionary_of_tensors_becomes_a_run(tmp_path: Path) -> None:
    x = torch.randn(6, 4, dtype=torch.bfloat16)
    torch.save(
        {"vision": {"0": x, "final": x + 1}, "text": [x, x], "ids": [f"i{k}" for k in range(6)], "step": 3},
        tmp_path / "f.pt",
    )
    run = import_features(tmp_path / "f.pt", tmp_path / "run.safetensors")
    assert [str(s) for s in run.sites] == ["vision.0", "vision.final", "text.0", "text.1"]
    assert run.manifest.dtype == "bfloat16"
    assert torch.equal(run.features("vision.final"), x + 1)
    assert run.rows.ids[2] == "i2"
    save_file({"a": x, "b": x.clone()}, tmp_path / "f.safetensors")
    run = import_features(tmp_path / "f.safetensors", tmp_path / "second", sites={"a": "decoder.0", "b": "decoder.1"})
    assert [str(s) for s in run.sites] == ["decoder.0", "decoder.1"]


def test_columns_of_vectors_become_a_run(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "id": ["a", "b", "c"],
            "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
            "tokens": [[[1.0, 0.0, 0.0]], [[2.0, 0.0, 0.0], [3.0, 0.0, 0.0]], []],
            "count": [1, 2, 3],
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    with arrow.ipc.new_file(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        run = import_features(tmp_path / name, tmp_path / f"run-{name}")
        assert run.features("embedding.output").tolist() == [[1, 2], [3, 4], [5, 6]]
        assert run.rows_at("embedding.output").keys() == [(i, -1, "pooled") for i in "abc"]
        assert run.rows_at("tokens.output").keys() == [("a", 0, "text"), ("b", 0, "text"), ("b", 1, "text")]
        assert run.features("tokens.output")[:, 0].tolist() == [1, 2, 3]
        assert "count was left out: it is not a column of vectors" in run.manifest.notes


def test_activations_cached_by_saelens_become_a_run(tmp_path: Path) -> None:
    """SAELens saves a Hugging Face data set: a column named after the hook, and the ids of the tokens."""
    datasets = pytest.importorskip("datasets")
    hook, x = "blocks.3.hook_resid_post", torch.randn(5, 4, 3)
    features = datasets.Features(
        {
            hook: datasets.Array2D(shape=(4, 3), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=4),
        }
    )
    columns = {hook: x.numpy(), "token_ids": torch.arange(20).reshape(5, 4).numpy()}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "cache", num_shards=2)
    run = import_features(tmp_path / "cache", tmp_path / "run")
    assert [str(s) for s in run.sites] == ["decoder.3"]
    assert torch.equal(run.features("decoder.3"), x.reshape(20, 3))
    assert run.rows.keys()[4] == ("1", 0, "text")
    datasets.DatasetDict({"train": datasets.load_from_disk(tmp_path / "cache")}).save_to_disk(tmp_path / "several")
    with pytest.raises(DataError, match="several data sets; import one of train"):
        import_features(tmp_path / "several", tmp_path / "other")
    datasets.load_from_disk(tmp_path / "cache").select([0, 2]).save_to_disk(tmp_path / "selected")
    state = json.loads((tmp_path / "cache" / "state.json").read_text())
    state["_data_files"][0]["filename"] = "../selected/data-00000-of-00001.arrow"
    (tmp_path / "cache" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UnsafeError, match="names a file outside of its folder"):
        import_features(tmp_path / "cache", tmp_path / "other")


def test_a_bundle_of_torchlens_becomes_a_run(tmp_path: Path) -> None:
    run = import_features(TORCHLENS, tmp_path / "run", name="perceptron")
    assert [str(s) for s in run.sites] == [
        f"{n}.output" for n in ("input_1_1", "linear_1_1_1", "relu_1_2_1", "linear_2_3_1", "output_1_1")
    ]
    assert torch.equal(run.features("relu_1_2_1.output"), run.features("linear_1_1_1.output").relu())
    shutil.copytree(TORCHLENS, tmp_path / "damaged")
    blob = tmp_path / "damaged" / "blobs" / "0000000003.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreCorrupt, match=r"0000000003\.safetensors was altered"):
        import_features(tmp_path / "damaged", tmp_path / "other")


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([{}, []], dtype=object))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "vector.npy", np.zeros(3))
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan))
    np.savez(tmp_path / "uneven.npz", a=np.zeros((3, 2)), b=np.zeros((4, 2)))
    np.savez(tmp_path / "same.npz", **{"layer_3": np.zeros((3, 2)), "layer.3": np.zeros((3, 2))})
    np.savez(tmp_path / "rows.npz", layer_3=np.zeros((3, 2)), layer_4=np.zeros((3, 4, 2)))
    np.savez(tmp_path / "ids.npz", a=np.zeros((3, 2)), ids=np.array(["x", "x", "y"]))
    (tmp_path / "some.pt").write_bytes(pickle.dumps({}))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not")
    (tmp_path / "t.arrow").write_bytes(b"ARROW1 not")
    (tmp_path / "t.csv").write_text("1,2")
    (tmp_path / "folder").mkdir()
    for name, kind, message in (
        ("objects.npy", UnsafeError, "could run code if it were loaded"),
        ("objects.npz", UnsafeError, "could run code if it were loaded"),
        ("torn.npy", DataError, r"torn\.npy cannot be read by NumPy"),
        ("vector.npy", DataError, "no floating-point array of two or three dimensions"),
        ("nan.npy", NonFinite, r"sample '0'"),
        ("uneven.npz", DataError, r"different numbers of samples \(a: 3, b: 4\); choose"),
        ("same.npz", DataError, "would be the same site"),
        ("rows.npz", DataError, r"the rows of layer\.4 differ"),
        ("ids.npz", DataError, "3 ids, 2 of them different, for 3 samples"),
        ("some.pt", StoreCorrupt, "not a whole"),
        ("t.parquet", DataError, "cannot be read as Parquet"),
        ("t.arrow", DataError, "cannot be read as Arrow"),
        ("t.csv", DataError, r"not of a kind that can be imported, which are \.npy"),
        ("folder", DataError, r"neither a saved data set .* nor a TorchLens bundle"),
        ("absent.npy", DataError, "nothing to import"),
    ):
        with pytest.raises(kind, match=message):
            import_features(tmp_path / name, tmp_path / "run")
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    with pytest.raises(DataError, match=r"holds no 'c'; it holds a, b"):
        import_features(tmp_path / "uneven.npz", tmp_path / "run", columns=["c"])
    np.save(tmp_path / "plain.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"has no 'layer_3' to name a site; it has plain"):
        import_features(tmp_path / "plain.npy", tmp_path / "run", sites={"layer_3": "decoder.3"})


def test_names_of_other_tools_become_sites() -> None:
    names = {
        "decoder.3": "decoder.3",
        "blocks.0.hook_resid_pre": "decoder.embed",
        "blocks.4.hook_resid_pre": "decoder.3",
        "blocks.4.hook_resid_post": "decoder.4",
        "blocks.4.hook_mlp_out": "blocks.4.hook_mlp_out.output",
        "layer_07": "layer.7",
        "12": "layer.12",
        "relu_1_2:1": "relu_1_2_1.output",
        "vision.final": "vision.final",
        "?": "_.output",
    }
    assert {name: site_name(name) for name in names} == names


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_exported_features_are_those_of_the_run(tmp_path: Path, dtype: str) -> None:
    with Writer.open(tmp_path / "run", manifest(dtype=dtype), PLAN) as writer:
        for batch in PLAN:
            writer.write(batch.id, *contents(batch))
        writer.finish()
    run = open_run(tmp_path / "run")
    ids = list(run.rows.sample_ids)
    export_run(run, tmp_path / "npy", to="npy")
    export_run(run, tmp_path / "parquet", to="parquet")
    export_run(run, tmp_path / "hf", to="hf")
    import pyarrow.parquet as parquet
    from datasets import load_from_disk

    sets = load_from_disk(str(tmp_path / "hf"))
    for site in SITES:
        x = expected(site).to(run.manifest.torch_dtype).float()
        table = parquet.read_table(tmp_path / "parquet" / f"{site}.parquet")
        assert torch.equal(torch.from_numpy(np.load(tmp_path / "npy" / f"{site}.npy")).float(), x)
        assert torch.equal(torch.tensor(table["features"].to_pylist()), x)
        assert torch.equal(torch.tensor(sets[site]["features"][:]).float(), x)
    assert table["sample"].to_pylist() == ids
    assert sets["decoder.0"]["role"][:] == ["text"] * 30
    assert list(np.load(tmp_path / "npy" / "decoder.rows.npz")["sample"]) == ids
    assert json.loads((tmp_path / "npy" / "run.json").read_text())["name"] == "tiny"
    assert not list(tmp_path.glob("tmp-*"))


def test_an_export_holds_a_stretch_and_writes_the_bytes_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(tmp_path / "run")
    run = open_run(tmp_path / "run")
    whole = {site: run.features(site) for site in SITES}
    tables = {to: tmp_path / to for to in ("parquet", "hf")}
    for to, folder in tables.items():
        export_run(run, folder / "at once", to=to)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a whole site was read")

    monkeypatch.setattr(Run, "features", refuse)
    monkeypatch.setattr("rankscope.store.run.STRETCH", 100)
    monkeypatch.setattr("rankscope.store.interchange.AT_ONCE", 7)
    export_run(run, tmp_path / "npy")
    for site, x in whole.items():
        np.save(tmp_path / "array.npy", x.numpy())
        assert (tmp_path / "npy" / f"{site}.npy").read_bytes() == (tmp_path / "array.npy").read_bytes()
        rows, path = run.rows_at(site), tmp_path / "npy" / f"{run.manifest.stack(site)}.rows.npz"
        columns = {"position": rows.position.numpy(), "role": np.array(rows.roles)}
        np.savez(tmp_path / "rows.npz", sample=np.array(rows.sample_ids), **columns)
        assert path.read_bytes() == (tmp_path / "rows.npz").read_bytes()
    for to, folder in tables.items():
        export_run(run, folder / "in stretches", to=to)
    assert tree_digest(tables["hf"] / "in stretches") == tree_digest(tables["hf"] / "at once")
    import pyarrow.parquet as parquet

    for site in SITES:  # whose rows are in groups, a stretch each, that are written when they are full
        one, other = (tables["parquet"] / name / f"{site}.parquet" for name in ("at once", "in stretches"))
        assert parquet.read_table(one).equals(parquet.read_table(other))
        assert parquet.ParquetFile(one).num_row_groups == 1 < parquet.ParquetFile(other).num_row_groups


def test_what_is_there_is_not_exported_over(tmp_path: Path) -> None:
    collect(tmp_path / "run")
    run = open_run(tmp_path / "run")
    with pytest.raises(OutputExists, match="exists and is kept unless"):
        export_run(run, tmp_path / "run")
    with pytest.raises(UsageError, match="exported to npy, parquet, hf; not to 'mat'"):
        export_run(run, tmp_path / "out", to="mat")
    before = tree_digest(tmp_path / "run")
    export_run(run, tmp_path / "out")
    assert tree_digest(tmp_path / "run") == before


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(tmp_path / "run")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    real = builtins.__import__

    def absent(name: str, *arguments: object) -> object:
        if name.split(".")[0] in ("pyarrow", "datasets"):
            raise ImportError(name)
        return real(name, *arguments)  # type: ignore[arg-type]

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingTool, match=r"pip install 'rankscope\[data\]'"):
        import_features(tmp_path / "t.parquet", tmp_path / "other")
    for to in ("parquet", "hf"):
        with pytest.raises(MissingTool, match=r"pip install 'rankscope\[data\]'"):
            export_run(open_run(tmp_path / "run"), tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()
