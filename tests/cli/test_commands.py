"""What each command prints and writes: as typed, the same as Python gives, and no more."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import shutil
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
from rankscope.registry import WEIGHT_DEFINITIONS

Call = Callable[..., Any]


def test_the_main_job_works_as_typed(rankscope_: Call, folder: Call, few_texts: Path, here: Path) -> None:
    for name, tuning in (("pretrained", "none"), ("lora", "lora"), ("ptlora", "prefix")):
        done = rankscope_(
            "collect",
            folder("gpt2", tuning),
            "--layers",
            "all",
            "--rows",
            "tokens",
            "--data",
            few_texts,
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
    rankscope_: Call, folder: Call, few_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rankscope.collect(folder("gpt2"), few_texts, out="a.pt", sites="0-2")
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


def test_json_and_csv_are_what_python_gives(rankscope_: Call, folder: Call, few_texts: Path) -> None:
    run = rankscope.collect(folder("gpt2", "lora"), few_texts, out="a.pt")
    rankscope.collect(folder("gpt2"), few_texts, out="b.pt")
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


def test_a_function_in_a_file_is_a_measure(rankscope_: Call, folder: Call, few_texts: Path, here: Path) -> None:
    rankscope.collect(folder("gpt2"), few_texts, out="a.pt")
    (here / "mine.py").write_text('def largest(s):\n    """The largest singular value."""\n    return s.amax(-1)\n')
    printed = json.loads(rankscope_("measure", "a.pt", "--json", "-m", "mine.py:largest").out)["records"]
    assert printed[0]["measure"] == "largest"
    run = rankscope.load("a.pt")
    assert printed[0]["value"] == pytest.approx(float(rankscope.spectra(run)[run.sites[0]].values[0]))
    assert rankscope_("measure", "a.pt", "-m", "mine.py:nothing").code == 2
    assert rankscope_("measure", "a.pt", "-m", "nowhere.py:f").code == 2


def test_a_dry_run_writes_nothing(rankscope_: Call, folder: Call, few_texts: Path, here: Path) -> None:
    done = rankscope_("collect", folder("gpt2"), "--data", few_texts, "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "gpt2.pt: about" in done.err
    assert "in all about 24 of decoder" in done.err
    assert re.search(r"time        \d+ s, as one of its batches took", done.err), done.err
    done = rankscope_("collect", folder("gpt2"), "--data", few_texts, "--dry-run", "--keep", "moments")
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


def test_a_training_is_followed_from_its_folder(rankscope_: Call, folder: Call, few_texts: Path, here: Path) -> None:
    for step in (5, 9):
        shutil.copytree(folder("gpt2", "lora"), here / "out" / f"checkpoint-{step}")
    command = ("track", "out", "--data", few_texts, "-m", "pr,drift", "--layers", "decoder")
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
