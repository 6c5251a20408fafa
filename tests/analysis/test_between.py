"""Two sites of one run: what is planted is found, the numbers are those of the formulas, and what cannot be related is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rankscope
from rankscope.errors import NonFinite, NotComparable, UnknownName, UsageError
from rankscope.features import IMAGE, TEXT
from rankscope.store import Batch, Manifest, Run, Writer, open_run

SAMPLES, IMAGES, WIDE, GAP = 160, 8, 12, 3.0
DEVIATIONS = 3 * 0.75 ** torch.arange(IMAGES, dtype=torch.float64)
KEPT = {"base": 5, "tuned": 2}
"""How many of the image's leading directions the text rows carry."""
Sites = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""Site → features, the sample of each row, and its role."""


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stored(path: Path, sites: Sites, *, samples: int = SAMPLES, dtype: str = "float32") -> Run:
    """A run of given rows; the sites of one stack share theirs."""
    manifest = Manifest(
        name=path.stem,
        checkpoint={"digest": path.stem},
        probe={"name": "planted", "fingerprint": "planted", "ids": [f"s{i}" for i in range(samples)]},
        rows={"kind": "tokens"},
        dtype=dtype,
        sites={name: {"width": x.shape[1], "stack": name.partition(".")[0]} for name, (x, _, _) in sites.items()},
    )
    rows = {}
    for name, (_, sample, role) in sites.items():
        place = torch.cat([torch.arange(n) for n in torch.bincount(sample).tolist()])
        rows[name.partition(".")[0]] = (sample, place, role)
    with Writer.open(path, manifest, [Batch(0, tuple(range(samples)), 8)]) as writer:
        writer.write(0, {name: x.to(getattr(torch, dtype)) for name, (x, _, _) in sites.items()}, rows)
        writer.finish()
    return open_run(path)


def spread(means: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Rows of samples about the mean of each, which is theirs exactly."""
    sample = torch.arange(len(means)).repeat_interleave(counts)
    own = draw(len(sample), means.shape[1], seed=seed)
    total = torch.zeros_like(means).index_add_(0, sample, own)
    return means[sample] + own - (total / counts[:, None])[sample]


def planted(kept: int) -> Sites:
    """Image rows, each direction of which varies less than the one before; and rows of text that carry a rotated copy of the leading ones, and noise."""
    image = draw(SAMPLES, IMAGES, seed=1) * DEVIATIONS
    copy = torch.cat([image[:, :kept], draw(SAMPLES, WIDE - kept, seed=2)], 1)
    text = copy @ torch.linalg.qr(draw(WIDE, WIDE, seed=3)).Q
    shown = draw(SAMPLES, WIDE, seed=4)
    shown[:, 0] += GAP
    three, some = torch.full((SAMPLES,), 3), 2 + torch.arange(SAMPLES) % 3
    parts = [spread(shown, three, 5), spread(text, some, 6)]
    sample = torch.cat([torch.arange(SAMPLES).repeat_interleave(n) for n in (three, some)])
    role = torch.tensor([IMAGE, TEXT], dtype=torch.uint8).repeat_interleave(torch.tensor([len(x) for x in parts]))
    order = torch.argsort(sample, stable=True)  # in each sample the image, then the text
    mixed = torch.cat(parts)[order], sample[order], role[order]
    seen = spread(image, three, 7), torch.arange(SAMPLES).repeat_interleave(3), torch.full((3 * SAMPLES,), IMAGE).byte()
    return {"vision.final": seen, "decoder.0": mixed, "decoder.1": (2 * mixed[0] + 1, *mixed[1:])}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("between")
    return {name: stored(root / name, planted(kept)) for name, kept in KEPT.items()}


@pytest.fixture(scope="module")
def found(two: dict[str, Run]) -> Any:
    return rankscope.between(
        two["tuned"], "vision.final:image", "decoder:text", base=two["base"],
        measures=["recoverability", "recoverable-components", "cka", "cca", "overlap"],
    )  # fmt: skip


