"""What tuned models say, SCST, and spectra while training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from tuning_data import examples

from rankscope.errors import DataError, NonFinite, OutputExists, StoreCorrupt, UnknownName, UsageError, WrongCall
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.models.stacks import taps
from rankscope.models.tunings.prefix_live import attach_prefix, new_prefix
from rankscope.scores.join import score
from rankscope.tuning import SpectrumCallback, generate, read_spectra, train
from rankscope.tuning.generation import continuations, prompt_inputs, prompt_reader
from rankscope.tuning.scst import PLAIN, ScstTrainer, caption_log_probability

SMALL: dict[str, Any] = {"batch_size": 4, "prefix_length": 3, "lora_rank": 2, "device": "cpu", "learning_rate": 1e-2}


@pytest.mark.parametrize("name", ["gpt2", "bart", "blip2-opt", "llava"])
def test_one_at_a_time_says_what_many_at_once_say(base: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    data = examples(name, 4)
    train(base(name), method="prefix", data=data, out=tmp_path / "o", steps=2, **SMALL)
    alone, together = (generate(tmp_path / "o", data, batch_size=b, max_new_tokens=5, device="cpu") for b in (1, 4))
    assert alone == together
    assert [p.id for p in together] == [e.id for e in data]
    assert [p.text for p in together] != [p.text for p in generate(base(name), data, max_new_tokens=5, device="cpu")]


def test_predictions_are_written_once(base: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    said = generate(base("gpt2"), examples("gpt2", 3), out=file, max_new_tokens=4, num_beams=2, device="cpu")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [{"id": p.id, "prediction": p.text} for p in said]
    with pytest.raises(OutputExists, match="exists and is kept"):
        generate(base("gpt2"), examples("gpt2", 3), out=file)


def test_a_classifier_gives_the_label_that_it_chooses(base: Callable[[str], Path], tmp_path: Path) -> None:
    data, told = examples("bert-classifier", 5), []
    said = generate(base("bert-classifier"), data, device="cpu", progress=lambda *now: told.append(now))
    model = load_model(base("bert-classifier"))
    with torch.no_grad():
        logits = model(**reader(model, base("bert-classifier")).read(data).inputs).logits
    assert [int(p.text) for p in said] == logits.argmax(-1).tolist()
    assert told == [(i, 5, "") for i in range(1, 6)]
    named = shutil.copytree(base("bert-classifier"), tmp_path / "named")
    config = json.loads((named / "config.json").read_text())
    names = {str(i): name for i, name in enumerate(("poor", "fair", "good"))}
    (named / "config.json").write_text(json.dumps({**config, "id2label": names, "label2id": {}}))
    assert generate(named, data, device="cpu") == said, "where the data tell labels by number"
    bare = [replace(example, label=None) for example in data]
    assert [p.text for p in generate(named, bare, device="cpu")] == [names[p.text] for p in said]
    right = [int(p.text) == e.label for p, e in zip(said, data, strict=True)]
    assert score({p.id: p.text for p in said}, data)["accuracy"] == pytest.approx(20 * sum(right))


def test_what_cannot_be_generated_is_refused(base: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="generates no text"):
        generate(base("bert"), examples("gpt2", 1))
    with pytest.raises(UsageError, match="at least 1"):
        generate(base("gpt2"), examples("gpt2", 1), num_beams=0)
    with pytest.raises(WrongCall, match=r"generate\(\): there is no option 'top_k'.*; its options are out, batch_size"):
        generate(base("gpt2"), examples("gpt2", 1), top_k=3)
    with pytest.raises(DataError, match="lower max_new_tokens"):
        generate(base("gpt2"), examples("gpt2", 1), max_new_tokens=128, device="cpu")


@pytest.mark.parametrize("name", ["blip2-opt", "llava", "blip2-t5"])
def test_the_probability_of_a_caption_is_that_of_its_tokens(base: Callable[[str], Path], name: str) -> None:
    """A batch gives what each caption gives alone, token after token; a prefix is in it."""
    model, data = load_model(base(name)), examples(name, 3)
    attach_prefix(model, new_prefix(model, rows=3)).eval()
    reading = prompt_reader(model, reader(model, base(name), answers=False))
    prompt = prompt_inputs(model, reading, data, room=5)
    said = continuations(model, reading, prompt, {"max_new_tokens": 5, "min_new_tokens": 5})
    together = caption_log_probability(model, reading, prompt, said)
    twofold = name == "blip2-t5"
    for i, example in enumerate(data):
        own = prompt_inputs(model, reading, [example], room=5)
        ids, total = torch.zeros(1, 1, dtype=torch.long) if twofold else own["input_ids"], 0.0
        for token in said[i]:
            rest = {k: v for k, v in own.items() if twofold or k not in ("input_ids", "attention_mask")}
            read = {"decoder_input_ids": ids} if twofold else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            total += float(model(**read, **rest).logits[0, -1].log_softmax(-1)[token].detach())
            ids = torch.cat([ids, token.view(1, 1)], 1)
        assert float(together[i].detach()) == pytest.approx(total, abs=1e-3)


def test_captions_are_drawn_from_the_models_own_distribution(base: Callable[[str], Path]) -> None:
    """Whatever its generation_config.json asks for; and their probability is that at the temperature."""
    model, data = load_model(base("blip2-opt")), examples("blip2-opt", 2)
    reading = prompt_reader(model, reader(model, base("blip2-opt"), answers=False))
    prompt, drawn = prompt_inputs(model, reading, data, room=6), []
    for asked in ({}, {"num_beams": 3, "repetition_penalty": 9.0, "top_k": 2, "min_length": 5}):
        for name, value in asked.items():
            setattr(model.language_model.generation_config, name, value)
        torch.manual_seed(0)
        drawn.append(continuations(model, reading, prompt, {"max_new_tokens": 6, "do_sample": True, **PLAIN}))
    assert torch.equal(*drawn)
    token = drawn[0][:, :1]
    logits = model(**prompt).logits[:, -1].detach() / 0.5
    found = caption_log_probability(model, reading, prompt, token, temperature=0.5)
    torch.testing.assert_close(found.detach(), logits.log_softmax(-1).gather(1, token)[:, 0], rtol=0, atol=1e-4)


class Various:
    """Rewards different characters, of which a random model's own captions have few."""

    def __call__(self, ids: list[str], captions: list[str]) -> list[float]:
        return [float(len(set(caption))) for caption in captions]


