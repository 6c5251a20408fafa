from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from digests import tree_digest
from torch import Tensor, nn

import rankscope
from rankscope.collecting import collect as collecting, job as planning
from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.collecting.resolve import as_run
from rankscope.errors import (
    CheckpointError,
    DataError,
    NonFinite,
    OutputExists,
    StorageError,
    UnknownName,
    UsageError,
    WrongCall,
)

Folder = Callable[..., Path]


def planned(model: Any, data: Any = None, **options: Any) -> Job:
    return prepare(model, data, Request(**options), Loading())


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "blip2-opt", "clip"])
def test_every_sample_gives_the_row_that_it_gives_alone(family: str, folder: Folder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"n": 6, "rows": "mean"}
    checkpoint = folder(family, "lora")
    data = "scenes:questions/test"
    together = rankscope.collect(checkpoint, data, out=tmp_path / "together", **options)
    alone = rankscope.collect(checkpoint, data, out=tmp_path / "alone", tokens_per_batch=1, **options)
    assert together.sites == alone.sites
    for site in together.sites:
        torch.testing.assert_close(together.features(site), alone.features(site), rtol=1e-5, atol=1e-5)
        assert together.rows_at(site).keys() == alone.rows_at(site).keys()


def test_a_run_is_the_same_as_a_folder_and_as_either_file(folder: Folder, texts: Path, tmp_path: Path) -> None:
    runs = [
        rankscope.collect(folder("gpt2"), texts, rows="tokens", out=tmp_path / name)
        for name in ("run", "run.pt", "run.safetensors")
    ]
    for run in runs[1:]:
        assert run.sites == runs[0].sites
        assert run.rows.keys() == runs[0].rows.keys()
        for site in run.sites:
            assert torch.equal(run.features(site), runs[0].features(site))
    assert not list(tmp_path.glob("*.partial"))
    assert isinstance(torch.load(tmp_path / "run.pt", weights_only=True), dict)


def test_rows_stand_in_the_datas_order(folder: Folder, texts: Path, tmp_path: Path) -> None:
    run = rankscope.collect(folder("gpt2"), texts, rows="last", tokens_per_batch=32, out=tmp_path / "run.pt")
    assert run.rows.sample_ids == tuple(f"s{i}" for i in range(48))
    assert run.n("decoder.0") == 48


def test_sites_rows_and_data_are_chosen(folder: Folder, texts: Path, tmp_path: Path) -> None:
    run = rankscope.collect(
        folder("gpt2"), texts, sites="decoder.0,decoder.1-2,final", n=5, out=tmp_path / "run.pt", name="mine"
    )
    assert [str(site) for site in run.sites] == ["decoder.0", "decoder.1", "decoder.2", "decoder.final"]
    assert (run.n("decoder.final"), run.name) == (5, "mine")


def test_a_stack_without_rows_of_the_kind_is_left_out_with_a_note(folder: Folder, tmp_path: Path) -> None:
    run = rankscope.collect(folder("blip2-opt"), "scenes:questions/test", rows="text", n=4, out=tmp_path / "run.pt")
    assert {site.stack for site in run.sites} == {"decoder"}
    assert any("vision has no 'text' rows" in str(note) for note in run.manifest.notes)
    images = rankscope.collect(folder("blip2-opt"), "scenes:questions/test", rows="image", n=4, out=tmp_path / "i.pt")
    assert {site.stack for site in images.sites} == {"vision", "decoder"}
    assert set(images.rows.roles) == {"image"}