def pooled(run: Run, site: str, role: str) -> np.ndarray:
    rows, x = run.rows_at(site), run.features(site).double().numpy()
    kind, sample = np.array(rows.roles) == role, rows.sample.numpy()
    return np.array([x[kind & (sample == s)].mean(0) for s in range(SAMPLES)])


def readable(x: np.ndarray, y: np.ndarray, groups: int = 20) -> float:
    """1 - Σ‖x - x̂‖²/Σ‖x - x̄‖², least squares fitted on every other group of samples."""
    half, found = np.arange(SAMPLES) * groups // SAMPLES % 2 == 0, []
    for fit in (half, ~half):
        a, b = np.column_stack([np.ones(fit.sum()), y[fit]]), np.column_stack([np.ones((~fit).sum()), y[~fit]])
        missed = x[~fit] - b @ np.linalg.lstsq(a, x[fit], rcond=None)[0]
        found.append(1 - (missed**2).sum() / ((x[~fit] - x[~fit].mean(0)) ** 2).sum())
    return float(np.mean(found))


def test_the_directions_that_the_text_carries_can_be_read_and_no_others(found: Any) -> None:
    variances = (draw(SAMPLES, IMAGES, seed=1) * DEVIATIONS).var(0)
    for r in found.of("recoverable-components"):
        if r.a == "vision.final:image":
            assert r.value == KEPT[r.run]
    for r in found.of("recoverability"):
        if r.a == "vision.final:image":
            kept = float(variances[: KEPT[r.run]].sum() / variances.sum())
            # Of what is not there, the regression fitted on half of the samples misses d/(n - d) more than all
            chance = (1 - kept) * WIDE / (SAMPLES / 2 - WIDE - 2)
            assert r.value == pytest.approx(kept - chance, abs=0.06)
            assert r.low < r.value < r.high
            assert r.noise < 0.1 < 0.99 < r.itself
            assert (r.shape.d, r.d_b, r.shape.samples, r.shape.n) == (IMAGES, WIDE, SAMPLES, SAMPLES)
    lost = [r for r in found.of("recoverability") if r.run == "tuned" and r.a == "vision.final:image"]
    assert [r.site for r in lost] == ["decoder.0", "decoder.1"]
    assert all(r.change.high < 0 and r.change_band.high < 0 and r.p < 0.05 for r in lost)


def test_the_numbers_are_those_of_the_rows_averaged_over_samples(found: Any, two: dict[str, Run]) -> None:
    swept = 0
    for r in found.of("recoverability"):
        x, y = (pooled(two[r.run], *side.split(":")) for side in (r.a, r.b))
        assert r.value == pytest.approx(readable(x, y), abs=1e-5)
        swept += 1
    assert swept == 8  # two runs, two sites, both ways
    for r in found.of("cca"):
        a, b = (np.linalg.qr(z - z.mean(0))[0] for z in (pooled(two[r.run], *side.split(":")) for side in (r.a, r.b)))
        assert r.value == pytest.approx(float((np.linalg.svd(a.T @ b)[1] ** 2).mean()), abs=1e-5)
    by_run = {(r.run, r.site, r.a): r.value for r in found.of("recoverability")}
    for r in (r for r in found.of("recoverability") if r.run == "tuned"):
        assert r.before == by_run["base", r.site, r.a]
        assert r.change.value == pytest.approx(r.value - r.before)
    assert "b: the mean of each sample's text rows" in found.records[0].convention


def test_what_needs_one_basis_has_no_value_between_stacks(found: Any) -> None:
    for r in found.of("overlap"):
        assert (r.value, r.noise) == (None, None)
        assert "needs a shared basis, which vision.final and decoder" in r.notes[0]


