"""Memory that holds the rows but not the matrices of their width: what does not fit is named, and the rest is as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

import rankscope
from rankscope import memory
from rankscope.analysis import compare as compared, second_pass, view
from rankscope.errors import TooLarge, UsageError, naming_shortage
from rankscope.reading.forward import forward_pass
from rankscope.store import Run

OF_TORCH = RuntimeError(
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 41943040 bytes. Error code 12"
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has taken")
def test_under_true_limits_numbers_are_the_same_or_named(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("under_limits.py")), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    swept = refused = named = 0
    for *limited, (_, usual) in json.loads(done.stdout).values():
        for error, numbers in limited:
            swept += 1
            refused += bool(error)
            assert not error or "free" in error, error
            for measure, (value, low, *notes) in numbers.items():
                short = any("are free" in note for note in notes)
                named += short
                assert value == pytest.approx(usual[measure][0], rel=1e-9) or (value is None and short), notes
                assert low == pytest.approx(usual[measure][1], rel=1e-9) or (low is None and short), notes
    assert (swept, refused >= 3, named >= 1) == (6, True, True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder, generator = tmp_path_factory.mktemp("pair"), torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, 8, generator=generator)
    models = [nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))]
    return [rankscope.collect(m, x, rows="tokens", out=folder / str(i)) for i, m in enumerate(models)]


def test_it_is_foreseen_before_a_row_is_read(pair: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 5000.0)
    monkeypatch.setattr(Run, "features", _refuse)
    monkeypatch.setattr(Run, "streamed", _refuse)
    words = r"at least {} matrices of 8 × 8 at 0.output, \S+ GB, and 5e-06 GB of memory are free; give the process more"
    with pytest.raises(TooLarge, match=words.format(11)):
        rankscope.compare(*pair)
    with pytest.raises(AssertionError):
        rankscope.compare(*pair, measures=["two-nn"])
    monkeypatch.setattr(memory, "free", lambda: 1000.0)
    for call, matrices in ((rankscope.spectra, 2), (rankscope.measure, 4)):
        with pytest.raises(TooLarge, match=words.replace("5e", "1e").format(matrices)):
            call(pair[0])


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("a row was read")


@pytest.mark.parametrize("what", ["value", "interval", "noise", "itself", "map"])
def test_each_number_that_is_short_is_told_and_the_others_stay(
    what: str, pair: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = rankscope.compare(*pair, measures=["roy-vetterli", "cka"])
    _short(what, monkeypatch)
    found = rankscope.compare(*pair, measures=["roy-vetterli", "cka"])
    (rank, cka), (rank_before, cka_before) = found.records, usual.records
    note = "41943040 bytes more were asked for and "
    if what == "map":
        assert (found.records, found.similarity) == (usual.records, None)
        assert any(note in one for one in found.notes)
        return
    assert any(note in one for one in rank.notes)
    assert cka.estimate == cka_before.estimate or what == "interval"
    assert (rank.estimate.value is None) == (what == "value")
    if what != "value":
        assert rank.estimate.value == rank_before.estimate.value
    assert (rank.estimate.low is None) == (what in ("value", "interval"))
    assert (rank.itself is None) == (what in ("value", "itself"))
    assert (rank.noise is None) == (what in ("value", "noise"))


def _short(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory be short for one thing that a rank takes."""

    def short(*_: Any, **__: Any) -> NoReturn:
        raise OF_TORCH

    if what == "value":
        monkeypatch.setattr(view, "singular_values_of", short)
    elif what == "interval":
        for module in (second_pass, view):
            monkeypatch.setattr(module, "first_order", lambda *_: {})
        monkeypatch.setattr(view.View, "moments", short)
    elif what == "map":
        monkeypatch.setattr(compared, "cka_map", short)
    else:
        name = {"noise": "noise_value", "itself": "against_itself"}[what]
        of_cka = getattr(compared, name)
        monkeypatch.setattr(compared, name, lambda *a, **k: of_cka(*a, **k) if _is_cka(*a) else short())


def _is_cka(*arguments: Any) -> bool:
    return any(getattr(one, "name", "") == "cka" for one in arguments)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OF_TORCH, r"41943040 bytes more were asked for and \S+ GB are free"),
        (MemoryError("Unable to allocate 8.00 MiB for an array"), r"8.00 MiB more were asked for and \S+ GB are free"),
        (MemoryError(), r"\(\S+ GB are free\)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), r"\(2.00 GiB more were asked for\)"),
    ],
)  # fmt: skip
def test_the_error_of_any_allocator_is_named(error: Exception, words: str) -> None:
    with pytest.raises(TooLarge, match=rf"^it does not fit into memory .*{words}"), naming_shortage("it", "buy some"):
        raise error
    with pytest.raises(UsageError, match="does not fit into memory"):
        forward_pass(_Fails(error), {})


def test_another_error_stays() -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), naming_shortage("it", "buy some"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class _Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self) -> NoReturn:
        raise self.error