def test_the_defaults_are_told_before_anything_runs(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = planned(folder("llama"), n=3)
    assert job.out == Path(f"{folder('llama').name}.pt")
    words = job.in_words()
    for part in (
        "sentences: 3 samples",
        "rows        last",
        "decoder (embed, 0-2, final)",
        "llama.pt: about",
    ):
        assert part in words
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_is_read_with_the_processor_that_it_names(folder: Folder, texts: Path, tmp_path: Path) -> None:
    model = rankscope.load_model(folder("gpt2", "lora"))
    from_memory = rankscope.collect(model, texts, out=tmp_path / "memory.pt", processor=folder("gpt2"))
    from_disk = rankscope.collect(folder("gpt2", "lora"), texts, out=tmp_path / "disk.pt")
    for site in from_disk.sites:
        assert torch.equal(from_memory.features(site), from_disk.features(site))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float32", "device": "cpu"}, "dtype, device has no meaning for a model that is loaded already"),
        ({"base_model": "x"}, "base_model has no meaning"),
    ],
)
def test_a_loaded_model_is_not_loaded_otherwise(
    options: dict[str, Any], words: str, folder: Folder, texts: Path, tmp_path: Path
) -> None:
    model = rankscope.load_model(folder("gpt2"))
    with pytest.raises(UsageError, match=words):
        rankscope.collect(model, texts, processor=folder("gpt2"), out=tmp_path / "run.pt", **options)
    with pytest.raises(UsageError, match="padding_side has no meaning for a module that is fed with tensors"):
        rankscope.collect(nn.Linear(2, 2), torch.zeros(4, 2), padding_side="left", out=tmp_path / "run.pt")


