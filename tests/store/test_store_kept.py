"""Feature files as people save them: whose rows they are, by whatever name, dtype and shape the ids were kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from store_tools import PLAN, SITES, contents, manifest

from rankscope.analysis.align import Aligned, data_notes
from rankscope.errors import DataError, NotComparable
from rankscope.store import Run, Writer, export_run, import_features, open_run
from rankscope.store.matrices import IDS

N = 5
X = torch.arange(2.0 * N).reshape(N, 2)
VALUES: dict[str, Callable[[list[int]], Any]] = {
    "list of whole numbers": list,
    "list of texts": lambda i: list(map(str, i)),
    "tuple": tuple,
    "list of tensors": lambda i: list(torch.tensor(i)),
    "column in lists": lambda i: [[k] for k in i],
    "int32 tensor": lambda i: torch.tensor(i, dtype=torch.int32),
    "uint8 tensor": lambda i: torch.tensor(i, dtype=torch.uint8),
    "float tensor": lambda i: torch.tensor(i, dtype=torch.float32),
    "column tensor": lambda i: torch.tensor(i)[:, None],
}
ARRAYS: dict[str, Callable[[list[int]], Any]] = {
    **{
        dtype: (lambda i, d=dtype: np.array(i, dtype=d)) for dtype in ("i1", "<i4", ">i8", "u8", "f2", "f8", "S8", "U8")
    },
    "column": lambda i: np.array(i)[:, None],
    "row": lambda i: np.array(i)[None],
}


def _same_rows(a: Run, b: Run, order: list[int]) -> bool:
    """Whether run ``b`` holds the rows of ``a`` under the same ids, in another order."""
    return list(b.rows.ids) == [a.rows.ids[i] for i in order] and a.rows.ids != tuple(map(str, range(N)))


@pytest.mark.parametrize("name", [*IDS, "npz"])
def test_ids_survive_in_every_type_and_shape(name: str, tmp_path: Path) -> None:
    order, swept = [3, 0, 4, 1, 2], 0
    kinds = ARRAYS if name == "npz" else VALUES
    for make in kinds.values():
        runs = []
        for k, some in enumerate(([7, 8, 9, 10, 11], [10, 7, 11, 8, 9])):
            x = X if k == 0 else X[order]
            if name == "npz":
                np.savez(tmp_path / f"{k}.npz", layer_0=x.numpy(), ids=make(some))
            else:
                torch.save({"layer_0": x, name: make(some)}, tmp_path / f"{k}.pt")
            source = tmp_path / f"{k}.{'npz' if name == 'npz' else 'pt'}"
            runs.append(import_features(source, tmp_path / f"r{k}.pt", overwrite=True))
        assert _same_rows(*runs, order), make
        assert data_notes(runs) == []
        swept += 1
    assert swept >= 9


def test_whole_numbers_in_safetensors_are_ids(tmp_path: Path) -> None:
    save_file({"layer_0": X.clone(), "image_id": torch.arange(N) + 391895}, tmp_path / "a.safetensors")
    run = import_features(tmp_path / "a.safetensors", tmp_path / "r")
    assert run.rows.ids[0] == "391895"
    assert [str(site) for site in run.sites] == ["layer.0"]


def test_lists_that_fit_no_sample_are_refused_or_told(tmp_path: Path) -> None:
    torch.save({"layer_0": X, "names": ["one", "two"], "ids": list("abcde")}, tmp_path / "a.pt")
    assert import_features(tmp_path / "a.pt", tmp_path / "r").rows.ids == tuple("abcde")
    torch.save({"layer_0": X, "ids": list("abcd")}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="4 ids, 4 of them different, for 5 samples"):
        import_features(tmp_path / "a.pt", tmp_path / "s")
    torch.save({"layer_0": X, "ids": [0.5, 1.0, 2.0, 3.0, 4.0]}, tmp_path / "a.pt")
    notes = import_features(tmp_path / "a.pt", tmp_path / "t").manifest.notes
    assert "ids was left out: ids are whole numbers or texts" in notes


def test_a_comparison_by_position_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X.numpy())
    np.savez(tmp_path / "b.npz", a=X.numpy(), ids=np.array(list(map(str, range(N)))))
    one, other = (import_features(tmp_path / f, tmp_path / f"r{f}.pt") for f in ("a.npy", "b.npz"))
    assert any("the source has no ids" in str(note) for note in one.manifest.notes)
    assert not any("the source has no ids" in str(note) for note in other.manifest.notes)
    (note,) = data_notes([one, other])
    assert "paired by their position in the file, for a came without ids" in note
    assert data_notes([one]) == data_notes([other, other]) == []
    named = import_features(tmp_path / "a.npy", tmp_path / "n.pt", ids=list("abcde"))
    assert data_notes([named, named]) == []


@pytest.mark.parametrize("names", ["img{}", "COCO_val2014_{:012d}", "{}.jpg", "cat_{}"])
def test_a_matrix_for_each_sample_is_samples(names: str, tmp_path: Path) -> None:
    parts = {names.format(i): torch.full((2 + i % 2, 3), float(i)) for i in range(4)}
    torch.save(parts, tmp_path / "a.pt")
    run = import_features(tmp_path / "a.pt", tmp_path / "r")
    assert [str(site) for site in run.sites] == ["features.output"]
    assert run.rows.ids == tuple(parts)
    assert run.rows.keys()[:3] == [
        (names.format(0), 0, "text"),
        (names.format(0), 1, "text"),
        (names.format(1), 0, "text"),
    ]
    assert torch.equal(run.features("features.output"), torch.cat(list(parts.values())))
    assert any("were taken as samples" in str(note) for note in run.manifest.notes)
    torch.save({name: x[0] for name, x in parts.items()}, tmp_path / "a.pt")
    run = import_features(tmp_path / "a.pt", tmp_path / "s")
    assert run.rows.keys() == [(name, -1, "pooled") for name in parts]


@pytest.mark.parametrize(
    "names", ["layer_{}", "decoder.{}", "transformer.h.{}", "{}", "blocks.{}.hook_resid_post", "encoder_{}", "stage{}"]
)
def test_a_matrix_for_each_part_of_a_network_is_sites(names: str, tmp_path: Path) -> None:
    torch.save({names.format(i): X + i for i in range(4)}, tmp_path / "a.pt")
    assert len(import_features(tmp_path / "a.pt", tmp_path / "r").sites) == 4


def test_hidden_states_begin_with_the_embeddings(tmp_path: Path) -> None:
    hidden = tuple(torch.full((N, 3, 2), float(i)) for i in range(4))
    for value, stack in (
        (hidden, "layer"),
        ({"hidden_states": hidden}, "hidden_states"),
        ({"hidden_states": list(hidden)}, "hidden_states"),
    ):
        torch.save(value, tmp_path / "a.pt")
        run = import_features(tmp_path / "a.pt", tmp_path / "r.pt", overwrite=True)
        assert [str(s) for s in run.sites] == [f"{stack}.{p}" for p in ("embed", "0", "1", "2")]
        assert [float(run.features(s)[0, 0]) for s in run.sites] == [0, 1, 2, 3]
        assert any("after the final norm" in str(note) for note in run.manifest.notes)


def test_odd_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"layer_0": X.to_sparse()}, tmp_path / "a.pt")
    assert torch.equal(import_features(tmp_path / "a.pt", tmp_path / "r").features("layer.0"), X)
    np.save(tmp_path / "layer_0.npy", X.numpy().astype(np.longdouble))
    assert torch.equal(import_features(tmp_path / "layer_0.npy", tmp_path / "s").features("layer.0"), X.double())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("to", ["npy", "parquet", "hf"])
def test_what_export_wrote_is_imported(to: str, dtype: str, tmp_path: Path) -> None:
    with Writer.open(tmp_path / "run", manifest(dtype=dtype), PLAN) as writer:
        for batch in PLAN:
            writer.write(batch.id, *contents(batch))
        writer.finish()
    run = open_run(tmp_path / "run")
    export_run(run, tmp_path / "out", to=to)
    again = import_features(tmp_path / "out", tmp_path / "again")
    assert again.sites == run.sites
    assert again.manifest.dtype == dtype
    assert again.manifest.ids == run.manifest.ids
    for site in SITES:
        assert torch.equal(again.features(site), run.features(site))
        assert again.rows_at(site).keys() == run.rows_at(site).keys()
    both = Aligned((run, again), tuple(run.sites))
    assert len(both.at(run.sites[0])[1]) == run.n(run.sites[0])
    if to != "hf":  # one site alone keeps its rows too
        one = import_features(tmp_path / "out" / f"{run.sites[0]}.{to}", tmp_path / "one", overwrite=True)
        assert one.rows_at(run.sites[0]).keys() == run.rows_at(run.sites[0]).keys()
    listing = json.loads((tmp_path / "out" / "run.json").read_text())
    listing["sites"]["decoder.99"] = {"width": 1, "stack": "decoder"}
    (tmp_path / "out" / "run.json").write_text(json.dumps(listing))
    with pytest.raises(DataError, match=r"lacks the features of decoder\.99"):
        import_features(tmp_path / "out", tmp_path / "other")


def test_records_of_an_id_and_features_are_samples(tmp_path: Path) -> None:
    names = list("abcde")
    torch.save([{"id": name, "feat": x} for name, x in zip(names, X, strict=True)], tmp_path / "a.pt")
    run = import_features(tmp_path / "a.pt", tmp_path / "r")
    assert [str(site) for site in run.sites] == ["feat.output"]
    assert run.rows.ids == tuple(names)
    assert torch.equal(run.features("feat"), X)
    parts = [X[: 1 + i % 2] for i in range(N)]
    torch.save({"ids": names, "feat": parts}, tmp_path / "a.pt")
    run = import_features(tmp_path / "a.pt", tmp_path / "s")
    assert torch.equal(run.features("feat"), torch.cat(parts))
    assert run.rows.keys()[:3] == [("a", 0, "text"), ("b", 0, "text"), ("b", 1, "text")]
    torch.save([{"id": "a", "feat": X[0]}, {"id": "b"}], tmp_path / "a.pt")
    with pytest.raises(DataError, match="the records have different names: feat, id"):
        import_features(tmp_path / "a.pt", tmp_path / "t")


def test_what_holds_no_features_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"decoder.0.weight": X, "decoder.0.bias": X[0]}, tmp_path / "weights.pt")
    np.save(tmp_path / "layers.npy", np.zeros((4, 6, 5, 2)))
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(X.numpy(), columns=["f0", "f1"]).to_parquet(tmp_path / "wide.parquet")
    for name, words in (
        ("weights.pt", "holds the weights of a model, such as decoder.0.weight, and no features"),
        ("layers.npy", r"three dimensions; layers was left out: its shape is \(4, 6, 5, 2\)"),
        ("wide.parquet", "f0, f1 were left out: none is a column of vectors"),
    ):
        with pytest.raises(DataError, match=words):
            import_features(tmp_path / name, tmp_path / "r")
    named = import_features(tmp_path / "weights.pt", tmp_path / "r", columns=["decoder.0.weight"])
    assert torch.equal(named.features(named.sites[0]), X)


def test_three_dimensions_without_ids_are_said_to_be_samples_and_tokens(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 2)))
    notes = import_features(tmp_path / "a.npy", tmp_path / "r").manifest.notes
    assert "a was read as 4 samples of 6 tokens each" in notes


def test_an_array_beside_some_other_run_json_is_an_array(tmp_path: Path) -> None:
    for text in ("{}", "[1]", "no JSON", '{"probe": {}, "sites": {"b": {}}}'):
        (tmp_path / "run.json").write_text(text)
        np.save(tmp_path / "a.npy", X.numpy())
        run = import_features(tmp_path / "a.npy", tmp_path / "r", overwrite=True)
        assert torch.equal(run.features(run.sites[0]), X)


def test_imported_rows_in_another_order_are_paired_by_their_ids(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    names = list("pqrst")

    def run(name: str, x: torch.Tensor, ids: list[str] | None) -> Run:
        torch.save({"decoder.0": x} | ({} if ids is None else {"ids": ids}), tmp_path / f"{name}.pt")
        return import_features(tmp_path / f"{name}.pt", tmp_path / f"{name}.run")

    a, b = run("a", X, names), run("b", X[order], [names[i] for i in order])
    (one, other), rows = Aligned((a, b), a.sites).at(a.sites[0])
    assert torch.equal(one, other)
    assert rows.sample_ids == tuple(names)
    numbered = run("numbered", X[order], [str(i) for i in order])
    # A file without ids is numbered by its rows: to pair it by those would be a guess.
    for first, second in ((run("bare", X, None), numbered), (a, run("fewer", X[:4], names[:4]))):
        with pytest.raises(NotComparable, match=r"the rows of .* differ"):
            Aligned((first, second), first.sites).at(first.sites[0])
