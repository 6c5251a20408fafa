"""The block for a model card: the verdict and every number of the small table, with conventions, between markers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import rankscope
from rankscope import markdown
from rankscope.errors import DataError, UnknownName, UsageError
from rankscope.markdown import BEGIN, END, escaped
from rankscope.report.card import card
from rankscope.report.content import content
from rankscope.report.extras import Extras
from rankscope.report.page import page
from rankscope.results.glance import glance
from rankscope.results.runs import Contrast
from rankscope.results.wording import interval


@pytest.fixture(scope="module")
def result(runs: dict[str, rankscope.Run]) -> Contrast:
    return rankscope.compare(runs["none"], runs["lora"], sites="0-1")


def test_the_card_says_the_verdict_the_numbers_and_their_conventions(result: Contrast) -> None:
    text = card(result)
    small = glance(result)
    for said in (*result.verdict.sentences, result.verdict.briefs[0].lead, small.title, *small.below, *result.notes):
        assert escaped(said) in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in table]
    assert cells[0] == tuple(map(escaped, small.columns))
    assert cells[2:] == [tuple(map(escaped, row)) for row in small.rows]
    for name in ("participation-ratio-clustered", "recoverability", "overlap", "drift"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"- {name}: ")]
        assert escaped(rankscope.registry.known(name).citation) in line
    assert "centred" in text
    assert "(1 numbers)" not in text
    assert "Intervals of 95 %" in text
    assert f"rankscope {rankscope.__version__}" in text
    assert "Intervals of 90 %, over samples, by influence and jackknife." in card(replace(result, level=0.9))


def test_no_folder_of_this_machine_is_told_to_others(
    result: Contrast, runs: dict[str, rankscope.Run], texts: Path
) -> None:
    manifest = runs["lora"].manifest
    places = {str(texts.parent), str(Path(manifest.checkpoint["path"]).parent), str(runs["lora"].path.parent)}
    assert manifest.probe["name"] == str(texts), "the run itself keeps it, to read the data again"
    told = {
        "card": card(result),
        "JSON": json.dumps(result.to_json()),
        "report": page([result], Extras([runs["none"], runs["lora"]])),
        "data of the report": json.dumps(content([result], Extras([runs["none"], runs["lora"]]))),
    }
    assert [(name, place) for name, text in told.items() for place in places if place in text] == []
    assert all(texts.name in text for name, text in told.items() if name != "JSON")


def test_further_measures_get_a_column(result: Contrast) -> None:
    text = card(result, measures=["cka", "erank"])
    head = text.splitlines().index("| site | cka | erank |")
    cka, rank = (escaped(interval(result.of(name)[0].estimate)) for name in ("cka", "roy-vetterli"))
    assert text.splitlines()[head + 2] == f"| decoder.0 | {cka} | {rank} |"
    assert "- cka: " in text
    assert "- roy-vetterli: " in text
    with pytest.raises(UnknownName, match="'rsa' was not measured"):
        card(result, measures=["rsa"])


def test_a_name_from_a_file_stays_a_text(result: Contrast) -> None:
    name = f"<script>a|b</script> *x* [y](z)\n{END}\n# head"
    names = {result.names[1]: name, result.names[0]: "base"}
    pairs = [
        replace(r, pair=replace(r.pair, run_a="base", run_b=name)) if hasattr(r, "pair") else r for r in result.records
    ]
    text = card(replace(result, names=tuple(names[old] for old in result.names), records=tuple(pairs)))
    assert r"\<script\>a\|b\</script\> \*x\* \[y\](z) " in text
    assert "<script>" not in text
    assert END not in text.splitlines()
    assert not [line for line in text.splitlines() if line.startswith("# head")]
    assert {line.count(" | ") for line in text.splitlines() if line.startswith("| ")} == {
        len(glance(result).columns) - 1
    }


def test_a_block_is_put_between_markers_and_the_rest_stays(tmp_path: Path) -> None:
    new, own, link = (tmp_path / name for name in ("new.md", "README.md", "link.md"))
    markdown.put("one", new)
    assert new.read_text() == f"{BEGIN}\none\n{END}\n"
    own.write_bytes("---\nlicense: mit\n---\r\n# Größe\n".encode())
    link.symlink_to(own)
    markdown.put("one", link)
    whole = own.read_bytes().decode()
    assert whole == f"---\nlicense: mit\n---\r\n# Größe\n\n{BEGIN}\none\n{END}\n"
    assert link.is_symlink()
    own.write_bytes((whole + "after\r\n").replace("\n", "\r\n").replace("\r\r", "\r").encode())
    markdown.put("two", own)
    after = own.read_bytes().decode()
    assert f"{BEGIN}\ntwo\n{END}\r\nafter\r\n" in after
    assert "one" not in after
    for wrong in (BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}", f"{BEGIN}\n{END}\n{END}"):
        own.write_text(wrong)
        with pytest.raises(UsageError, match="must have one line"):
            markdown.put("three", own)
        assert own.read_text() == wrong
    own.write_text(f"as in `{BEGIN}`")  # no line of its own
    markdown.put("four", own)
    assert own.read_text() == f"as in `{BEGIN}`\n\n{BEGIN}\nfour\n{END}\n"
    own.write_bytes(b"\xff")
    with pytest.raises(DataError, match="no text in UTF-8"):
        markdown.put("five", own)


def test_the_command_writes_what_python_gives(
    runs: dict[str, rankscope.Run], result: Contrast, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from rankscope import cli

    command = ["card", runs["lora"].path, "--base", runs["none"].path, "--layers", "0-1", "-q"]
    for more in ([], ["-o", tmp_path / "README.md"]):
        monkeypatch.setattr("sys.argv", ["rankscope", *map(str, command), *map(str, more)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    out = capsys.readouterr().out
    assert out.startswith(card(result))
    assert (tmp_path / "README.md").read_text() == f"{BEGIN}\n{card(result)}\n{END}\n"
