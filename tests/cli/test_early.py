"""What is missing or in the way is refused before torch is imported, by every command; a finished collect says so."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import pytest
from many_commands import ended

from rankscope.analysis.options import VARIANTS
from rankscope.cli import WITH_RUNS, WITHOUT, early, options
from rankscope.cli.early import need_free_for_run
from rankscope.collecting.loading import Loading
from rankscope.errors import OutputExists, UsageError
from rankscope.models.dtypes import PRECISIONS
from rankscope.store import export_run, import_features
from rankscope.tuning.batches import TASKS

Call = Callable[..., object]

NO_RUN, NO_DATA, NO_MODEL = "there is no run at absent", "no such file", "absent"
THERE, KEPT = "exists and is kept", "exists and is no run; it is kept"
CHOICE, RANGE = "is not one of", "Invalid value for"
CASES: list[tuple[str, int, str]] = [
    # a missing path
    ("measure absent", 4, NO_RUN),
    ("measure folder", 3, "folder"),
    ("curve absent", 4, NO_RUN),
    ("compare absent here.pt", 4, NO_RUN),
    ("compare here.pt absent", 4, NO_RUN),
    ("compare here.pt here.pt --base absent", 4, NO_RUN),
    ("compare here.pt here.pt --again absent", 4, NO_RUN),
    ("compare here.pt folder", 3, "folder"),
    ("compare --arm a=absent*.pt", 2, "nothing matches 'absent*.pt'"),
    ("compare --arm a=here.pt --base absent", 4, NO_RUN),
    ("between absent --from a.0 --to b.0", 4, NO_RUN),
    ("between here.pt --base absent --from a.0 --to b.0", 4, NO_RUN),
    ("between here.pt --from a.0 --to b.0 --plot a.jpg", 2, "a.jpg can be no figure"),
    ("report absent --base here.pt", 4, NO_RUN),
    ("report here.pt --base absent", 4, NO_RUN),
    ("report folder --base here.pt", 3, "folder"),
    ("show absent.html", 3, NO_DATA),
    ("card absent --base here.pt", 4, NO_RUN),
    ("verify absent", 4, NO_RUN),
    ("compare --arm a=folder,here.pt", 3, "folder"),
    ("export absent --out o", 4, NO_RUN),
    ("import absent.npy", 3, NO_DATA),
    ("import here.npy --ids absent", 2, "there is no ids file absent"),
    ("score absent --data texts.txt", 3, NO_DATA),
    ("score here.npy --data absent", 3, NO_DATA),
    ("score here.npy --data texts.txt --images absent", 3, "no such folder of images: absent"),
    ("collect absent", 3, NO_MODEL),
    ("collect base absent", 3, NO_MODEL),
    ("collect base --base-model absent", 3, NO_MODEL),
    ("collect base --processor absent", 3, NO_MODEL),
    ("collect base --data absent.jsonl", 3, NO_DATA),
    ("collect base --data texts.txt --images absent", 3, "no such folder of images: absent"),
    ("collect base --data texts.txt --regions absent", 3, NO_MODEL),
    ("inspect absent", 3, NO_MODEL),
    ("doctor absent", 3, NO_MODEL),
    ("track absent", 3, NO_MODEL),
    ("track base --base absent", 3, NO_MODEL),
    ("track base --data absent", 3, NO_DATA),
    ("doctor base --data absent", 3, NO_DATA),
    ("inspect base --data absent", 3, NO_DATA),
    ("weights absent", 3, NO_MODEL),
    ("generate absent", 3, NO_MODEL),
    ("generate base --data absent", 3, NO_DATA),
    ("train absent --method lora", 3, NO_MODEL),
    ("train base --method lora --data absent", 3, NO_DATA),
    ("train base --config absent.toml", 2, "there is no recipe absent.toml"),
    ("data check absent", 3, NO_DATA),
    ("collect base --config absent.toml", 2, "there is no file of options absent.toml"),
    ("compare --config absent.toml", 2, "there is no file of options absent.toml"),
    ("collect base --config texts.txt", 2, "texts.txt is not TOML"),
    ("collect base --config wrong.toml", 2, "wrong.toml: there is no option 'row' (nearest: rows"),
    ("collect --config right.toml", 3, "no such file or folder: absent.jsonl"),
    ("collect --config right.toml --data texts.txt --rows some", 2, "there is no row kind 'some'"),
    # an output in the way
    ("collect base --out folder", 2, KEPT),
    ("collect base --out folder --overwrite", 2, KEPT),
    ("collect base --out here.pt", 2, KEPT),
    ("collect base --out texts.txt", 2, "is a file, and the run would be a folder; it is kept"),
    ("collect other", 2, "other.pt is a folder, and the run would be a file; it is kept"),
    ("report here.pt --base here.pt -o texts.txt", 2, THERE),
    ("card here.pt --base here.pt -o folder", 2, "folder is a folder; give a file in it, such as folder/README.md"),
    ("card here.pt --base here.pt -o half.md", 2, "half.md must have one line <!-- rankscope:begin -->"),
    ("card here.pt --base here.pt -o none/README.md", 8, "there is no folder none"),
    ("import here.npy --out here.pt", 2, THERE),
    ("export here.pt --out folder", 2, THERE),
    ("measure --plot here.pt here.pt", 2, "here.pt can be no figure: a figure is .svg, .pdf or .png"),
    ("compare here.pt here.pt --plot a.jpg", 2, "a.jpg can be no figure"),
    ("compare here.pt here.pt --report here.pt", 2, "here.pt can be no report, which is .html"),
    ("compare here.pt here.pt --report mine.html", 2, "mine.html exists and is no report; it is kept"),
    ("compare --arm a=here.pt --report", 2, "a report is of two runs"),
    ("curve here.pt --plot texts.txt/a", 8, "texts.txt is no folder; choose another --plot"),
    ("generate base --out texts.txt", 2, THERE),
    ("score here.npy --data texts.txt --submission texts.txt", 2, THERE),
    ("train base --method lora --out folder", 2, "holds something that is not a rankscope checkpoint"),
    ("train base --method lora --out folder --resume", 2, "holds something that is not a rankscope checkpoint"),
    ("train base --method lora --out folder --overwrite", 2, "holds something that is not a rankscope checkpoint"),
    # an option that makes no sense
    ("collect base --rows none", 2, "there is no row kind 'none'; there are last, first"),
    ("collect base --nonfinite drop", 2, "nonfinite is refuse or keep"),
    ("collect base --tokens-per-batch 0", 2, "at least one token"),
    ("collect base --out run.npz", 2, "would be arrays"),
    ("collect base --out run --shard 4/4", 2, "a shard is i/n"),
    ("collect base --out run.pt --shard 0/4", 2, "several processes fill a folder"),
    ("collect base --out run --data texts.txt --column text", 2, "a column is written FIELD=NAME"),
    ("collect base --n 0", 2, RANGE),
    ("collect base --dtype float8", 2, CHOICE),
    ("collect base --padding-side both", 2, CHOICE),
    ("collect base --no-such-option", 2, "No such option"),
    ("report here.pt", 2, "Missing option '--base'"),
    ("compare here.pt", 2, "give two runs to compare"),
    (
        "compare a.pt b.pt c.pt",
        2,
        "compare takes two runs, and 3 were given. Several trainings of each recipe are compared as arms",
    ),
    ("compare here.pt --arm a=here.pt", 2, "--arm replaces the two runs"),
    ("compare here.pt here.pt --permutations -1", 2, RANGE),
    ("compare here.pt here.pt --examples 0", 2, RANGE),
    ("compare here.pt here.pt --examples 3 --csv", 2, "leave out --csv"),
    ("compare --arm a=here.pt --examples 3", 2, "leave out --arm"),
    ("compare here.pt here.pt --examples 3 --variant distinct", 2, "leave out --variant"),
    ("compare here.pt sums --examples 3", 5, "sums holds sums over rows, and no sample's own rows"),
    ("measure here.pt --variant new", 2, CHOICE),
    ("measure here.pt --groups 1", 2, RANGE),
    ("export here.pt --out o --to mat", 2, CHOICE),
    ("import here.npy --site h3", 2, "a site is written name=site"),
    ("generate base --batch-size 0", 2, RANGE),
    ("generate base --max-new-tokens 0", 2, RANGE),
    ("generate base --num-beams 0", 2, RANGE),
    ("weights base --k 0", 2, RANGE),
    ("weights base --draws -1", 2, RANGE),
    ("demo --steps 0", 2, RANGE),
    ("demo --samples 0", 2, RANGE),
    ("train base", 2, "give --method, --stages or --config"),
    ("train base --method lorry", 2, "lorry"),
    ("train base --stages lora,lorry", 2, "lorry"),
    ("train base --method lora --lora-rank many", 2, "lora_rank is"),
    ("train base --method lora --task sums", 2, CHOICE),
    ("score said.jsonl --data answers.jsonl --kind songs", 2, "there is no kind of predictions 'songs'"),
    ("score said.jsonl --data answers.jsonl --vqa-rule strict", 2, "there is no VQA rule 'strict'"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, list[str], str]]:
    """What each case ended with, all in one process, in a folder with a checkpoint, data and outputs that are no runs."""
    here = tmp_path_factory.mktemp("here")
    for name in ("base", "other", "other.pt", "folder"):
        (here / name).mkdir()
    for name in ("base", "other"):
        (here / name / "config.json").write_text('{"model_type": "gpt2"}')
        (here / name / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("other.pt/mine.txt", "here.pt", "here.npy", "texts.txt", "mine.html", "folder/mine.txt"):
        (here / name).write_text("mine")
    (here / "answers.jsonl").write_text('{"id": "a", "text": "how many?", "answers": ["two"]}\n')
    (here / "said.jsonl").write_text('{"id": "a", "prediction": "two"}\n')
    (here / "half.md").write_text("# Mine\n<!-- rankscope:begin -->\n")
    (here / "sums").mkdir()
    (here / "sums" / "store.json").write_text('{"manifest": {"pooling": {"kept": "moments"}}}')
    (here / "right.toml").write_text('checkpoint = "base"\ndata = "absent.jsonl"\n')
    (here / "wrong.toml").write_text('row = "last"\n')
    there = sorted(here.rglob("*"))
    found = ended([case.split() for case, _, _ in CASES], here)
    assert sorted(here.rglob("*")) == there
    return found


def test_every_case_was_run(said: list[object]) -> None:
    assert len(said) == len(CASES) > 70
    commands = {function.__name__.strip("_") for function in (*WITH_RUNS, *WITHOUT)}
    # definitions and selftest take only names, for which see test_bad_values.py
    assert {case.split()[0] for case, _, _ in CASES} == commands - {"definitions", "selftest"} | {"data"}


@pytest.mark.parametrize("case", range(len(CASES)), ids=[case for case, _, _ in CASES])
def test_it_is_refused_before_torch_is_imported(said: list[tuple[int, list[str], str]], case: int) -> None:
    _, code, words = CASES[case]
    ended, imported, told = said[case]
    assert words in told.replace("│ ", ""), told
    assert (ended, imported) == (code, []), told


def test_it_takes_less_than_a_second(tmp_path: Path) -> None:
    """Of processor time, the best of three, so that a busy machine does not decide."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "rankscope", "collect", "absent"], capture_output=True, cwd=tmp_path
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 3
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 1


