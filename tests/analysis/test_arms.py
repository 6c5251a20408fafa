"""Planted arms: trainings that differ by a known change and a known seed noise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rankscope
from rankscope.analysis import arm_recipes
from rankscope.definition import Comparison, Extent
from rankscope.errors import NotComparable, UnknownName, UsageError
from rankscope.registry import known
from rankscope.results.arms import ArmContrast, ArmRecord

D, N, KEPT = 24, 480, 6
SEED_NOISE = 0.02


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base_rows() -> Tensor:
    return normal(N, D, seed=1) * torch.arange(1, D + 1) ** -0.5


CHANGES: dict[str, Callable[[], Tensor]] = {
    "preserved": lambda: torch.eye(D),
    "collapsed": lambda: torch.diag((torch.arange(D) < KEPT).float()),
    "reshaped": lambda: torch.diag(torch.arange(1, D + 1).float() ** -1.0),
    "rotated": lambda: torch.linalg.qr(normal(D, D, seed=5)).Q,
}


class Trained(nn.Module):
    """What a training did: a known linear change, then what its seed did; read at two sites."""

    def __init__(self, change: Tensor, seed: int, noise: float = SEED_NOISE, shift: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        jitter = torch.eye(D) + noise * normal(D, D, seed=seed)
        self.first.weight = nn.Parameter((change @ jitter).mT.contiguous())
        self.first.bias = nn.Parameter(shift * normal(D, seed=77))
        self.second = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[rankscope.Run]]:
    where = tmp_path_factory.mktemp("arms")

    def made(name: str, seeds: int = 3, **options: Any) -> list[rankscope.Run]:
        change = CHANGES.get(name, lambda: torch.eye(D))()
        found = []
        for s in range(seeds):
            module = Trained(change, 100 * len(name) + s, **options)
            out = where / f"{name}-{seeds}-{len(list(where.iterdir()))}.pt"
            found.append(rankscope.collect(module, base_rows(), sites="first.output,second.output", out=out))
        return found

    return made


@pytest.fixture(scope="module")
def base(make: Callable[..., list[rankscope.Run]]) -> rankscope.Run:
    return make("base", seeds=1, noise=0.0)[0]


OPTIONS: dict[str, Any] = {"sites": "first.output", "groups": 12, "measures": ["cka", "entropy-rank", "recoverability"]}


@pytest.fixture(scope="module")
def contrast(make: Callable[..., list[rankscope.Run]], base: rankscope.Run) -> ArmContrast:
    arms = {name: make(name) for name in CHANGES}
    return rankscope.compare_arms(arms, base=base, **OPTIONS)


def one(result: ArmContrast, measure: str, arm: str) -> ArmRecord:
    return next(r for r in result.of(measure) if r.arm == arm)


def test_each_planted_change_gets_its_word(contrast: ArmContrast) -> None:
    assert {arm: v.word for (_, arm), v in contrast.verdicts.items()} == {name: name for name in CHANGES}
    assert "information lost" in contrast.verdicts["first.output", "collapsed"].why
    assert "information the same" in contrast.verdicts["first.output", "reshaped"].why
    assert one(contrast, "cka", "rotated").verdict.startswith("rotated: ")


def test_seed_noise_and_row_noise_are_told_apart(make: Callable[..., list[rankscope.Run]], base: rankscope.Run) -> None:
    """Twice the jitter of seeds is twice the spread of their ranks, and does nothing to what samples leave open."""
    quiet, loud = make("quiet", seeds=6, noise=0.004), make("noisy", seeds=6, noise=0.016)
    result = rankscope.compare_arms({"quiet": quiet, "noisy": loud}, base=base, **OPTIONS)
    small, large = (one(result, "entropy-rank", arm) for arm in ("quiet", "noisy"))
    assert 1.8 < large.errors.seed_sd / small.errors.seed_sd < 9
    values = [r.records[0].difference for r in (rankscope.compare(base, x, **_PLAIN) for x in loud)]
    assert large.value == pytest.approx(sum(values) / 6, abs=1e-6)
    assert large.errors.seed_sd == pytest.approx(float(torch.tensor(values).std()), rel=0.1)
    assert large.low < large.value < large.high
    assert large.band.high - large.band.low >= large.high - large.low - 1e-12
    assert large.equivalence.floor > 2 * large.errors.seed_sd


_PLAIN: dict[str, Any] = {"sites": "first.output", "groups": 12, "measures": ["entropy-rank"]}


def test_one_run_has_no_seed_noise_known(make: Callable[..., list[rankscope.Run]], base: rankscope.Run) -> None:
    run = make("preserved")[0]
    once = one(rankscope.compare_arms({"arm": [run]}, base=base, **OPTIONS), "entropy-rank", "arm")
    pair = rankscope.compare(base, run, **_PLAIN).records[0]
    assert once.errors.seed_sd is None
    assert (once.value, once.low, once.high) == pytest.approx((pair.value, pair.low, pair.high), rel=1e-6)


def test_one_checkpoint_does_not_pass_for_two_trainings(
    make: Callable[..., list[rankscope.Run]], base: rankscope.Run, tmp_path: Path
) -> None:
    first, second, third = make("preserved")
    copy = tmp_path / "another-name.pt"
    copy.write_bytes(first.path.read_bytes())
    again = tmp_path / "again.pt"
    rankscope.collect(Trained(torch.eye(D), 900), base_rows(), sites="first.output,second.output", out=again)
    for arms, words in (
        ({"arm": [first, second, first]}, f"{first.path} and {first.path}, in arm, are one checkpoint: counted twice"),
        ({"arm": [first, second, copy]}, f"{first.path} and {copy}, in arm, are one checkpoint"),
        ({"arm": [first, again]}, "in arm, are one checkpoint"),  # the same weights, collected twice
        ({"a": [first, second], "b": [third, copy]}, "in a and b, are one checkpoint"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            rankscope.compare_arms(arms, base=base, **OPTIONS)
    assert rankscope.compare_arms({"arm": [base]}, base=base, **OPTIONS).records, "the base untuned is an arm"


def test_two_recipes_are_not_one_arm(folder: Callable[..., Path], texts: Path, tmp_path: Path) -> None:
    one_, other = (rankscope.collect(folder("gpt2", t), texts, out=tmp_path / f"{t}.pt") for t in ("lora", "prefix"))
    words = r"the runs of arm are not of one recipe: the tuning is \['lora r=.* in .* and \['prefix_tuning .*; make two arms|two arms"
    with pytest.raises(UsageError, match=words):
        rankscope.compare_arms({"arm": [one_, other]}, **OPTIONS | {"sites": "decoder.1"})
    assert rankscope.compare_arms({"a": [one_], "b": [other]}, **OPTIONS | {"sites": "decoder.1"}).records


def test_a_recipe_that_its_record_tells_apart_is_another(
    make: Callable[..., list[rankscope.Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = make("preserved")
    recipes = {first.name: {"learning_rate": 0.1, "epochs": 3}, second.name: {"learning_rate": 0.2, "epochs": 3}}

    class Made:
        def __init__(self, path: Path) -> None:
            self.record = {"recipe": recipes[path.name], "seed": hash(path), "data": {"fingerprint": "same"}}

    for run in (first, second):
        monkeypatch.setitem(run.manifest.checkpoint, "path", run.name)
    monkeypatch.setattr(arm_recipes.Checkpoint, "read", Made)
    words = f"the recipe's learning_rate is 0.1 in {first.name} and 0.2 in {second.name}"
    with pytest.raises(UsageError, match=re.escape(words)):
        rankscope.compare_arms({"arm": [first, second]}, **OPTIONS)


def test_unrelated_rows_of_one_covariance_are_not_called_the_same_basis(tmp_path: Path) -> None:
    """They vary in the base's basis as much as its own rows: it was called the same at a CKA of 0.28."""
    scale = torch.arange(1, D + 1) ** -0.5
    trained = read(base_rows(), tmp_path / "trained.pt")
    said = {}
    for kept in (0.5, 0.9):
        rows = [kept * base_rows() + (1 - kept**2) ** 0.5 * normal(N, D, seed=s) * scale for s in range(71, 76)]
        runs = [read(x, tmp_path / f"{kept}-{s}.pt") for s, x in enumerate(rows)]
        result = rankscope.compare_arms({"arm": runs}, base=trained, **{**OPTIONS, "sites": "all"})
        (found,) = result.verdicts.values()
        said[round(one(result, "cka", "arm").value, 1)] = found.why
    assert [("basis the same" in why) for _, why in sorted(said.items())] == [False, True], said


