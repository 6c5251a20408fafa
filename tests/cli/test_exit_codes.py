"""How a command ends that cannot do what was asked: its exit code, one message, and what is kept."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rankscope
from rankscope.collecting import collect as collecting

Call = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 2, "No such command"),
        (["measure"], 2, "Missing argument"),
        (["collect", "nowhere"], 3, "error: there is no folder 'nowhere'"),
        (["measure", "nowhere.pt"], 4, "error: there is no run at nowhere.pt"),
        (["collect", "{gpt2}", "--layers", "decoder.9"], 2, "error: there is no site 'decoder.9'; there are"),
        (["collect", "{gpt2}", "--rows", "cls"], 2, "error: there is no row kind 'cls'"),
        (["collect", "{gpt2}", "--n", "99999"], 3, "99999 were asked for"),
        (["collect", "{gpt2}", "--data", "texts.xyz"], 3, "texts.xyz"),
        (["compare", "{gpt2}/model.safetensors", "{gpt2}"], 3, "weights"),
        (["definitions", "frobnicity"], 2, "no measure 'frobnicity'"),
        (["definitions", "hill-q"], 2, "no measure 'hill-q'"),
        (["train", "{gpt2}"], 2, "give --method"),
        (["train", "{gpt2}", "--data", "scenes", "--method", "frob"], 2, "no method 'frob'"),
        (["train", "{gpt2}", "--method", "lora", "--lora-rnak", "3"], 2, "No such option"),
        (
            ["train", "{gpt2}", "--data", "scenes", "--method", "lora", "--lora-rank", "x"],
            2,
            "lora_rank is a whole number; got 'x'",
        ),
        (
            ["train", "{gpt2}", "--data", "scenes", "--method", "lora", "--column", "text"],
            2,
            "a column is written FIELD=NAME, e.g.",
        ),
        (
            ["train", "{gpt2}", "--method", "lora"],
            2,
            "the embedded scenes suit the embedded model only; give --data FILE",
        ),
        (["generate", "{gpt2}"], 2, "the embedded scenes suit the embedded model only; give --data FILE"),
        (
            ["collect", "{gpt2}", "--column", "text=a", "--images", "i"],
            2,
            "images, columns describe data, and none were given; add --data",
        ),
        (["measure", "{gpt2}"], 2, "and the embedded scenes suit the embedded model only; collect it first"),
        (["compare", "{gpt2}", "{gpt2}"], 2, "and the embedded scenes suit the embedded model only; collect it first"),
        (["train", "--steps", "x", "--method", "lora"], 2, "steps is a whole number, or one a stage; got 'x'"),
        (["data", "check", "nowhere.json"], 3, "nowhere.json"),
    ],
)
def test_what_cannot_be_meant_ends_with_its_code_and_one_message(
    arguments: list[str], code: int, words: str, rankscope_: Call, folder: Call, here: Path
) -> None:
    done = rankscope_(*(a.format(gpt2=folder("gpt2")) for a in arguments))
    assert (done.code, done.out) == (code, "")
    assert words in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_damaged_run_ends_with_4_and_an_existing_one_is_kept(
    rankscope_: Call, folder: Call, few_texts: Path, here: Path
) -> None:
    rankscope.collect(folder("gpt2"), few_texts, out="a.pt")
    good = (here / "a.pt").read_bytes()
    kept = rankscope_("collect", folder("gpt2"), "--data", few_texts, "--rows", "mean", "--out", "a.pt")
    assert (kept.code, "and is kept" in kept.err) == (2, True)
    (here / "cut.pt").write_bytes(good[: len(good) // 2])
    assert rankscope_("verify", "cut.pt").code == 4
    spoilt = bytearray(good)
    spoilt[len(good) // 2] ^= 1
    (here / "bit.pt").write_bytes(spoilt)
    done = rankscope_("verify", "bit.pt")
    assert (done.code, "bit.pt" in done.err) == (4, True)
    assert (here / "a.pt").read_bytes() == good


def test_few_rows_end_with_5(rankscope_: Call, folder: Call, few_texts: Path) -> None:
    rankscope.collect(folder("gpt2"), few_texts, n=3, out="few.pt")
    done = rankscope_("measure", "few.pt")
    assert (done.code, "at least 4 rows" in done.err) == (5, True)


def test_a_file_that_may_not_be_read_is_no_unexpected_error(rankscope_: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", "secret.pt")

    monkeypatch.setattr("rankscope.store.open_run", refuse)
    done = rankscope_("verify", ".")
    assert (done.code, "error: secret.pt may not be read or written by this user" in done.err) == (8, True)


def test_an_unexpected_error_is_one_line(rankscope_: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankscope.store.open_run", lambda path: 1 / 0)
    done = rankscope_("verify", ".")
    assert (done.code, done.err.startswith("unexpected ZeroDivisionError")) == (1, True)
    assert "Traceback" not in done.err


def test_a_table_of_data_problems_ends_with_3(rankscope_: Call, here: Path) -> None:
    (here / "bad.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    done = rankscope_("data", "check", "bad.jsonl")
    assert (done.code, "fault" in done.out) == (3, True)
    (here / "good.jsonl").write_text('{"id": "a", "text": "x"}\n')
    assert rankscope_("data", "check", "good.jsonl").code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_collect_says_so_and_continues(
    number: int, code: int, rankscope_: Call, folder: Call, few_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("collect", folder("gpt2"), "--data", few_texts, "--tokens-per-batch", "1", "--out", "run")
    read, batches = collecting.read, itertools.count()

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(batches) == 5:
            signal.raise_signal(number)
        return read(*args, **options)

    monkeypatch.setattr(collecting, "read", interrupted)
    stopped = rankscope_(*command)
    assert stopped.code == code
    kept = re.search(r"interrupted; (\d) of 24 batches are kept in run, and the same command continues it", stopped.err)
    assert kept is not None, stopped.err
    assert 3 <= int(kept[1]) <= 5
    assert rankscope_("measure", "run").code == 4
    assert rankscope_(*command).code == 0
    assert next(batches) == 25  # the interrupted batch twice
    assert rankscope.load("run").n("decoder.0") == 24


def test_an_interrupted_collect_without_a_batch_says_that_nothing_was_kept(
    rankscope_: Call, folder: Call, few_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "read", lambda *args, **options: signal.raise_signal(signal.SIGINT))
    stopped = rankscope_("collect", folder("gpt2"), "--data", few_texts, "--out", "run")
    assert (stopped.code, "interrupted; nothing was kept" in stopped.err) == (130, True), stopped.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arm", "lora"], "an arm is written name=pattern, e.g. lora=lora-s*.pt; got 'lora'"),
        (["--arm", "lora=none-*.pt"], "nothing matches 'none-*.pt', the pattern for the runs of arm 'lora'"),
        (["a.pt", "b.pt", "--arm", "lora=x"], "replaces the two runs"),
        (["a.pt"], "give two runs to compare"),
    ],
)
def test_arms_that_cannot_be_meant_end_with_2(arguments: list[str], words: str, rankscope_: Call, here: Path) -> None:
    done = rankscope_("compare", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