def test_self_critical_training_raises_what_is_rewarded(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ScstTrainer.__init__

    def rewarding(self: Any, **options: Any) -> None:
        original(self, **options)
        self.reward = Various()

    monkeypatch.setattr(ScstTrainer, "__init__", rewarding)
    data, told = examples("blip2-opt", 4), {**SMALL, "scst_samples": 8, "scst_max_new_tokens": 6, "steps": [1, 12]}
    train(
        base("blip2-opt"), stages="full,scst", data=data, out=tmp_path / "o", **{**told, "learning_rate": [0.0, 5e-3]}
    )

    def sampled(folder: Path) -> float:
        model = load_model(folder)
        reading = prompt_reader(model, reader(model, folder, answers=False))
        prompt = prompt_inputs(model, reading, [*data] * 8, room=6)
        torch.manual_seed(0)
        said = continuations(model, reading, prompt, {"max_new_tokens": 6, "do_sample": True, "top_k": 0})
        return float(torch.tensor(Various()([], reading.inputs.tokenizer.batch_decode(said))).mean())

    assert sampled(tmp_path / "o") > sampled(base("blip2-opt")) + 0.3


@pytest.mark.parametrize("name", ["blip2-opt", "llava"])
def test_a_placeholder_is_never_drawn(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model, drawn = load_model(base(name)), list[torch.Tensor]()
    reading, head, last = reader(model, base(name)), model.get_output_embeddings(), list[torch.Tensor]()
    prompt = prompt_inputs(model, prompt_reader(model, reading), examples(name, 1), room=1)
    catch = head.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0][0, -1]))
    with torch.no_grad():  # a model that says it first
        model(**prompt)
        head.weight[reading.inputs.image_token] = 10 * last[0]
    catch.remove()
    model.save_pretrained(tmp_path / "m")
    reading.inputs.processor.save_pretrained(tmp_path / "m")
    ended = ScstTrainer._ended
    monkeypatch.setattr(
        ScstTrainer, "_ended", lambda self, captions: (drawn.append(captions), ended(self, captions))[1]
    )
    told = {**SMALL, "scst_samples": 4, "scst_max_new_tokens": 6, "steps": [1, 2]}
    train(tmp_path / "m", stages="lora,scst", data=examples(name, 4), out=tmp_path / "o", **told)
    assert sum(captions.numel() for captions in drawn) >= 2 * 16
    assert all((captions != reading.inputs.image_token).all() for captions in drawn)
    # The rest share its probability: together they have all of it.
    count = model.get_output_embeddings().weight.shape[0]
    words = torch.tensor([[t] for t in range(count) if t not in reading.inputs.placeholders])
    every = {k: v.repeat_interleave(len(words), 0) for k, v in prompt.items()}
    with torch.no_grad():
        found = caption_log_probability(model, reading, every, words, unsaid=reading.inputs.placeholders)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-3)