def test_the_gap_between_the_kinds_of_one_site_is_the_planted_one(two: dict[str, Run]) -> None:
    result = rankscope.between(two["base"], "decoder:image", "decoder:text", permutations=19)
    assert result.measures == ("recoverability", "cka", "modality-gap", "modality-cosine", "modality-share")
    a, b = (pooled(two["base"], "decoder.0", role) for role in ("image", "text"))
    first, second = result.of("modality-gap")
    energy = float((np.array([a, b]) ** 2).sum(-1).mean())
    assert first.value == pytest.approx(GAP / energy**0.5, abs=0.1)
    assert first.low < GAP / energy**0.5 < first.high
    assert (first.p_unrelated, second.p_unrelated) == (0.05, 0.05)
    assert abs(first.noise) < 0.15
    shares = result.of("modality-share")
    assert shares[0].value == pytest.approx(shares[1].value)  # which a scale and a shift do not change
    assert shares[0].band.low - 1e-9 <= shares[0].low < shares[0].high <= shares[0].band.high + 1e-9


def test_rows_can_be_the_last_of_each_sample_or_all(two: dict[str, Run]) -> None:
    run = two["base"]
    last = rankscope.between(run, "vision.final", "decoder.0:last", measures=["cka-biased"]).records[0]
    rows, x = run.rows_at("decoder.0"), run.features("decoder.0").double()
    ends = torch.cat([rows.sample.diff() != 0, torch.ones(1, dtype=torch.bool)])
    y, seen = x[ends].numpy(), pooled(run, "vision.final", "image")
    a, b = seen - seen.mean(0), y - y.mean(0)
    alike = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert last.value == pytest.approx(alike, abs=1e-5)
    assert (last.a, last.b) == ("vision.final", "decoder.0:last")
    assert "b: the last row of each sample" in last.convention


def test_samples_without_rows_on_one_side_are_left_out_and_counted(tmp_path: Path) -> None:
    x, sample, role = planted(5)["decoder.0"]
    keep = (role == IMAGE) | (sample >= 40)
    run = stored(
        tmp_path / "fewer",
        {
            **planted(5),
            "decoder.0": (x[keep], sample[keep], role[keep]),
            "decoder.1": (x[keep], sample[keep], role[keep]),
        },
    )
    (r,) = rankscope.between(run, "vision.final:image", "decoder.0:text", measures=["cka"]).records
    assert r.shape.samples == SAMPLES - 40
    assert f"of the {SAMPLES - 40} samples with rows on both sides, of {SAMPLES}" in r.notes


