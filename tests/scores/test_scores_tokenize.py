"""The tokenizer says what Stanford's program says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rankscope.errors import MissingTool
from rankscope.scores.java import Java, ptb_tokenized
from rankscope.scores.tokenize import PUNCTUATION, one_line, tokenize, tokenized

RECORDED = Path(__file__).parent / "recorded"
BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return (RECORDED / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(scope="module")
def java() -> Java:
    try:
        Java().jar("tokenizer", "stanford-corenlp-3.4.1.jar")
    except MissingTool as error:
        pytest.skip(str(error))
    return Java(timeout=60)


def test_recorded_captions_split_as_the_java_program_split_them(lines: list[str]) -> None:
    recorded = json.loads((RECORDED / "tokens.json").read_text(encoding="utf-8"))
    assert len(lines) == len(recorded) > 250
    got = [tokenize(line, following=after) for line, after in zip(lines, [*lines[1:], ""], strict=True)]
    wrong = [(line, want, is_) for line, want, is_ in zip(lines, recorded, got, strict=True) if want != is_]
    assert not wrong


def test_splitting_at_spaces_would_not_do(lines: list[str]) -> None:
    """Negative control: the record holds what a simpler tokenizer gets wrong."""
    recorded = json.loads((RECORDED / "tokens.json").read_text(encoding="utf-8"))
    simple = [line.lower().replace(".", " ").replace(",", " ").split() for line in lines]
    assert sum(a != b for a, b in zip(simple, recorded, strict=True)) > 150


def test_the_java_program_itself_agrees_where_it_is_present(lines: list[str], java: Java) -> None:
    assert ptb_tokenized(lines, java) == tokenized(lines)


@pytest.mark.parametrize("mark", BREAKS)
def test_what_ends_a_line_counts_as_a_space(mark: str) -> None:
    assert tokenize(f"a dog{mark}runs") == ["a", "dog", "runs"]
    assert tokenized([f"a{mark}b", "c"]) == ["a b", "c"]


def test_captions_with_line_breaks_stay_in_their_places_in_java(java: Java) -> None:
    captions = ["a\u2028b", "c", "", "d\ne", "f|||g", ""]
    assert ptb_tokenized(captions, java) == tokenized(captions) == ["a b", "c", "", "d e", "f | | | g", ""]


def test_a_last_initial_depends_on_the_next_line() -> None:
    assert tokenized(["on street K.", "A man"])[0] == "on street k"
    assert tokenized(["on street K.", "a man"])[0] == "on street k."
    assert tokenized(["on street K."]) == ["on street k."]


def test_examples_by_hand() -> None:
    assert tokenize("") == tokenize(" . ") == []
    assert tokenize("It's 11:59 a.m. in the U.S.") == ["it", "'s", "11:59", "a.m.", "in", "the", "u.s."]
    assert tokenize("You cannot, don't") == ["you", "can", "not", "do", "n't"]
    assert tokenize("t-shirt (red) & tub/shower") == ["t-shirt", "-lrb-", "red", "-rrb-", "&", "tub/shower"]
    assert tokenize("😀 dogs 👍🏽") == ["dogs"]


@given(st.text(max_size=60))
def test_no_text_breaks_the_tokenizer(text: str) -> None:
    tokens = tokenize(text)
    assert all(token and " " not in token and "\n" not in token and token not in PUNCTUATION for token in tokens)
    assert tokens == tokenize(one_line(text))


@given(st.lists(st.sampled_from(["a", "dog", "the", "running", "street", "of"]), max_size=12))
def test_plain_words_are_their_own_tokens(words: list[str]) -> None:
    assert tokenize(" ".join(words)) == words
    assert tokenize(" ".join(words).upper() + " .") == words
