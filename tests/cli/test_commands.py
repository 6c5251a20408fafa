from __future__ import annotations

import csv
import io
import itertools
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rankscope
from rankscope.collecting import collect as collecting
from rankscope.registry import WEIGHT_DEFINITIONS

Call = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def texts(here: Path) -> Path:
    words = ("three", "seven", "digits", "left", "of")
    lines = [{"id": f"s{i}", "text": " ".join(words[(i // 5**k) % 5] for k in range(2 + i % 3))} for i in range(24)]
    (here / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return here / "texts.jsonl"


def test_the_main_job_works_as_typed(rankscope_: Call, folder: Call, texts: Path, here: Path) -> None:
    for name, tuning in (("pretrained", "none"), ("lora", "lora"), ("ptlora", "prefix")):
        done = rankscope_(
            "collect",
            folder("gpt2", tuning),
            "--layers",
            "all",
            "--rows",
            "tokens",
            "--data",
            texts,
            "--out",
            f"{name}.pt",
        )
        assert (done.code, done.out.strip()) == (0, f"{name}.pt")
        assert "probe set   texts.jsonl: 24 samples" in done.err.replace(str(here) + "/", "")
    table = rankscope_("measure", "lora.pt", "--full")
    assert table.code == 0
    for word in ("roy-vetterli", "stable-rank", "participation-ratio", "energy-90", "pt-peft", "decoder.final"):
        assert word in table.out
    command = ("compare", "lora.pt", "ptlora.pt", "--base", "pretrained.pt")
    done = rankscope_(*command, "--plot", "--full")
    assert done.code == 0
    for word in ("recoverability", "overlap", "drift", "cumulative-distance", "against pretrained"):
        assert word in done.out
    small = rankscope_(*command)
    assert small.code == 0
    assert len(small.out.splitlines()) <= 45
    assert max(map(len, small.out.splitlines())) <= 100
    for word in ("readable", "embed", "lora/ptlora against pretrained", "drifted", "seed noise is unknown."):
        assert word in small.out
    verdict = small.out.partition("\nVerdict, ")[2]
    assert re.search(
        r"^lora against pretrained: (?:collapsed|lost|reshaped|turned|drifted) at decoder\.\w+, ", verdict, re.M
    )
    for meaning in ("reshaped", "turned", "lost", "drifted"):
        assert len(re.findall(rf"^  {meaning} ", verdict, re.M)) >= 2, "a line a run"
    assert verdict.splitlines()[-1] == "Each run is one training, so seed noise is unknown.", "the verdict is last"
    assert "\n· lora, drifted: " in done.out, "--full has sentences"
    assert "cumulative-distance" not in small.out + small.err
    quiet = rankscope_(*command, "-q")
    assert (quiet.out, quiet.err) == (small.out, "")
    assert {p.name for p in here.glob("lora-ptlora.*")} == {f"lora-ptlora.{kind}" for kind in ("svg", "pdf", "png")}
    assert rankscope_("verify", "lora.pt").code == 0


def test_a_table_is_never_broken_in_a_pipe_and_long_in_a_narrow_terminal(
    rankscope_: Call, folder: Call, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rankscope.collect(folder("gpt2"), texts, out="a.pt", sites="0-2")
    wide = [line for line in rankscope_("measure", "a.pt", "--full").out.splitlines() if line.strip()]
    wide = wide[: wide.index(next(line for line in wide if line.startswith("·")))]
    assert len(wide) == 1 + 2 + 3
    assert "participation-ratio-clustered" in wide[1]
    monkeypatch.setattr("rankscope.cli.show.columns_there", lambda: 100)
    narrow = [line for line in rankscope_("measure", "a.pt", "--full").out.splitlines() if line.strip()]
    narrow = narrow[: narrow.index(next(line for line in narrow if line.startswith("·")))]
    assert len(narrow) == 1 + 2 + len(rankscope.measure(run).records)
    monkeypatch.setattr("rankscope.cli.show.columns_there", lambda: 40)
    told = rankscope_("measure", "a.pt", "--full").out
    for word in ("participation-ratio-clustered", "pt-peft-pooled", "decoder.0"):
        assert word in told, "no word is broken, however narrow"


def test_json_and_csv_are_what_python_gives(rankscope_: Call, folder: Call, texts: Path) -> None:
    run = rankscope.collect(folder("gpt2", "lora"), texts, out="a.pt")
    rankscope.collect(folder("gpt2"), texts, out="b.pt")
    printed = json.loads(rankscope_("measure", "a.pt", "--json").out)
    assert printed == rankscope.measure(run).to_json()
    assert next(iter(printed)) == "verdict"
    assert {"site", "measure", "value", "n", "d", "dtype", "convention"} <= set(printed["records"][0])
    rows = list(csv.DictReader(io.StringIO(rankscope_("measure", "a.pt", "--csv", "-q").out)))
    assert [r["site"] for r in rows] == [r["site"] for r in printed["records"]]
    compared = json.loads(rankscope_("compare", "b.pt", "a.pt", "--json", "-m", "cka,roy-vetterli").out)
    assert {"site", "measure", "value", "a", "b", "difference", "low", "high", "n", "d", "dtype", "convention"} <= set(
        compared["records"][0]
    )
    assert next(iter(compared)) == "verdict"
    assert compared == rankscope.compare("b.pt", "a.pt", measures=["cka", "roy-vetterli"]).to_json()


def test_a_function_in_a_file_is_a_measure(rankscope_: Call, folder: Call, texts: Path, here: Path) -> None:
    rankscope.collect(folder("gpt2"), texts, out="a.pt")
    (here / "mine.py").write_text('def largest(s):\n    """The largest singular value."""\n    return s.amax(-1)\n')
    printed = json.loads(rankscope_("measure", "a.pt", "--json", "-m", "mine.py:largest").out)["records"]
    assert printed[0]["measure"] == "largest"
    run = rankscope.load("a.pt")
    assert printed[0]["value"] == pytest.approx(float(rankscope.spectra(run)[run.sites[0]].values[0]))
    assert rankscope_("measure", "a.pt", "-m", "mine.py:nothing").code == 2
    assert rankscope_("measure", "a.pt", "-m", "nowhere.py:f").code == 2


def test_a_dry_run_writes_nothing(rankscope_: Call, folder: Call, texts: Path, here: Path) -> None:
    done = rankscope_("collect", folder("gpt2"), "--data", texts, "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "gpt2.pt: about" in done.err
    assert "in all about 24 of decoder" in done.err
    assert re.search(r"time        \d+ s, as one of its batches took", done.err), done.err
    done = rankscope_("collect", folder("gpt2"), "--data", texts, "--dry-run", "--keep", "moments")
    assert (done.code, "took" in done.err) == (0, True)
    assert [p.name for p in here.iterdir()] == ["texts.jsonl"]


def test_inspect_tells_base_tunings_sites_and_cost(rankscope_: Call, folder: Call) -> None:
    done = rankscope_("inspect", folder("blip2-opt", "prefix"))
    assert done.code == 0
    for word in ("Blip2ForConditionalGeneration", "prefix_tuning num_virtual_tokens", "effective rows", "lands  yes"):
        assert word in done.out
    for word in ("vision (embed, 0, 1, final), width", "qformer (embed, 0, 1)", "a sample at all sites"):
        assert word in done.out
    record = json.loads(rankscope_("inspect", folder("gpt2", "lora"), "--json").out)[0]
    assert record["lands"] is True
    assert record["sites"]["decoder.final"] == 32


def test_definitions_lists_every_measure(rankscope_: Call) -> None:
    listed = json.loads(rankscope_("definitions", "--json").out)
    assert {d["name"] for d in listed} == {*rankscope.DEFINITIONS, *rankscope.COMPARISONS, *WEIGHT_DEFINITIONS}
    assert all(d["formula"] and d["citation"] and d["bias"] and d["low"] and d["high"] for d in listed)
    text = rankscope_("definitions").out
    for d in listed:
        for line in (d["name"], f"  formula  {d['formula']}", f"  source   {d['citation']}", f"  bias     {d['bias']}"):
            assert line in text.splitlines()
    assert rankscope_("definitions", "hill-0.3").out.startswith("hill-0.3\n  formula  (sum p^0.3)^(1 / (1 - 0.3))")
    assert "Shuttleworth" in rankscope_("definitions", "intruders").out
    assert "10 a feature are enough" in rankscope_("definitions", "cca").out
    assert "enough" not in rankscope_("definitions", "cka,participation-ratio").out
    assert {one["name"]: one["enough"] for one in listed}["entropy-rank"] == 4


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
    rankscope_: Call, folder: Call, texts: Path, here: Path
) -> None:
    rankscope.collect(folder("gpt2"), texts, out="a.pt")
    good = (here / "a.pt").read_bytes()
    kept = rankscope_("collect", folder("gpt2"), "--data", texts, "--rows", "mean", "--out", "a.pt")
    assert (kept.code, "and is kept" in kept.err) == (2, True)
    (here / "cut.pt").write_bytes(good[: len(good) // 2])
    assert rankscope_("verify", "cut.pt").code == 4
    spoilt = bytearray(good)
    spoilt[len(good) // 2] ^= 1
    (here / "bit.pt").write_bytes(spoilt)
    done = rankscope_("verify", "bit.pt")
    assert (done.code, "bit.pt" in done.err) == (4, True)
    assert (here / "a.pt").read_bytes() == good


def test_few_rows_end_with_5(rankscope_: Call, folder: Call, texts: Path) -> None:
    rankscope.collect(folder("gpt2"), texts, n=3, out="few.pt")
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
    number: int, code: int, rankscope_: Call, folder: Call, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("collect", folder("gpt2"), "--data", texts, "--tokens-per-batch", "1", "--out", "run")
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
    rankscope_: Call, folder: Call, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "read", lambda *args, **options: signal.raise_signal(signal.SIGINT))
    stopped = rankscope_("collect", folder("gpt2"), "--data", texts, "--out", "run")
    assert (stopped.code, "interrupted; nothing was kept" in stopped.err) == (130, True), stopped.err


def test_help_answers_in_half_a_second() -> None:
    """Of processor time, the best of five, so that a busy machine does not decide."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "rankscope", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5


def test_arms_are_named_with_a_pattern(rankscope_: Call, here: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 8, generator=generator)
    rankscope.collect(nn.Sequential(nn.Identity()), x, out="base.pt")
    for arm, size in (("lora", 0.02), ("full", 0.1)):
        for seed in range(3):
            layer = nn.Linear(8, 8)
            layer.weight = nn.Parameter(torch.eye(8) + size * torch.randn(8, 8, generator=generator))
            rankscope.collect(nn.Sequential(layer), x, out=f"{arm}-s{seed}.pt")
    command = ("compare", "--arm", "lora=lora-s*.pt", "--arm", "full=full-s0.pt,full-s[12].pt", "--base", "base.pt")
    done = rankscope_(*command, "--plot", "--groups", "10", "--full")
    assert done.code == 0
    small = rankscope_(*command, "--groups", "10", "-q").out.splitlines()
    assert small[0].startswith("lora (3 runs)/full (3 runs) against base: means over runs; 120 rows of 8 features")
    head, line = next((a.split(), b.split()) for a, b in pairwise(small) if "verdict" in a)
    assert head[-5:] == ["PR", "change", "readable", "drift", "verdict"]
    assert [len(cell.split("/")) for cell in line[1:]] == [2] * 4
    assert len(small) < 12
    assert max(map(len, small)) <= 100
    for word in ("Verdicts", "lora (3 runs), full (3 runs), against base", "full − lora", "equivalent"):
        assert word in done.out
    assert (here / "lora-full.svg").exists()
    printed = json.loads(rankscope_(*command, "--json", "-m", "cka,drift").out)
    arms = {arm: sorted(here.glob(f"{arm}-s*.pt")) for arm in ("lora", "full")}
    assert printed == rankscope.compare_arms(arms, base="base.pt", measures=["cka", "drift"]).to_json()
    assert printed["records"][0]["verdict"]


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


def test_a_curve_is_printed_and_drawn(rankscope_: Call, here: Path) -> None:
    rankscope.collect(nn.Sequential(nn.Identity()), torch.randn(64, 6), out="a.pt")
    done = rankscope_("curve", "a.pt", "--plot", "curve", "-m", "entropy-rank,participation-ratio")
    assert done.code == 0
    for word in ("n = 64", "n = 16", "limit", "entropy-rank"):
        assert word in done.out
    assert (here / "curve.svg").exists()
    printed = json.loads(rankscope_("curve", "a.pt", "--json", "-m", "entropy-rank").out)
    expected = rankscope.curve(rankscope.load("a.pt"), ["entropy-rank"]).to_records()
    assert len(printed) == len(expected) == 3
    for mine, theirs in zip(printed, expected, strict=True):
        assert mine.pop("limit") == pytest.approx(theirs.pop("limit"))
        assert mine == pytest.approx(theirs)


def test_features_of_other_tools_come_in_and_go_out(rankscope_: Call, here: Path) -> None:
    x = torch.randn(20, 6)
    torch.save({"h3": x}, here / "theirs.pt")
    (here / "ids.txt").write_text("\n".join(f"image{i}" for i in range(20)) + "\n")
    done = rankscope_("import", "theirs.pt", "--site", "h3=decoder.3", "--ids", "ids.txt", "--out", "run.pt")
    assert (done.code, done.out.strip()) == (0, "run.pt")
    assert "imported from" in done.err
    run = rankscope.load("run.pt")
    assert torch.equal(run.features("decoder.3"), x)
    assert run.rows.sample_ids[3] == "image3"
    done = rankscope_("export", "run.pt", "--out", "out")
    assert (done.code, done.out.strip()) == (0, "out")
    assert (here / "out" / "decoder.3.npy").exists()
    for arguments, words in (
        (("import", "theirs.pt", "--site", "h3"), "a site is written name=site"),
        (("import", "theirs.pt", "--ids", "nowhere.txt"), "there is no ids file nowhere.txt"),
        (("export", "run.pt", "--out", "out"), "is kept"),
        (("export", "run.pt", "--out", "other", "--to", "csv"), "'csv' is not one of"),
    ):
        done = rankscope_(*arguments)
        assert (done.code, words in done.err) == (2, True)
    assert rankscope_("import", "nothing.npy").code == 3


def test_selftest_prints_its_table_and_ends_with_1_when_an_answer_is_wrong(
    rankscope_: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = rankscope_("selftest", "--only", "identical,known rank", "-q")
    assert done.code == 0
    for word in ("The dissociation table", "recoverability", "256 (256)", "10 of 10 answers lie within"):
        assert word in done.out
    monkeypatch.setattr("rankscope.selftest.answers._value", lambda record: 7.0)
    wrong = rankscope_("selftest", "--only", "identical", "--json")
    assert wrong.code == 1
    assert not any(a["right"] for a in json.loads(wrong.out))
    assert "wrong: identical: cka said 7, expected 1" in wrong.err
    assert rankscope_("selftest", "--only", "frob").code == 2


def test_a_training_is_followed_from_its_folder(rankscope_: Call, folder: Call, texts: Path, here: Path) -> None:
    for step in (5, 9):
        shutil.copytree(folder("gpt2", "lora"), here / "out" / f"checkpoint-{step}")
    command = ("track", "out", "--data", texts, "-m", "pr,drift", "--layers", "decoder")
    done = rankscope_(*command, "--plot", "follow.svg")
    assert done.code == 0, done.err
    assert "note: the weights at steps 5, 9 are equal, byte by byte" in done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("decoder.final, against gpt2 (participation-ratio ")
    assert [line.split()[0] for line in lines[1:4]] == ["step", "5", "9"]
    assert "9 (= 5)" in lines[3]
    assert (here / "follow.svg").exists()
    every = rankscope_(*command, "--full", "-q")
    assert (every.err, every.out.count("against gpt2")) == ("", len(rankscope.load("track/gpt2.pt").sites))
    printed = json.loads(rankscope_(*command, "--json").out)
    assert {"step", "same_as", "loss", "eval_loss", "band_low"} <= set(printed[0])