def test_fewer_than_three_seeds_are_no_ground_for_a_verdict(
    make: Callable[..., list[rankscope.Run]], base: rankscope.Run
) -> None:
    """Even a true collapse is not called one from two trainings."""
    result = rankscope.compare_arms({"collapsed": make("collapsed", seeds=2)}, base=base, **OPTIONS)
    assert str(result.verdicts["first.output", "collapsed"]) == "inconclusive: seeds: 2 of at least 3 runs"
    assert one(result, "entropy-rank", "collapsed").equivalence.equivalent is None
    assert any("collapsed has 2 of 3 runs" in note for note in result.notes)


def test_two_seeds_have_no_bands_and_no_interval_that_leaves_its_range(
    make: Callable[..., list[rankscope.Run]], base: rankscope.Run
) -> None:
    """With one degree of freedom Student's interval reached from -7342 to 5529 about a recoverability of -906."""
    collapsed = make("collapsed", seeds=2, noise=0.3)
    result = rankscope.compare_arms({"two": collapsed, "three": make("preserved")}, base=base)
    swept = 0
    for r in (r for r in result.records if r.value is not None):
        what = known(r.measure)
        if isinstance(what, Comparison) and "−" not in r.arm:
            least, most = what.range_of(Extent(r.shape.n, r.shape.d, r.shape.samples))
            assert r.low is None or least <= r.low <= r.value <= r.high <= most
            swept += 1
        assert (r.band.low is None) is (r.runs == 2), "the smaller of two arms decides"
        if r.low is None:
            assert any("so there is none" in note for note in r.notes)
    assert swept == 4 * 2 * 2
    assert result.plot().axes, "arms without bands are drawn with intervals, or points alone"


