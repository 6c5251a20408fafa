"""Every number that sums can give is that of the rows, with its interval; the others are refused by name, each in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import rankscope
from rankscope.analysis import references
from rankscope.errors import NotComparable, UsageError
from rankscope.linalg import sums
from rankscope.linalg.streamed import Streamed
from rankscope.registry import COMPARISONS, DEFINITIONS
from rankscope.results.record import Estimate
from rankscope.results.runs import Contrast, Measurement

EVERY = (*DEFINITIONS, *COMPARISONS)
WIDTH, SAMPLES, GROUPS = 6, 24, 8


class Both(NamedTuple):
    """The same models on the same samples: rows of each, and sums of each, which were taken beside each other."""

    rows: Mapping[str, Any]
    sums: Mapping[str, Any]


class Base(nn.Module):
    """Reads each token by itself."""

    def __init__(self, seed: int, d: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.outer = (nn.Linear(d, d, dtype=dtype) for _ in range(2))
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                layer.weight.copy_(torch.eye(d) + 0.3 * torch.randn(d, d, generator=generator))
                layer.bias.copy_(torch.randn(d, generator=generator))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        # Rounded, so that it does not depend on which samples are in a batch
        return (self.outer(torch.tanh(self.inner(x))) * 256).round() / 256


class Tuned(Base): ...


class Other(Base): ...


KINDS: dict[str, type[Base]] = {"base": Base, "tuned": Tuned, "other": Other}


def both(
    root: Path,
    *,
    longest: int = 1,
    d: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    groups: int = SAMPLES,
    **options: Any,
) -> Both:
    """Samples of up to ``longest`` tokens."""
    generator = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(SAMPLES, longest, d, generator=generator).to(dtype)}
    data["attention_mask"] = (torch.arange(longest) < (1 + torch.arange(SAMPLES) % longest)[:, None]).long()
    models = {name: kind(k, d, dtype) for k, (name, kind) in enumerate(KINDS.items())}
    given: dict[str, Any] = {
        "tokens_per_batch": 1,
        "sites": "outer.output",
        "rows": "tokens" if longest > 1 else "last",
        **options,
    }
    rows = {name: rankscope.collect(model, data, out=root / f"{name}.pt", **given) for name, model in models.items()}
    base, *others = models.values()
    main = rankscope.collect(
        base, data, out=root / "base.moments", keep="moments", groups=groups, beside=others, **given
    )  # fmt: skip
    beside = {name: rankscope.load(root / f"base-beside-{name.title()}.moments") for name in list(models)[1:]}
    return Both(rows, {"base": main, **beside})


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One row a sample; every sample is a group of its own, as it is a unit of the rows."""
    return both(tmp_path_factory.mktemp("pooled"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Several rows a sample."""
    return both(tmp_path_factory.mktemp("tokens"), longest=4)


def numbers(record: Any) -> Iterator[tuple[str, float | None]]:
    """Every number of a record by name, but what a shuffle of samples or leaving out sinks gives."""
    for name in ("estimate", "a", "b", "band", "shape"):
        for key, value in vars(getattr(record, name)).items() if hasattr(record, name) else ():
            if not isinstance(value, str):
                yield f"{name}.{key}", value
    for name in ("base", "itself", "mean_share", "mean_share_b", "below_floor"):
        if hasattr(record, name):
            yield name, getattr(record, name)
    if record.measure in DEFINITIONS or COMPARISONS[record.measure].reads == "spectra":
        yield "noise", record.noise


def agree(of_rows: Measurement | Contrast, of_sums: Measurement | Contrast) -> int:
    """How many numbers are equal; none may differ."""
    equal, found = 0, {(b.site, b.measure): b for b in of_sums.records}
    for a in of_rows.records:
        b = found[a.site, a.measure]
        assert b.interval_by == a.interval_by, f"{a.measure}: {a.interval_by} of rows and {b.interval_by} of sums"
        for (name, x), (_, y) in zip(numbers(a), numbers(b), strict=True):
            where = f"{a.measure} at {a.site}, {name}: {x} of rows and {y} of sums"
            if x is None or y is None:
                assert x is y, where
                continue
            # The angle of a run with itself is the arc cosine of nearly 1, which loses half of the digits
            assert y == pytest.approx(x, rel=1e-9, abs=1e-7 if "angle" in a.measure else 1e-10), where
            equal += 1
    return equal


def refused(result: Measurement | Contrast) -> set[str]:
    """The measures that have no number because there are sums only, by what their notes say."""
    without = [
        r for r in result.records if any("collect with --keep rows" in n and "unrelated" not in n for n in r.notes)
    ]
    assert all(r.estimate == Estimate() for r in without)
    return {r.measure for r in without}


def from_rows(kinds: Mapping[str, Any], *, several: bool) -> set[str]:
    """The measures that need rows, where they have a meaning at all."""
    needed = {name for name, one in kinds.items() if one.reads in ("rows", "samples")}
    tokens_only = {name for name, one in kinds.items() if getattr(one, "needs_tokens", False)}
    pairs_of_samples = {name for name, one in kinds.items() if getattr(one, "across", None)}
    return needed | pairs_of_samples if several else needed - tokens_only


@pytest.mark.parametrize("rows", ["pooled", "tokens"])
@pytest.mark.parametrize("interval", ["influence", "jackknife"])
def test_every_number_of_one_run_is_that_of_the_rows(rows: str, interval: Any, request: pytest.FixtureRequest) -> None:
    there: Both = request.getfixturevalue(rows)
    without = from_rows(DEFINITIONS, several=rows == "tokens")
    possible = [name for name in DEFINITIONS if name not in without]
    of_rows = rankscope.measure(there.rows["tuned"], possible, interval=interval, groups=GROUPS)
    of_sums = rankscope.measure(there.sums["tuned"], list(DEFINITIONS), interval=interval, groups=GROUPS)
    assert refused(of_sums) == without
    assert agree(of_rows, of_sums) > 250


@pytest.mark.parametrize(
    ("rows", "interval"), [("pooled", "influence"), ("tokens", "influence"), ("tokens", "jackknife")]
)
def test_every_number_of_two_runs_and_a_base_is_that_of_the_rows(
    rows: str, interval: Any, request: pytest.FixtureRequest
) -> None:
    there: Both = request.getfixturevalue(rows)
    without = from_rows({**DEFINITIONS, **COMPARISONS}, several=rows == "tokens")
    possible = [name for name in EVERY if name not in without]
    of_rows, of_sums = (
        rankscope.compare(
            runs["tuned"], runs["other"], base=runs["base"], measures=some, interval=interval, groups=GROUPS
        )
        for runs, some in ((there.rows, possible), (there.sums, EVERY))
    )
    assert refused(of_sums) == without
    assert agree(of_rows, of_sums) > 700
    assert of_sums.similarity is None
    for solved, expected in zip(of_sums.spectra.values(), of_rows.spectra.values(), strict=True):
        for site, one in solved.items():
            torch.testing.assert_close(one.values, expected[site].values, rtol=1e-9, atol=1e-9)


SOME = ("roy-vetterli", "participation-ratio-clustered", "recoverability", "cka-biased", "drift", "overlap")


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (12, {"longest": 4}),  # units of several samples
        (6, {"dtype": torch.float64}),  # two of which make a group of the analysis
        (12, {"d": 60}),  # fewer rows than features, which are seen in the space that they span
        (12, {"longest": 4, "dtype": torch.bfloat16}),
    ],
)
def test_groups_of_several_samples_give_the_values_of_the_rows(
    asked: int, options: dict[str, Any], tmp_path: Path
) -> None:
    """And the intervals that leave out these groups; influence is that of the groups, where rows have smaller units."""
    there = both(tmp_path, groups=12, **options)
    given: dict[str, Any] = {"measures": SOME, "groups": asked}
    of_rows, of_sums, by_influence = (
        rankscope.compare(r["tuned"], r["other"], base=r["base"], interval=interval, **given)  # type: ignore[arg-type]
        for r, interval in ((there.rows, "jackknife"), (there.sums, "jackknife"), (there.sums, "influence"))
    )
    assert agree(of_rows, of_sums) > 70
    assert [r.value for r in by_influence.records] == pytest.approx([r.value for r in of_sums.records], rel=1e-9)
    one, other = (next(iter(rankscope.spectra(runs["tuned"]).values())).values for runs in there)
    # Of fewer rows than features the least value is 0; sums leave rounding there
    torch.testing.assert_close(one[:-1], other[: len(one) - 1], rtol=1e-6, atol=1e-6)


def test_groups_that_do_not_make_those_of_the_analysis_are_refused(tmp_path: Path) -> None:
    run = rankscope.collect(
        nn.Identity(), torch.randn(SAMPLES, WIDTH), keep="moments", groups=8, out=tmp_path / "m"
    )  # fmt: skip
    with pytest.raises(UsageError, match="sums of 8 groups of samples, which do not make 20; ask for --groups 8"):
        rankscope.measure(run)
    assert rankscope.measure(run, ["rankme"], groups=4).records[0].low is not None


def test_what_sums_cannot_tell_is_said_by_name(pooled: Both, tmp_path: Path) -> None:
    tuned, base = pooled.sums["tuned"], pooled.sums["base"]
    with pytest.raises(NotComparable, match=r"rows cannot be standardised any more.* --keep rows"):
        rankscope.measure(tuned, variant="standardised")
    with pytest.raises(NotComparable, match=r"holds sums and .* rows, which cannot be paired"):
        rankscope.compare(tuned, pooled.rows["base"])
    alone = rankscope.load(tuned.path)
    alone.summing = replace(alone.summing, beside=())
    alone_too = rankscope.load(pooled.sums["other"].path)
    found = rankscope.compare(alone, alone_too, measures=["drift", "rankme", "overlap"])
    drift, rankme, overlap = found.records
    assert "the sums over pairs of rows of Tuned and Other are not kept" in drift.notes[0]
    assert drift.value is None
    assert rankme.value is not None
    assert overlap.value is not None
    null = rankscope.compare(tuned, base, measures=["drift"]).records[0]
    assert null.noise is None
    assert any("sums cannot be shuffled" in note for note in null.notes)


def test_noise_in_the_place_of_summed_rows_is_never_there_as_a_whole(
    pooled: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    get = Streamed.__getitem__

    def counted(self: Streamed, index: slice | Tensor) -> Tensor:
        found = get(self, index)
        read.append(len(found))
        return found

    want = rankscope.measure(pooled.sums["base"], ["roy-vetterli"]).records[0].noise
    monkeypatch.setattr(Streamed, "__getitem__", counted)
    for module, name in ((sums, "BLOCK"), (references, "DRAWN")):
        monkeypatch.setattr(module, name, 4 * WIDTH)
    found = rankscope.measure(rankscope.load(pooled.sums["base"].path), ["roy-vetterli"]).records[0].noise
    assert max(read) == 4 < SAMPLES
    assert found is not None
    assert want is not None
    assert found != want  # noise of other seeds, and so of nearly the same spectrum
    assert found == pytest.approx(want, rel=0.1)


def test_sums_of_another_machine_are_not_paired(pooled: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    other = rankscope.load(pooled.sums["other"].path)
    about = type(other).about

    def rounded(self: Any, site: Any, group: int) -> Any:
        shift, first = about(self, site, group)
        return (shift * (1 + 1e-15) if self is other else shift), first

    monkeypatch.setattr(type(other), "about", rounded)
    found = rankscope.compare(pooled.sums["tuned"], other, measures=["drift", "rankme"])
    assert "on another machine" in found.records[0].notes[0]


def test_copies_and_massive_rows_are_seen(tmp_path: Path) -> None:
    """Which modules make of samples that differ: rows of zeros, and a row of great length."""
    x = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0))
    x[3, 1:] *= 1e3
    x[20:23, 0] = -5 - torch.arange(3)
    given: list[dict[str, Any]] = [{"keep": "rows"}, {"keep": "moments", "groups": 6}]
    results = [rankscope.collect(Zeros(), x, out=tmp_path / one["keep"], name="run", **one) for one in given]
    with pytest.raises(NotComparable, match=r"3 of the 24 rows .* are zero .* --keep rows and variant=distinct"):
        rankscope.measure(results[1], ["rankme"], groups=6)
    of_rows, of_sums = (
        rankscope.measure(run, ["rankme"], allow_duplicates=True, groups=6).records[0] for run in results
    )
    assert set(of_sums.notes) == {note for note in of_rows.notes if "few samples" not in note}
    assert any("massive" in note and "1 rows" in note for note in of_sums.notes)
    assert (of_sums.without_sinks, of_rows.without_sinks is None) == (None, False)


class Zeros(nn.Module):
    """Gives nothing where the first number is below -4."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x[:, :1] > -4)


def test_samples_that_stand_in_the_data_again_are_refused(tmp_path: Path) -> None:
    x = torch.randn(10, 3, 5, generator=torch.Generator().manual_seed(0))
    data = {"x": torch.cat([x, x[:2]]), "attention_mask": torch.ones(12, 3, dtype=torch.long)}
    data["x"][10:, :, 0] += 1  # other inputs, but the module does not read what differs
    model = Halved(0, 5, torch.float32).eval()
    run = rankscope.collect(
        model, data, rows="tokens", sites="outer.output", groups=2, keep="moments", out=tmp_path / "m"
    )  # fmt: skip
    with pytest.raises(NotComparable, match=r"the rows of 2 of the 12 samples equal those .*'10' is '0'; '11' is '1'"):
        rankscope.measure(run, ["rankme"], groups=2)


class Halved(Base):
    """Blind to the first number of each token."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(x * (torch.arange(x.shape[-1]) > 0), attention_mask)


def test_arms_are_compared_by_their_sums(pooled: Both) -> None:
    results = [
        rankscope.compare_arms(
            {"a": [r["tuned"]], "b": [r["other"]]}, base=r["base"], measures=["rankme", "drift"], groups=GROUPS
        )
        for r in pooled
    ]
    for one, other in zip(*(found.records for found in results), strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-9)
        assert other.errors.sample_se == pytest.approx(one.errors.sample_se, rel=1e-6)
