"""The study on real weights: its texts leak nothing, its probes leave out what they predict, and its rules say what they were written to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

Script = Callable[[str], ModuleType]
BY_LOSS, BY_DRIFT = "at the same task loss", "at the same drift"


@pytest.fixture(scope="module")
def script(analysis: Script) -> ModuleType:
    return analysis("real_weights")


def described(source: str, analysis: Script) -> list[tuple[str, str, str, str]]:
    library = analysis("library_texts")
    found = library.described(library.ast.parse(source), 0, "m", ())
    return [(t.name, t.owner, t.kind, t.words) for t in found]


def test_a_text_is_the_first_paragraph_of_what_is_documented(analysis: Script) -> None:
    source = '''
class Box:
    """Holds things of one
    kind together.

    More."""
    def put(self, x):
        """Put a thing into the box."""
        def inner():
            """This is said to nobody at all."""
    def get(self):
        """Too short."""
'''
    assert described(source, analysis) == [
        ("m:Box", "m:Box", "class", "Holds things of one kind together."),
        ("m:Box.put", "m:Box", "method", "Put a thing into the box."),
    ]


def test_splits_share_no_owner_and_texts_that_agree_are_left_out(analysis: Script) -> None:
    library = analysis("library_texts")
    several = [
        library.Text(0, f"m:c{i // 3}", f"m:c{i // 3}.f{i}", "method", f"say {'x' * i} of it", "") for i in range(60)
    ]
    assert len(list(library.unlike(iter([*several, several[0]._replace(name="m:d", words="Say: OF it!")])))) == 59
    splits = library.split_by_owner(several, {"test": 20, "train": 10})
    assert {name: len(chosen) for name, chosen in splits.items()} == {"test": 20, "train": 10}
    assert not {t.owner for t in splits["test"]} & {t.owner for t in splits["train"]}
    assert library.split_by_owner(several[::-1], {"test": 20, "train": 10}) == splits  # in an order of its own


def test_what_is_left_out_is_predicted_by_the_others(analysis: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = analysis("sentence_vectors")
    monkeypatch.setattr(vectors, "PENALTIES", (0.1,))
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    centred = x - x.mean(0)
    penalty = 0.1 * torch.linalg.matrix_norm(centred, 2) ** 2
    naive = []
    for i in range(len(x)):  # a ridge regression with an offset, fitted again without each row
        rest = torch.arange(len(x)) != i
        a = torch.cat([centred[rest], torch.ones(len(x) - 1, 1, dtype=x.dtype)], 1)
        ridge = penalty * torch.diag(torch.tensor([1.0] * 5 + [0.0], dtype=x.dtype))
        weights = torch.linalg.solve(a.T @ a + ridge, a.T @ y[rest])
        naive.append(torch.cat([centred[i], torch.ones(1, dtype=x.dtype)]) @ weights)
    torch.testing.assert_close(vectors.left_out(x, y), torch.stack(naive))


def test_noise_is_read_at_chance_and_what_is_there_is_read(analysis: Script) -> None:
    vectors = analysis("sentence_vectors")
    labels = torch.arange(200) % 4
    noise = torch.randn(200, 20)
    assert vectors.read_class(noise, labels) < 0.4
    assert vectors.read_class(noise + 9 * torch.eye(4, 20)[labels], labels) > 0.98
    assert vectors.read_value(noise, torch.randn(200, 1)) < 0.1
    assert vectors.read_value(noise, noise[:, :1]) > 0.99


def test_variance_between_and_within_areas(analysis: Script) -> None:
    vectors = analysis("sentence_vectors")
    labels = torch.arange(800) % 8
    between = torch.eye(8, 40)[labels]
    inside = torch.randn(800, 40)
    found = vectors.by_area(100 * between + 1e-3 * inside, labels)
    assert found["between"] == pytest.approx(1.0, abs=1e-4)
    assert found["within"] > 35  # what is within has all its dimensions, although the whole has seven
    assert vectors.by_area(inside, labels)["between"] < 0.03


def path(*looks: tuple[float, float, float]) -> list[dict[str, float]]:
    """Looks as (validation loss, participation ratio, drift); the accuracy rises as the loss falls."""
    return [
        {"validation": v, "validation accuracy": 1 - v / 4, "participation-ratio": r, "drift": d, "between": 1 - r / 100}
        for v, r, d in looks
    ]  # fmt: skip


def test_the_same_loss_is_the_least_that_all_of_a_claim_reach(script: ModuleType) -> None:
    runs = {
        "lora": [path((2.0, 80, 0), (1.0, 10, 2)), path((2.0, 80, 0), (1.2, 12, 2))],
        "full": [path((2.0, 80, 0), (0.8, 8, 4), (1.5, 6, 6)), path((2.0, 80, 0), (0.8, 8, 4))],
    }
    told = script.told_by(BY_LOSS, runs)
    assert told["lora"][1]["participation-ratio"] == 12
    assert told["lora"][0]["participation-ratio"] == pytest.approx(24.0)  # at 1.2, four fifths of the way
    assert told["full"][0]["validation"] == pytest.approx(1.2)
    assert script.told_by(BY_DRIFT, runs)["full"][0]["drift"] == pytest.approx(2.0)
    assert script.told_by(script.WAYS[0], runs)["full"][0]["participation-ratio"] == 8  # the best, not the last


def test_a_fall_is_counted_from_before_the_first_step_of_the_same_training(script: ModuleType) -> None:
    several = [path((2.0, start, 0.1), (1.0, start - 30 + j, 2)) for j, start in enumerate((60, 50, 40))]
    claim = script.Claim("participation-ratio", "falls", ("lora",), script.ALONE)
    found = script.decided(claim, {"lora": several}, script.WAYS[0])
    assert found["verdict"] == "supported in miniature"
    assert found["margins"]["lora"]["value"] == pytest.approx(29.0)
    risen = [path((2.0, start, 0.1), (1.0, start + 30 + j, 2)) for j, start in enumerate((60, 50, 40))]
    assert script.decided(claim, {"lora": risen}, script.WAYS[0])["verdict"] == "contradicted"
    pairs = script.Claim("participation-ratio", "leads", (("pt-lora", "lora"),))
    gently = [path((2.0, start, 0.1), (1.0, start - 3 + j, 2)) for j, start in enumerate((60, 50, 40))]
    assert (
        script.decided(pairs, {"lora": several, "pt-lora": gently}, script.WAYS[0])["verdict"]
        == "supported in miniature"
    )
    assert script.decided(pairs, {"lora": gently, "pt-lora": several}, script.WAYS[0])["verdict"] == "contradicted"
    assert script.decided(pairs, {"lora": gently}, script.WAYS[0])["verdict"] == "not decided"  # one was not trained


def test_it_runs_from_end_to_end_and_trains_nothing_twice(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(script.SIZES, "quick", script.SIZES["quick"] | {"methods": ("pt-lora",), "seeds": (0,)})
    found = script.main("quick", tmp_path / "runs", tmp_path / "figure")
    assert {told["verdict"] for by_way in found["verdicts"].values() for told in by_way.values()} <= {
        "contradicted",
        "not decided",
    }
    assert found["before"]["base"]["drift"] == 0 < found["before"]["positions shifted, no prefix"]["drift"]
    assert json.loads((tmp_path / "figure.json").read_text())["verdicts"] == found["verdicts"]
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1
    monkeypatch.setattr(script, "train", None)
    home = tmp_path / "runs" / "real_weights"
    study = script.Study(home / "base", script.Library(home / "texts"), "encoder.1", (), "")
    assert script.made(study, home, script.trials("pt-lora", script.SIZES["quick"]), "again")