def test_a_number_that_a_run_does_not_have_is_none_with_a_reason(tmp_path: Path) -> None:
    """A spectrum with variance at a rank at which the base has none is infinitely far from it."""
    flat = base_rows() * (torch.arange(D) < KEPT)
    trained = read(flat, tmp_path / "flat.pt")
    runs = [read(base_rows() + 0.01 * normal(N, D, seed=s), tmp_path / f"{s}.pt") for s in (1, 2)]
    found = rankscope.compare_arms({"arm": runs}, base=trained, sites="all", measures=["drift-20", "drift"], groups=6)
    (record,) = found.of("drift-20")
    assert record.value is None
    assert record.notes[0].endswith("on the features of a run")
    assert found.of("drift")[0].value > 0
    json.dumps(found.to_records(), allow_nan=False)


def test_a_mean_shift_is_not_called_preserved(make: Callable[..., list[rankscope.Run]], base: rankscope.Run) -> None:
    """Spectrum, basis and information are the same: only drift sees it, and leaves the verdict open."""
    result = rankscope.compare_arms({"shifted": make("shifted", shift=3.0)}, base=base, **OPTIONS)
    found = result.verdicts["first.output", "shifted"]
    assert found.word == "inconclusive"
    assert found.why.endswith("information the same, drifted")


def test_rank_alone_gives_no_verdict(make: Callable[..., list[rankscope.Run]], contrast: ArmContrast) -> None:
    """The reshaped arm has the lower rank of the two, and is not the collapsed one."""
    reshaped, collapsed = (one(contrast, "entropy-rank", arm) for arm in ("reshaped", "collapsed"))
    assert reshaped.value < collapsed.value < 0
    assert reshaped.verdict.split(":")[0] == "reshaped"


