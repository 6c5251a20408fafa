"""Sums instead of rows: the same bytes however they were made, the sums of the rows, and by name what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digests import tree_digest
from torch import Tensor, nn

import rankscope
from rankscope.collecting import collect as collecting, summed_job, summing
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.errors import DataError, NonFinite, NotComparable, RankscopeError, StorageError, StoreCorrupt, UsageError
from rankscope.features import samples_in_groups
from rankscope.inference.influence import named
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.store import Writer, open_run
from rankscope.store.sums import SummedRun

Folder = Callable[..., Path]
OPTIONS: dict[str, Any] = {"rows": "tokens", "tokens_per_batch": 24, "sites": "1,final", "keep": "moments", "groups": 5}


def collected(model: Any, data: Any, out: Path, **options: Any) -> SummedRun:
    run = rankscope.collect(model, data, out=out, **{"keep": "moments", **options})
    assert isinstance(run, SummedRun)
    return run


@pytest.fixture(scope="module")
def sums(folder: Folder, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> SummedRun:
    out = tmp_path_factory.mktemp("sums") / "lora.moments"
    return collected(folder("gpt2", "lora"), texts, out, beside=[folder("gpt2")], name="run", **OPTIONS)


def beside(run: SummedRun) -> SummedRun:
    found = open_run(next(run.path.parent.glob("*-beside-*")))
    assert isinstance(found, SummedRun)
    return found


@pytest.mark.parametrize("rows", ["tokens", "last"])
def test_the_sums_are_those_of_the_rows_in_the_same_batches(
    folder: Folder, texts: Path, tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16, one sample a batch, so that runs of rows read each sample in the same batch."""
    given: dict[str, Any] = {"rows": rows, "tokens_per_batch": 1, "sites": "1", "dtype": "bfloat16"}
    lora, base = (rankscope.collect(folder("gpt2", t), texts, out=tmp_path / t, **given) for t in ("lora", "none"))
    run = collected(folder("gpt2", "lora"), texts, tmp_path / "m", groups=5, beside=[folder("gpt2")], **given)
    site, of_rows = lora.sites[0], lora.rows_at("decoder.1")
    assert run.rows_at(site).keys() == of_rows.keys()
    assert run.manifest.dtype == "bfloat16"
    x, y, sample = lora.features(site), base.features(site), of_rows.sample
    group = samples_in_groups(of_rows, 5)
    for g in range(5):
        here, found = group == g, run.clusters(site, g)
        shift = found.moments.shift
        same(found, ClusterMoments.of(x[here], sample[here], shift=shift))
        place = run.beside(beside(run), site)
        assert place == 0
        crossed = run.crossed(site, g, place)._asdict()
        pair = PairMoments.of(x[here], y[here], shift_a=shift, shift_b=crossed.pop("b_shift"))
        for name, value in crossed.items():
            torch.testing.assert_close(value, getattr(pair, name)[0], rtol=1e-11, atol=1e-11)
        same(beside(run).moments(site, g), Moments.of(y[here], shift=beside(run).moments(site, g).shift))


def same(found: Any, expected: Any) -> None:
    values = named(expected)
    for name, x in named(found).items():
        torch.testing.assert_close(x, values[name][0], rtol=1e-11, atol=1e-11, msg=name)


@pytest.mark.parametrize(("world", "by"), [(3, "shard"), (2, "torchrun")])
def test_any_number_of_processes_makes_the_same_bytes(
    sums: SummedRun, folder: Folder, texts: Path, tmp_path: Path, world: int, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in reversed(range(world)):
        if by == "torchrun":
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
        rankscope.collect(
            folder("gpt2", "lora"), texts, out=tmp_path / "lora.moments", beside=[folder("gpt2")], name="run",
            shard=f"{rank}/{world}" if by == "shard" else None, **OPTIONS,
        )  # fmt: skip
    for made in (sums, beside(sums)):
        assert tree_digest(tmp_path / made.path.name) == tree_digest(made.path)


def test_a_collect_that_is_stopped_anywhere_ends_with_the_same_bytes(
    sums: SummedRun, folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException): ...

    reads, stop = 0, 3
    read = collecting.read

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads % stop == 0:
            raise Stopped
        return read(*args, **kwargs)

    monkeypatch.setattr(collecting, "read", stopping)
    again: dict[str, Any] = {"out": tmp_path / "lora.moments", "beside": [folder("gpt2")], "name": "run", **OPTIONS}
    stops = 0
    for last in (7, 11, 13, 17, 1000):
        reads, stop = 0, last
        try:
            rankscope.collect(folder("gpt2", "lora"), texts, **again)
        except Stopped:
            stops += 1
    assert stops >= 2  # groups were whole in between, or the last would not have come through
    for made in (sums, beside(sums)):
        assert tree_digest(tmp_path / made.path.name) == tree_digest(made.path)


def test_finished_sums_are_whole_and_a_changed_byte_is_found(sums: SummedRun, tmp_path: Path) -> None:
    import shutil

    assert sums.verify().ok
    copy = Path(shutil.copytree(sums.path, tmp_path / "copy"))
    shard = copy / "shards" / "b000002.safetensors"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"b000002\.safetensors was altered"):
        rankscope.measure(copy, ["stable-rank"], groups=5)
    assert not open_run(copy).verify().ok
    shard.write_bytes(data[:-1])
    with pytest.raises(StoreCorrupt, match="bytes"):
        rankscope.measure(copy, ["stable-rank"], groups=5)