def test_a_tokenizer_that_lies_elsewhere_is_read(folder: Folder, texts: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        shutil.copy(folder("gpt2") / name, tmp_path / "tokenizer")
    bare = shutil.copytree(folder("gpt2"), tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        rankscope.collect(bare, texts, out=tmp_path / "bare.pt")
    for i, model in enumerate((bare, rankscope.load_model(bare))):
        run = rankscope.collect(model, texts, processor=tmp_path / "tokenizer", out=tmp_path / f"{i}.pt")
        assert run.n("decoder.0") == 48


@pytest.mark.parametrize(
    "kept",
    [
        {"keep": "rows", "nonfinite": "keep", "groups": 20, "beside": None},
        {"keep": "moments", "nonfinite": "refuse", "groups": 7, "beside": ["b"]},
    ],
)
def test_the_door_hands_every_option_on(monkeypatch: pytest.MonkeyPatch, kept: dict[str, Any]) -> None:
    offered = {p.name: p.default for p in inspect.signature(rankscope.collect).parameters.values()}
    held = {f.name: f.default for kind in (Request, Loading) for f in fields(kind)}
    assert held == {name: offered[name] for name in held}
    assert offered.keys() - held == {"model", "data", "preview", "progress"}
    given: dict[str, Any] = {name: f"a {name}" for name in held} | {"model": object(), "data": object()}
    given |= {
        "rows": "mean",
        "tokens_per_batch": 7,
        "max_length": 9,
        "padding_side": "left",
        "shard": "1/2",
        **kept,
    }
    seen: list[Any] = []
    monkeypatch.setattr(collecting, "prepare", lambda *told: seen.append(told) or "job")
    monkeypatch.setattr(collecting, "run_job", lambda job, progress: (job, progress))
    assert rankscope.collect(**given, preview=seen.append, progress=print) == ("job", print)
    (model, data, request, loading), job = seen
    assert (model, data, job) == (given["model"], given["data"], "job")
    assert vars(request) | vars(loading) == {name: given[name] for name in held}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: rankscope.collect("a", sites="all", layers="all"),
            r"collect\(\): there is no option 'layers'.*; its options",
        ),
        (lambda: rankscope.collect("a", tokens_per_bach=1), "no option 'tokens_per_bach', write tokens_per_batch="),
        (lambda: rankscope.collect(1, 2, nonsense=3), "no option 'nonsense'; its options are sites, rows, n, out"),
        (lambda: rankscope.collect(), "missing a required argument: 'model'; its options are sites"),
        (lambda: rankscope.collect("a", "b", "all"), "too many positional arguments"),
        (lambda: rankscope.load_model("a", devise="cpu"), "no option 'devise', write device="),
        (lambda: rankscope.score({}, "scenes", vqa_rule="lavis"), "no option 'vqa_rule', write rule="),
        (lambda: rankscope.load("a", verfy=False), "no option 'verfy', write verify="),
    ],
)
def test_a_wrong_call_says_what_to_write(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(WrongCall, match=words) as raised:
        call()
    assert isinstance(raised.value, TypeError)


def test_what_is_no_run_is_refused_by_name(folder: Folder) -> None:
    for wrong in (torch.zeros(3, 2), 3, None):
        with pytest.raises(
            UsageError, match=rf"or the path of one; got {type(wrong).__name__}\. Features from elsewhere"
        ):
            rankscope.load(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a run is what rankscope"):
            as_run(wrong)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="a checkpoint is a folder, or a list of the base and its adapters"):
        rankscope.collect(torch.zeros(3, 2))  # type: ignore[arg-type]


class _Stopped(BaseException):
    pass


def test_a_preview_comes_first_and_can_stop_a_collect(folder: Folder, texts: Path, tmp_path: Path) -> None:
    def stop(job: Job) -> None:
        raise _Stopped(job.in_words())

    with pytest.raises(_Stopped, match=r"probe set   .*texts.jsonl: 48 samples"):
        rankscope.collect(folder("gpt2"), texts, out=tmp_path / "run.pt", preview=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", ["last", "mean"])
def test_the_padding_side_changes_no_row(rows: str, folder: Folder, texts: Path, tmp_path: Path) -> None:
    right, left = (
        rankscope.collect(folder("gpt2", "prefix"), texts, rows=rows, padding_side=side, out=tmp_path / f"{side}.pt")
        for side in ("right", "left")
    )
    assert (right.manifest.reading["padding_side"], left.manifest.reading["padding_side"]) == ("right", "left")
    assert right.rows.keys() == left.rows.keys()
    for site in right.sites:
        torch.testing.assert_close(left.features(site), right.features(site), rtol=1e-5, atol=1e-5)


def test_a_model_runs_in_the_precision_asked_for(folder: Folder, texts: Path, tmp_path: Path) -> None:
    runs = [
        rankscope.collect(folder("gpt2"), texts, n=4, dtype=dtype, out=tmp_path / f"{i}.pt")
        for i, dtype in enumerate(("bfloat16", torch.bfloat16))
    ]
    assert {run.manifest.dtype for run in runs} == {"bfloat16"}
    assert torch.equal(runs[0].features("decoder.2"), runs[1].features("decoder.2"))


def test_a_chat_template_changes_what_is_read_and_is_told(folder: Folder, texts: Path, tmp_path: Path) -> None:
    chatty = Path(shutil.copytree(folder("llama"), tmp_path / "chatty"))
    template = "{% for m in messages %}<s>user: {{ m['content'] }} bot:{% endfor %}"
    (chatty / "chat_template.jinja").write_text(template)
    plain, chat = (
        rankscope.collect(chatty, texts, rows="tokens", chat=chat, out=tmp_path / f"{chat}.pt")
        for chat in (False, True)
    )
    assert chat.n("decoder.0") > plain.n("decoder.0")
    assert (chat.manifest.reading["chat"], "chat" in plain.manifest.reading) == (True, False)
    with pytest.raises(CheckpointError, match="has no chat template"):
        rankscope.collect(folder("llama"), texts, chat=True, out=tmp_path / "none.pt")


def test_a_device_map_gives_the_same_rows(folder: Folder, texts: Path, tmp_path: Path) -> None:
    whole = rankscope.collect(folder("opt", "lora"), texts, out=tmp_path / "whole.pt")
    spread = rankscope.collect(folder("opt", "lora"), texts, device_map="cpu", out=tmp_path / "spread.pt")
    for site in whole.sites:
        assert torch.equal(spread.features(site), whole.features(site))


def test_any_module_is_read_at_its_named_parts(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.randn(12, 5)
    run = rankscope.collect(module, x, sites=["0.output", "2.output"], out=tmp_path / "run.pt")
    torch.testing.assert_close(run.features("0.output"), module[0](x).detach())
    torch.testing.assert_close(run.features("2.output"), module(x).detach())
    assert run.rows.sample_ids == tuple(str(i) for i in range(12))


def test_a_plain_module_needs_tensors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fed with a tensor, one row for each sample"):
        rankscope.collect(nn.Linear(2, 2), ["a text"], out=tmp_path / "run.pt")
    with pytest.raises(DataError, match="hold 4 samples; 9 were asked for"):
        rankscope.collect(nn.Linear(2, 2), torch.zeros(4, 2), n=9, out=tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sites": "decoder.9"}, UnknownName, "no site 'decoder.9'; there are decoder"),
        ({"rows": "cls"}, UnknownName, "no row kind 'cls'"),
        ({"n": 99}, DataError, "holds 48 examples; 99 were asked for"),
        ({"nonfinite": "drop"}, UsageError, "refuse or keep"),
        ({"shard": "4/4"}, UsageError, "i from 0 to n-1"),
        ({"shard": "0/2"}, UsageError, "fill a folder, not the single file"),
        ({"rows": "image"}, UsageError, "no chosen site has 'image' rows"),
        ({"out": "run.parquet.pt/x.pt", "data": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        (
            {"out": "run.npz"},
            UsageError,
            r"a folder, or one file ending in \.pt or \.safetensors; 'run\.npz' would be arrays",
        ),
        ({"tokens_per_batch": 0}, UsageError, "at least one token; got 0 tokens per batch"),
        ({"dtype": "int8"}, UsageError, "runs in float32, bfloat16, float16, float64; got 'int8'"),
        ({"device": "cuda:77"}, UsageError, "this machine has no device 'cuda:77'"),
        ({"padding_side": "top"}, UsageError, "on the left or right; got 'top'"),
        ({"processor": "nowhere"}, CheckpointError, "there is no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_collected_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str, folder: Folder, texts: Path, tmp_path: Path
) -> None:
    options = {"data": texts, "out": tmp_path / "run.pt", **options}
    with pytest.raises(error, match=words):
        rankscope.collect(folder("gpt2"), options.pop("data"), **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_checkpoint_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        rankscope.collect(tmp_path / "nowhere", texts)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        rankscope.collect(tmp_path / "empty", texts)


def test_an_output_that_exists_is_kept(folder: Folder, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.pt"
    rankscope.collect(folder("gpt2"), texts, n=4, out=out)
    before = out.read_bytes()
    with pytest.raises(OutputExists, match="is kept"):
        rankscope.collect(folder("gpt2"), texts, n=5, out=out)
    assert out.read_bytes() == before
    assert rankscope.collect(folder("gpt2"), texts, n=5, out=out, overwrite=True).n("decoder.0") == 5


def test_a_disk_without_room_is_told_before_the_model_runs(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: _Disk())
    with pytest.raises(StorageError, match=r"needs about .* and 0 B are free"):
        rankscope.collect(folder("gpt2"), texts, out=tmp_path / "run.pt")


class _Disk:
    free = 0


def test_features_that_are_not_finite_are_refused_with_site_and_sample(
    folder: Folder, texts: Path, tmp_path: Path
) -> None:
    job = planned(folder("gpt2"), texts, out=tmp_path / "run.pt")
    block = next(tap.module for site, tap in job.taps.items() if str(site) == "decoder.1")

    def spoil(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        hidden[0, -1] = torch.nan
        return output

    handle = block.register_forward_hook(spoil, prepend=True)
    with pytest.raises(NonFinite, match=r"decoder\.1.*sample 's\d+'"):
        run_job(job)
    handle.remove()
    assert run_job(job).n("decoder.1") == 48


def test_a_checkpoint_and_data_that_were_moved_are_the_same(folder: Folder, texts: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder("gpt2"), tmp_path / "elsewhere" / "gpt2")
    others = shutil.copy(texts, moved.parent / "the_same.jsonl")
    there = planned(folder("gpt2"), texts, out=tmp_path / "run.pt")
    here = planned(moved, others, out=tmp_path / "run.pt")
    assert there.manifest.differences(here.manifest) == []
    assert f"checkpoint  {moved}: gpt2\n" in here.in_words()


def test_two_processes_fill_one_folder(folder: Folder, texts: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokens_per_batch": 24, "name": "run"}
    expected = tree_digest(rankscope.collect(folder("gpt2"), texts, out=tmp_path / "whole", **options).path)
    for part in ("0/2", "1/2"):
        run = rankscope.collect(folder("gpt2"), texts, out=tmp_path / "shared", shard=part, **options)
    assert tree_digest(run.path) == expected


def test_the_manifest_tells_what_was_read(folder: Folder, texts: Path, tmp_path: Path) -> None:
    run = rankscope.collect(folder("gpt2", "lora"), texts, n=4, out=tmp_path / "run.pt")
    m = run.manifest
    assert m.checkpoint["tunings"][0].startswith("lora r=3 lora_alpha=6")
    assert len(str(m.checkpoint["digest"])) == 64
    assert m.probe["fingerprint"]
    assert m.dtype == "float32"
    assert "torch" in m.versions
    assert json.loads(json.dumps(m.to_json()))