def read(x: Tensor, out: Path) -> rankscope.Run:
    return rankscope.collect(nn.Sequential(nn.Embedding.from_pretrained(x)), torch.arange(N), out=out)


def test_trap_20_a_higher_rank_is_not_called_better(tmp_path: Path) -> None:
    """Noise that has nothing of the base has the highest rank of all: no word is a praise of it."""
    runs = [read(normal(N, D, seed=900 + s), tmp_path / f"{s}.pt") for s in range(3)]
    trained = read(base_rows(), tmp_path / "trained.pt")
    result = rankscope.compare_arms({"untrained": runs}, base=trained, **{**OPTIONS, "sites": "all"})
    assert one(result, "entropy-rank", "untrained").band.low > 5
    (found,) = result.verdicts.values()
    assert (found.word, "information lost" in found.why) == ("inconclusive", True)


def test_trainings_that_lost_each_other_too_do_not_excuse_the_loss(tmp_path: Path) -> None:
    """Each adds noise of its own and keeps a third of the base; two of them lie 0.9 apart, and still it is a loss."""
    scale = torch.arange(1, D + 1) ** -0.5
    runs = [read(base_rows() + 1.5**0.5 * normal(N, D, seed=s) * scale, tmp_path / f"{s}.pt") for s in (91, 92, 93)]
    trained = read(base_rows(), tmp_path / "trained.pt")
    result = rankscope.compare_arms({"noisy": runs}, base=trained, **{**OPTIONS, "sites": "all"})
    record = one(result, "recoverability", "noisy")
    assert record.value == pytest.approx(0.33, abs=0.05)
    assert record.equivalence.floor > 0.8
    (found,) = result.verdicts.values()
    assert (found.word, "information lost" in found.why) == ("inconclusive", True)


def test_two_arms_are_compared_paired_over_samples(contrast: ArmContrast) -> None:
    difference = one(contrast, "entropy-rank", "collapsed − preserved")
    a, b = (one(contrast, "entropy-rank", arm) for arm in ("preserved", "collapsed"))
    assert difference.value == pytest.approx(b.value - a.value)
    assert difference.band.high < -difference.equivalence.floor
    assert difference.equivalence.equivalent is False
    assert difference.verdict == ""
    same = one(contrast, "recoverability", "rotated − preserved")
    assert same.equivalence.equivalent is True


def test_without_a_base_arms_differ_in_numbers_only(make: Callable[..., list[rankscope.Run]]) -> None:
    result = rankscope.compare_arms({"preserved": make("preserved"), "rotated": make("rotated")}, **OPTIONS)
    assert result.verdicts == {}
    assert one(result, "entropy-rank", "rotated").value > 5
    assert "arms need a base" in one(result, "cka", "rotated").notes[0]
    assert any("without a base" in note for note in result.notes)
    with pytest.raises(
        NotComparable, match="none of the requested measures can compare these arms: cka relates two runs"
    ):
        rankscope.compare_arms({"a": make("preserved")}, **{**OPTIONS, "measures": ["cka"]})


def test_arms_that_cannot_be_meant_are_refused(make: Callable[..., list[rankscope.Run]]) -> None:
    for arms in ({}, {"lora": []}):
        with pytest.raises(UsageError, match="each has at least one run"):
            rankscope.compare_arms(arms)
    with pytest.raises(UnknownName, match="no variant 'frob' of the rows; there are raw, distinct"):
        rankscope.compare_arms({"a": make("preserved")}, variant="frob")


def test_the_records_and_the_figure(contrast: ArmContrast) -> None:
    frame = contrast.to_frame()
    assert len(frame) == 3 * (4 + 6)
    assert set(frame["arm"]) >= {*CHANGES, "rotated − reshaped"}
    assert contrast.to_records()[0]["floor"] > 0
    assert len(contrast.plot().axes) >= 3
