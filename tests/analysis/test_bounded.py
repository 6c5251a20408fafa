"""Runs whose sites are larger than memory: the same records, from a few rows at a time, or a refusal by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

import rankscope
from rankscope import memory
from rankscope.analysis import contraction, references
from rankscope.errors import TooLarge
from rankscope.linalg import hashes, sums
from rankscope.registry import COMPARISONS, DEFAULT_COMPARED, DEFAULT_DEFINITIONS, DEFINITIONS
from rankscope.results.arms import ArmContrast
from rankscope.results.runs import Contrast, Curves, Measurement
from rankscope.store import Run, run

Result = Measurement | Contrast | ArmContrast | Curves
SAMPLES, TOKENS, WIDTH = 60, 8, 12
N = SAMPLES * TOKENS
SITE = N * WIDTH * 4
"""Bytes of a site."""
MOST = N // 4
"""Rows of which a quarter of the memory is the size, so that no more can be read at once."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A base and two runs, of several shards each, with a copied row and massive ones."""
    folder = tmp_path_factory.mktemp("runs")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, TOKENS, WIDTH, generator=generator) * torch.arange(1, WIDTH + 1).rsqrt() + 0.5
    x[3, 0], x[5, 0], x[9, 1] = x[2, 0], x[5, 0] * 60, x[9, 1] * 60
    return [
        rankscope.collect(
            nn.Sequential(Moved(seed)), x, rows="tokens", out=folder / str(seed), tokens_per_batch=7 * TOKENS
        )
        for seed in range(3)
    ]


class Moved(nn.Module):
    """A map that is further from the identity for a greater seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.turn = torch.eye(WIDTH) + 0.1 * seed * torch.randn(WIDTH, WIDTH, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x @ self.turn)


BLOCKS = [
    (sums, "BLOCK", 48 * WIDTH),
    (contraction, "ROWS", 2 * WIDTH),  # so that even a sample is taken in parts
    (references, "DRAWN", 48 * WIDTH),
    (hashes, "CHUNK", 48 * WIDTH),
    (run, "STRETCH", 48 * WIDTH * 4),
]
"""What decides how many rows are read at a time, and a value that is small beside the site."""
USUAL = [getattr(module, name) for module, name, _ in BLOCKS]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, small in BLOCKS:
        monkeypatch.setattr(module, name, small)


@pytest.fixture
def read(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of rows of each read, under a limit of one site."""
    counts: list[int] = []
    gather = Run._gather

    def counted(self: Run, name: str, stored: Tensor) -> Tensor:
        if memory.free() == SITE:
            counts.append(len(stored))
        return gather(self, name, stored)

    monkeypatch.setattr(Run, "_gather", counted)
    monkeypatch.setattr(memory, "free", lambda: float(SITE))
    yield counts
    assert counts, "nothing was read"
    assert max(counts) <= MOST


def _held(call: object, *args: object, **options: object) -> Result:
    """What comes out where everything fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free", lambda: 1e12)
        for (module, name, _), usual in zip(BLOCKS, USUAL, strict=True):
            if name != "DRAWN":  # which decides what is drawn, and not how it is read
                patch.setattr(module, name, usual)
        return call(*args, **options)  # type: ignore[operator, no-any-return]


def test_the_records_of_a_run_are_the_same(three: list[Run], read: list[int]) -> None:
    for variant in ("raw", "distinct", "sinks-dropped", "standardised"):
        want, got = (
            call(rankscope.measure, three[1], variant=variant, allow_duplicates=True) for call in (_held, _streamed)
        )
        assert len(got.records) == len(DEFAULT_DEFINITIONS)
        _same(got, want)


def test_the_records_of_a_comparison_are_the_same(three: list[Run], read: list[int]) -> None:
    options = {"base": three[0], "permutations": 2}
    want, got = (call(rankscope.compare, *three[1:], **options) for call in (_held, _streamed))
    assert len(got.records) == len(DEFAULT_COMPARED)
    _same(got, want)
    torch.testing.assert_close(got.similarity, want.similarity)
    for name, spectra in want.spectra.items():
        for site, one in spectra.items():
            torch.testing.assert_close(got.spectra[name][site].values, one.values)


def _streamed(call: object, *args: object, **options: object) -> Result:
    return call(*args, **options)  # type: ignore[operator, no-any-return]


def _same(got: Result, want: Result) -> None:
    """The numbers agree to rounding, and everything else is equal."""
    assert got.notes == want.notes
    for mine, theirs in zip(got.records, want.records, strict=True):
        a, b = (_flat(asdict(one)) for one in (mine, theirs))
        assert a.keys() == b.keys()
        for key in a:
            # What comes from counts of draws may change by one of them, which rounding decides
            near = 1e-3 if key.startswith((".p", ".band")) else 1e-12
            equal = pytest.approx(b[key], rel=1e-9, abs=near) if isinstance(b[key], float) else b[key]
            assert a[key] == equal, (key, mine, theirs)


def _flat(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in _flat(one, f"{name}.{key}").items()}
    return {name: value}


BY_ROWS = [one.name for one in (*DEFINITIONS.values(), *COMPARISONS.values()) if one.reads == "rows"]


def test_what_needs_all_rows_is_refused_by_name_and_the_rest_is_the_same(three: list[Run], read: list[int]) -> None:
    options = {"measures": [*BY_ROWS, "cka"], "groups": 3}
    want, got = (call(rankscope.compare, *three[:2], **options) for call in (_held, _streamed))
    refused = {a.measure: a.notes for a, b in zip(got.records, want.records, strict=True) if a.notes != b.notes}
    assert set(BY_ROWS) - refused.keys() == {"sink-rows", "massive-dimensions", "diff-erank", "rsa"}
    for note, *_ in refused.values():
        assert f"needs all {N} rows of {WIDTH} features at once" in note
        assert "collect fewer samples" in note
    _same(*(replace(one, records=tuple(r for r in one.records if r.measure not in refused)) for one in (got, want)))


def test_arms_and_curves_of_large_sites_are_the_same(three: list[Run], read: list[int]) -> None:
    arms = {"a": [three[1]], "b": [three[2]]}
    _same(*(call(rankscope.compare_arms, arms, base=three[0]) for call in (_streamed, _held)))
    _same(*(call(rankscope.curve, three[1], ["participation-ratio"]) for call in (_streamed, _held)))


def test_a_block_larger_than_memory_is_refused_with_its_size(
    three: list[Run], small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 8000.0)
    with pytest.raises(TooLarge, match=rf"needs 48 of {N} rows of {WIDTH} features at once, 2.3e-06 GB .* 8e-06 GB"):
        rankscope.measure(three[1])