@pytest.mark.parametrize("wrong", [{"groups": 4}, {"several": 1}, {"beside": [{}]}, {"more": 1}, {"each_row": "yes"}])
def test_a_manifest_of_sums_that_cannot_be_is_refused(sums: SummedRun, wrong: dict[str, Any]) -> None:
    from dataclasses import replace

    from rankscope.store.sums import Summing

    manifest = replace(sums.manifest, pooling={**sums.manifest.pooling, **wrong})
    with pytest.raises(StoreCorrupt, match=r"manifest.*(pooling|should be)"):
        Summing.of(manifest)


def test_rows_are_not_there_and_it_says_what_to_collect(sums: SummedRun, tmp_path: Path) -> None:
    from rankscope.store import pack

    with pytest.raises(UsageError, match=r"holds sums .* collect it with --keep rows"):
        sums.features("decoder.1")
    with pytest.raises(UsageError, match="holds sums"):
        pack(sums.path, tmp_path / "one.pt")
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one file": ({"keep": "moments", "out": "x.pt"}, "kept in a folder, not in the single file 'x.pt'"),
    "one group": ({"keep": "moments", "groups": 1}, "at least 2; got groups = 1"),
    "groups of rows": ({"groups": 5}, "say which sums are kept"),
    "beside rows": ({"beside": ["x"]}, "say which sums are kept"),
    "a word": ({"keep": "moments", "beside": "base"}, "beside is a list"),
    "another kind": ({"keep": "sums"}, "keep is rows or moments; got 'sums'"),
    "not finite": ({"keep": "moments", "nonfinite": "keep"}, "say nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense_are_refused(name: str, tmp_path: Path) -> None:
    options, words = REFUSED[name]
    with pytest.raises(UsageError, match=words):
        rankscope.collect(nn.Identity(), torch.randn(9, 3), **options)


def module(tmp_path: Path, x: Tensor, **options: Any) -> SummedRun:
    return collected(nn.Identity(), x, tmp_path / f"m{len(list(tmp_path.iterdir()))}", groups=3, **options)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (float("nan"), NonFinite, "not finite: sample '4', token 0"),
        (1e80, NotComparable, r"1e\+80, whose fourth power"),
    ],
)
def test_features_that_cannot_be_summed_are_refused(
    tmp_path: Path, value: float, kind: type[RankscopeError], words: str
) -> None:
    x = torch.randn(12, 5, dtype=torch.float64)
    x[4, 2] = value
    with pytest.raises(kind, match=words):
        module(tmp_path, x)
    with pytest.raises(NotComparable, match="fourth power"):
        module(tmp_path, torch.randn(12, 5, dtype=torch.float64) * 1e-60)


def test_what_does_not_fit_is_refused_with_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(12, 50)
    monkeypatch.setattr("rankscope.memory.free", lambda: 10_000)
    with pytest.raises(UsageError, match=r"29.3 KiB of memory at 1 sites, and 9.8 KiB are free; no sites fit"):
        module(tmp_path, x)
    monkeypatch.undo()
    monkeypatch.setattr("rankscope.collecting.job.Job.free", 25_000)
    with pytest.raises(StorageError, match=r"choose fewer sites, rows or samples; 2 groups fit \(--groups\)"):
        module(tmp_path, x)
    with pytest.raises(UsageError, match="4 processes share 3 groups"):
        module(tmp_path, x, shard="0/4")


def test_sums_of_very_many_rows_count_them_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summed_job, "LOOKED_AT", 10)
    said: list[str] = []
    run = module(tmp_path, torch.randn(40, 5), preview=lambda job: said.append(job.in_words()))
    assert "copies and massive rows will not be known" in said[0]
    assert not run.summing.each_row
    assert run.verify().ok
    assert run.rows.sample.tolist() == list(range(40))
    (record,) = rankscope.measure(run, ["stable-rank"], groups=3).records
    assert any("copies and massive rows are not known" in note for note in record.notes)
    assert record.value is not None


def test_a_sample_without_a_row_is_refused(tmp_path: Path) -> None:
    x = torch.randn(8, 5)
    job = prepare(nn.Identity(), x, Request(out=tmp_path / "m", keep="moments", groups=2), Loading())
    (site,), (stack,) = job.manifest.sites, job.manifest.stacks
    with job_writer(job) as writer:
        sink = summing.SumsSink([writer], job.within)
        few = torch.arange(3)
        with pytest.raises(DataError, match=r"sample '3' has no row at .* .1 such samples beside it.*--keep rows"):
            sink.write(sink.todo[0].id, {site: x[few]}, {stack: (few, few, few)})


def job_writer(job: Job) -> Writer:
    return Writer.open(job.folder, job.manifest, job.plan)


def test_runs_whose_rows_differ_are_not_paired(folder: Folder, texts: Path, tmp_path: Path) -> None:
    model = folder("gpt2")
    job = prepare(model, texts, Request(out=tmp_path / "m", keep="moments", groups=2, beside=[model]), Loading())
    read = {k: torch.arange(len(job.plan[0].samples)) for k in "ab"}
    assert len(job.beside) == 1
    one, other = (summing._Gathered(j.manifest, "cpu") for j in (job, job.beside[0]))
    for gathered, k in ((one, "a"), (other, "b")):
        gathered._rows = dict.fromkeys(job.manifest.stacks, (read[k], read[k] + (k == "b"), 0 * read[k]))
    with pytest.raises(
        NotComparable, match=r"the rows of .* differ at decoder: row 0 .* collect these runs one by one"
    ):
        one._check_alike("decoder", other)