def test_captions_are_not_drawn_from_what_is_no_number(base: Callable[[str], Path], tmp_path: Path) -> None:
    class Diverge(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            if args.output_dir.endswith("stage-1") and state.global_step == 2:
                for p in model.parameters():
                    p.data.fill_(3e38) if p.requires_grad else None

    told = {**SMALL, "scst_samples": 2, "scst_max_new_tokens": 4, "steps": 3, "save_steps": 1}
    with pytest.raises(NonFinite, match=r"stage 1: the loss is nan at step 3; .* the state after step 1 is kept"):
        train(base("blip2-opt"), stages="lora,scst", data=examples("blip2-opt", 4), out=tmp_path / "o",
              callbacks=[Diverge()], **told)  # fmt: skip


def test_a_callback_records_spectra_and_disturbs_nothing(base: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(base("gpt2"))
    batch = reader(model, base("gpt2")).read(examples("gpt2", 6))
    data, told = examples("gpt2", 8), {**SMALL, "method": "lora", "steps": 5, "lora_dropout": 0.1}
    call = SpectrumCallback([batch], tmp_path / "s.jsonl", sites="decoder", every=2)
    train(base("gpt2"), data=data, out=tmp_path / "a", callbacks=[call], **told)
    train(base("gpt2"), data=data, out=tmp_path / "b", **told)
    files = [(tmp_path / n / "0-lora" / "adapter_model.safetensors").read_bytes() for n in "ab"]
    assert files[0] == files[1]
    spectra = read_spectra(tmp_path / "s.jsonl")
    assert set(spectra) == {str(site) for site in taps(model)}
    assert all(list(steps) == [0, 2, 4, 5] for steps in spectra.values())
    last = spectra["decoder.final"]
    with torch.no_grad():
        hidden = model(**batch.inputs, output_hidden_states=True).hidden_states[-1]
    ends = batch.inputs["attention_mask"].sum(1) - 1
    expected = torch.linalg.svdvals(hidden[torch.arange(6), ends].double())
    torch.testing.assert_close(last[0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(last[0], last[5])


def test_spectra_go_on_over_stages_and_over_a_kill(base: Callable[[str], Path], tmp_path: Path) -> None:
    """The file of a run that was killed in its second stage and resumed is that of an undisturbed one."""
    model = load_model(base("gpt2"))
    batch, data = reader(model, base("gpt2")).read(examples("gpt2", 4)), examples("gpt2", 8)
    told = {**SMALL, "method": "pt-lora", "steps": [4, 5], "save_steps": 2}

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.output_dir.endswith("stage-1") and state.global_step == 3:
                raise KeyboardInterrupt

    def spectra(name: str, *, resume: bool = False) -> SpectrumCallback:
        return SpectrumCallback([batch], tmp_path / f"{name}.jsonl", sites="decoder.final", every=3, resume=resume)

    train(base("gpt2"), data=data, out=tmp_path / "a", callbacks=[spectra("a")], **told)
    with pytest.raises(KeyboardInterrupt):
        train(base("gpt2"), data=data, out=tmp_path / "b", callbacks=[spectra("b"), Kill()], **told)
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write('{"step": 7, "si')
    train(base("gpt2"), data=data, out=tmp_path / "b", callbacks=[spectra("b", resume=True)], resume=True, **told)
    assert list(read_spectra(tmp_path / "a.jsonl")["decoder.final"]) == [0, 3, 4, 6, 9]
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_a_callback_works_in_anyones_trainer(base: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(base("gpt2"))
    batch = reader(model, base("gpt2")).read(examples("gpt2", 4))
    rows = [{"input_ids": torch.arange(5), "labels": torch.arange(5)} for _ in range(4)]
    call = SpectrumCallback([batch], tmp_path / "s.jsonl", sites=["decoder.final"], rows="mean", every=1)
    args = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=args, train_dataset=rows, callbacks=[call]).train()
    assert list(read_spectra(tmp_path / "s.jsonl")["decoder.final"]) == [0, 1, 2]
    assert model.training


class Report(TrainerCallback):
    """A tracker of experiments: takes what is logged until the training ends."""

    def __init__(self, stop: int = -1) -> None:
        self.taken: list[tuple[int, dict[str, float]]] = []
        self.stop, self.closed = stop, False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        assert not self.closed
        self.taken.append((state.global_step, {n: v for n, v in logs.items() if n.startswith("rankscope/")}))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self.stop

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.closed = True


@pytest.mark.parametrize(("stop", "steps"), [(-1, [0, 2, 3]), (1, [0, 1])])
def test_numbers_of_spectra_reach_the_trainers_log(
    base: Callable[[str], Path], tmp_path: Path, stop: int, steps: list[int]
) -> None:
    """Of its last step too, however training ends, before the trackers close."""
    model = load_model(base("gpt2"))
    batch = reader(model, base("gpt2")).read(examples("gpt2", 6))
    rows = [{"input_ids": torch.arange(5), "labels": torch.arange(5)} for _ in range(4)]
    args = TrainingArguments(
        str(tmp_path), max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    report = Report(stop)
    trainer = Trainer(model=model, args=args, train_dataset=rows, callbacks=[report])
    sites = ["decoder.0", "decoder.final"]
    told = {"sites": sites, "every": 2, "measures": ["effective-rank", "rankme"]}
    trainer.add_callback(SpectrumCallback([batch], tmp_path / "s.jsonl", log=trainer.log, **told))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rankscope/decoder.0/rankme" in entry]
    assert [entry["step"] for entry in logged] == steps
    assert [step for step, numbers in report.taken if numbers] == steps
    spectra = read_spectra(tmp_path / "s.jsonl")
    names = {f"rankscope/{site}/{name}" for site in sites for name in ("roy-vetterli", "rankme")}
    for entry in logged:
        assert {name for name in entry if name.startswith("rankscope/")} == names
        for site in sites:  # RankMe is of the spectrum as recorded, and the effective rank of the centred one
            s = spectra[site][entry["step"]]
            p = s / s.sum()
            assert entry[f"rankscope/{site}/rankme"] == pytest.approx(float((-p * p.log()).sum().exp()), rel=1e-5)
    ends = batch.inputs["attention_mask"].sum(1) - 1
    with torch.no_grad():
        read = model.eval()(**batch.inputs, output_hidden_states=True).hidden_states[-1]
        x = read[torch.arange(6), ends].double()
    s = torch.linalg.svdvals(x - x.mean(0))
    p = s[:-1] / s.sum()
    last = logged[-1]["rankscope/decoder.final/roy-vetterli"]
    assert last == pytest.approx(float((-p * p.log()).sum().exp()), rel=1e-4)


def test_train_logs_the_numbers_of_spectra_stage_by_stage(base: Callable[[str], Path], tmp_path: Path) -> None:
    model, report, own = load_model(base("gpt2")), Report(), []
    batch = reader(model, base("gpt2")).read(examples("gpt2", 4))
    told = {"sites": "decoder.final", "measures": ["stable-rank"], "every": 2}
    calls = [SpectrumCallback([batch], tmp_path / "a.jsonl", **told)]
    calls += [SpectrumCallback([batch], tmp_path / "b.jsonl", log=own.append, **told)]
    report.on_train_end = lambda *_, **__: None  # which the next stage uses again
    options = {**SMALL, "method": "pt-lora", "steps": [1, 3]}
    train(base("gpt2"), data=examples("gpt2", 8), out=tmp_path / "o", callbacks=[report, *calls], **options)
    assert [step for step, numbers in report.taken if numbers] == [0, 1, 1, 3]  # of a stage; as one count 0, 1, 2, 4
    assert own == [numbers for _, numbers in report.taken if numbers]
    assert list(read_spectra(tmp_path / "a.jsonl")["decoder.final"]) == [0, 1, 2, 4]


def test_a_callback_refuses_what_cannot_be(base: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    with pytest.raises(UsageError, match="at least one batch"):
        SpectrumCallback([], file)
    with pytest.raises(WrongCall, match=r"SpectrumCallback\(\): there is no option 'evry', write every="):
        SpectrumCallback([], file, evry=3)  # type: ignore[call-arg]
    model = load_model(base("gpt2"))
    batch = reader(model, base("gpt2")).read(examples("gpt2", 4))
    with pytest.raises(UnknownName, match="no row kind 'best'"):
        SpectrumCallback([batch], file, rows="best")
    with pytest.raises(UsageError, match="participation-ratio needs more than singular values"):
        SpectrumCallback([batch], file, measures=["rankme", "participation-ratio"])
    call = SpectrumCallback([batch], file, sites="decoder.9")
    with pytest.raises(UnknownName, match="no site"):
        call.record(model, 0)
    file.touch()
    with pytest.raises(OutputExists, match="exists and is kept"):
        SpectrumCallback([batch], file)
    file.write_text('{"step": 1')
    with pytest.raises(StoreCorrupt, match="line 1 is no record"):
        read_spectra(file)