def test_the_words_that_an_option_takes_are_those_of_the_library(tmp_path: Path) -> None:
    assert get_args(options.Variant) == VARIANTS
    assert get_args(options.Dtype) == PRECISIONS
    assert get_args(options.Task) == TASKS
    for word in get_args(options.Side):
        assert Loading(padding_side=word).padding_side == word
    with pytest.raises(UsageError, match=f"runs are exported to {', '.join(get_args(options.Form))}; not"):
        export_run(Mock(), tmp_path / "out", to="none")


def test_a_run_is_not_in_the_way_of_itself(tmp_path: Path) -> None:
    import torch

    torch.save({"decoder.0": torch.eye(3)}, tmp_path / "x.pt")
    for name in ("run", "run.pt", "run.safetensors"):
        import_features(tmp_path / "x.pt", tmp_path / name)
        need_free_for_run(tmp_path / name, overwrite=False)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        need_free_for_run(tmp_path / name, overwrite=False)
    torch.save(torch.load(tmp_path / "run.pt", weights_only=True), tmp_path / "again.pt")
    need_free_for_run(tmp_path / "again.pt", overwrite=False)
    with pytest.raises(OutputExists, match="exists and is no run"):
        need_free_for_run(tmp_path / "x.pt", overwrite=False)
    need_free_for_run(tmp_path / "x.pt", overwrite=True)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(OutputExists, match="is a folder, and the run would be a file"):
        need_free_for_run(tmp_path / "folder.pt", overwrite=True)


@pytest.mark.parametrize("name", ["run", "run.pt"])
def test_a_finished_collect_run_again_says_so_and_ends_well(
    rankscope_: Call, folder: Call, texts: Path, tmp_path: Path, name: str
) -> None:
    command = ["collect", folder("gpt2"), "--data", texts, "--layers", "final", "--n", "4", "--out", tmp_path / name]
    first, again = rankscope_(*command), rankscope_(*command)
    assert (first.code, again.code) == (0, 0)
    assert again.out == first.out
    assert "is already finished" in again.err
    assert "is already finished" not in first.err
    other = rankscope_(*command, "--rows", "mean")
    assert (other.code, "is another run (rows.kind is last, and now mean)" in other.err) == (2, True), other.err
    (tmp_path / "run" / "lock").write_text("process 1 on elsewhere\n") if name == "run" else None
    assert rankscope_(*command).code == 0
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("spec", [None, "scenes", "scenes:questions/test?n=4", "sentences", "sentences?n=4"])
def test_data_that_the_package_carries_are_no_missing_file(spec: str | None) -> None:
    early.need_data(spec)