DEGENERATE: dict[str, tuple[str, str, type[Exception], str]] = {
    "no such rows": ("vision.final:text", "decoder.0:text", NotComparable, r"no text rows at vision\.final but Rows\(480 image; of 160 samples\)"),
    "same rows": ("decoder:text", "decoder:text", UsageError, "both sides are the same rows, decoder:text"),
    "unequal numbers": ("decoder:text", "vision.final,decoder:text", UsageError, "decoder:text are 2 sites, vision.final,decoder:text 3"),
    "no such site": ("decoder.7", "decoder.0:text", UnknownName, r"no site 'decoder\.7'"),
    "no such kind": ("decoder.0:words", "decoder.1", UnknownName, "no row kind 'words'"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGENERATE)
def test_what_cannot_be_related_is_refused(name: str, two: dict[str, Run]) -> None:
    a, b, error, match = DEGENERATE[name]
    with pytest.raises(error, match=match):
        rankscope.between(two["base"], a, b)


def test_further_refusals(two: dict[str, Run], tmp_path: Path) -> None:
    sides = "vision.final:image", "decoder.0:text"
    with pytest.raises(UsageError, match="rankme is a number of one run; ask measure for it"):
        rankscope.between(two["base"], *sides, measures=["rankme"])
    with pytest.raises(
        NotComparable, match="none of the requested measures can relate these rows: needs a shared basis"
    ):
        rankscope.between(two["base"], *sides, measures=["modality-gap"])
    with pytest.raises(UsageError, match="no run was given"):
        rankscope.between([], *sides)
    few = {name: (x[s < 1], s[s < 1], role[s < 1]) for name, (x, s, role) in planted(5).items()}
    with pytest.raises(NotComparable, match="need at least 4 rows of 2 samples; there are"):
        rankscope.between(stored(tmp_path / "few", few, samples=1), *sides)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    sums = rankscope.collect(
        module, draw(40, 3, 4, seed=1).float(), rows="tokens", keep="moments", out=tmp_path / "sums"
    )
    with pytest.raises(NotComparable, match="holds sums over its rows, in which those of two sites never met"):
        rankscope.between(sums, str(sums.sites[0]), str(sums.sites[1]))


def test_no_degenerate_rows_give_a_number_that_is_not_theirs(tmp_path: Path) -> None:
    """Constant rows, few samples, one side twice: a value that is right, or none with a reason."""
    sites = dict(planted(5))
    x, sample, role = sites["decoder.0"]
    sites["decoder.0"] = (torch.where((role == TEXT)[:, None], torch.ones(WIDE).double(), x), sample, role)
    run = stored(tmp_path / "constant", sites)
    result = rankscope.between(
        run, "vision.final:image", "decoder.0:text", measures=[*rankscope.COMPARISONS], allow_duplicates=True, groups=4
    )
    assert set(result.measures) == set(rankscope.COMPARISONS)
    for r in result.records:
        if r.measure == "recoverable-components" or (r.measure.startswith("recover") and r.b == "decoder.0:text"):
            assert r.value <= 1e-9  # nothing of rows, or from rows, that do not vary
        elif r.measure == "mutual-neighbours":  # of rows that are all equal, any are neighbours
            assert r.value == pytest.approx(r.noise, abs=0.03)
        else:
            assert r.value is None, r
            assert r.notes
    with pytest.raises(NotComparable, match="copies of others"):
        rankscope.between(run, "vision.final:image", "decoder.0:text", measures=["cka"])
    bad = planted(5)["vision.final"]
    bad[0][3] = torch.nan
    with pytest.raises(NonFinite):
        rankscope.between(
            _kept(tmp_path / "nan", {**planted(5), "vision.final": bad}), "vision.final", "decoder.0:text"
        )


def _kept(path: Path, sites: Sites) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        opened = Writer.open
        patch.setattr(Writer, "open", lambda *given: opened(*given, nonfinite="keep"))
        return stored(path, sites)


def test_the_command_prints_what_python_gives(
    rankscope_: Callable[..., Any], two: dict[str, Run], found: Any, tmp_path: Path
) -> None:
    import json

    typed = (
        "between",
        two["tuned"].path,
        "--base",
        two["base"].path,
        "--from",
        "vision.final:image",
        "--to",
        "decoder:text",
    )
    measures = ("-m", "recoverability,recoverable-components,cka,cca,overlap")
    assert json.loads(rankscope_(*typed, *measures, "--json", "-q").out) == found.to_records()
    done = rankscope_(*typed, "-m", "cka,recoverability", "--plot", tmp_path / "f.svg")
    assert (done.code, (tmp_path / "f.svg").exists()) == (0, True)
    lines = done.out.splitlines()
    assert lines[0].startswith(
        "cka of vision.final:image and decoder:text, in tuned against base; 160 samples; 8 and 12"
    )
    assert [line.split()[0] for line in lines if line.startswith(("site", "decoder"))] == 3 * [
        "site",
        "decoder.0",
        "decoder.1",
    ]
    assert max(len(line) for line in lines if line.startswith(("site", "decoder"))) <= 80
    whole = rankscope_(*typed, "-m", "cka", "--full", "-q")
    assert (whole.err, "p unrelated" in whole.out) == ("", True)


def test_every_point_of_the_figure_is_that_of_a_record(found: Any) -> None:
    figure = found.plot()
    assert len(figure.axes) == len([part for part in found.parts() if not part.startswith("overlap")]) == 6
    for ax in figure.axes:
        records = found.parts()[ax.get_title("left").replace("\n", " ")]  # long titles are broken
        for container in ax.containers:
            drawn = [float(y) for y in container.lines[0].get_ydata()]
            assert drawn in (
                [r.value for r in records if r.run == "base"],
                [r.value for r in records if r.run == "tuned"],
            )
        assert len(ax.containers) == 2
