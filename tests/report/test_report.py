"""The report: one file that holds what was compared, names no other file, and gives the numbers back."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from dataclasses import astuple, replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from math import isclose
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from torch.testing import assert_close

import rankscope
from rankscope import cli
from rankscope.analysis.align import Aligned
from rankscope.errors import DataError, OutputExists, UsageError
from rankscope.report.columns import from_columns, to_columns
from rankscope.report.content import content
from rankscope.report.extras import Extras
from rankscope.report.page import page
from rankscope.report.planes import DRAWN, planes
from rankscope.results.runs import Contrast, PairRecord
from rankscope.store import Run

FEW: dict[str, Any] = {"measures": ["participation-ratio", "overlap", "recoverability"], "groups": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return planted.runs(tmp_path_factory.mktemp("runs"), ("base", planted.HOSTILE, "flat"))


@pytest.fixture(scope="module")
def written(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Contrast, ...]]:
    out = tmp_path_factory.mktemp("report") / "report.html"
    return out, rankscope.make_report(runs[1:], base=runs[0], out=out, **FEW)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of scripts, styles and cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data


def data_of(text: str) -> dict[str, Any]:
    packed = re.search(r'id="data">([^<]*)<', text)
    assert packed is not None
    return json.loads(zlib.decompress(b64decode(packed[1])))


def same(a: Any, b: Any) -> bool:
    """Equal, numbers to six digits."""
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return isclose(a, b, rel_tol=6e-6)
    return a == b


def test_a_page_names_no_other_file_and_runs_only_what_its_policy_names(
    written: tuple[Path, tuple[Contrast, ...]],
) -> None:
    text = written[0].read_text()
    found = Tags(text)
    for tag, attributes in found.tags:
        assert not set(attributes) & {"src", "href", "action", "style", "srcset", "background"}, tag
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
    (policy,) = (a["content"] or "" for _, a in found.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    hashes = {f"'sha256-{b64encode(sha256(body.encode()).digest()).decode()}'" for body in found.texts["style"]}
    _, *scripts = found.texts["script"]
    hashes |= {f"'sha256-{b64encode(sha256(body.encode()).digest()).decode()}'" for body in scripts}
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
    assert len(hashes) == 4


def test_a_hostile_name_is_a_text(written: tuple[Path, tuple[Contrast, ...]], runs: list[Run]) -> None:
    text = written[0].read_text()
    found = Tags(text)
    assert len(found.texts["script"]) == 3, "the data, uPlot and the page's own"
    assert planted.HOSTILE not in text
    assert planted.HOSTILE in found.texts["h1"][0]
    assert any(planted.HOSTILE in cell for cell in found.texts["th"])
    assert data_of(text)["contrasts"][0]["names"] == [planted.HOSTILE, "flat", "base"]
    noted = replace(written[1][0], notes=("<img src=x onerror=alert(1)>", "\u2028--><!--"), rows="<b>")
    assert not [tag for tag, _ in Tags(page([noted], Extras(runs))).tags if tag in ("img", "b")]


def test_the_first_screen_has_who_was_compared_and_every_site(written: tuple[Path, tuple[Contrast, ...]]) -> None:
    text, (result,) = written[0].read_text(), written[1]
    found = Tags(text)
    assert found.texts["h1"] == [f"{planted.HOSTILE} and flat against base"]
    briefs = result.verdict.briefs
    assert [one.lead for one in briefs] == found.texts["p"][1 : 1 + len(briefs)], "they come first"
    assert {text for one in briefs for text in one.lines.values()} <= {*found.texts["dd"]}
    assert {*result.verdict.sentences} <= {*found.texts["li"]}
    assert {"48 rows of 48 samples × 6 features, float32", "base"} <= set(found.texts["dd"])
    rows = {r.site: r for r in result.of("participation-ratio")}
    cells = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", text)
    assert [site for site, _ in cells] == list(rows)
    for site, line in cells:
        r, values = rows[site], re.findall(r"<td>(.*?)</td>", line)
        assert r.base is not None
        assert r.b.value is not None
        told = [f"{r.base:.3g}", f"{r.base + r.b.value:.3g}", f"{100 * r.b.value / r.base:+.0f} %"]
        overlap = next(o for o in result.of("overlap") if o.site == site)
        told[2] = told[2].replace("+0 %", "0 %")
        assert [values[0], values[5], values[6]] == [text.replace("-", "−") for text in told]
        assert values[8] == f"{overlap.b.value:.3g}"


def test_a_report_is_printed_from_the_command_line(
    written: tuple[Path, tuple[Contrast, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (back,) = str(written[0]), rankscope.open_report(written[0])

    def shown(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["rankscope", "show", path, "-q", *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert json.loads(shown("--json")) == json.loads(json.dumps(back.to_json()))
    said = " ".join(shown().split())
    assert all(" ".join(one.lead.split()) in said for one in back.verdict.briefs)
    assert " ".join(back.verdict.sentences[0].split()) in " ".join(shown("--full").split())


def test_a_report_is_read_back_as_it_was_written(written: tuple[Path, tuple[Contrast, ...]]) -> None:
    path, (result,) = written
    (back,) = rankscope.open_report(path)
    assert len(back.records) == len(result.records) >= 6
    assert all(same(astuple(a), astuple(b)) for a, b in zip(result.records, back.records, strict=True))
    assert not same(1.0, 1.0001)
    assert (back.names, back.rows, back.similarity_sites) == (result.names, result.rows, result.similarity_sites)
    assert back.notes[:-1] == result.notes
    assert back.verdict.headline == result.verdict.headline
    path_again = path.with_name("again.html")
    rankscope.write_report([replace(result, again=True)], path_again)
    assert [one.again for one in (back, *rankscope.open_report(path_again))] == [False, True]
    assert back.notes[-1].startswith("read from report.html")
    assert result.similarity is not None
    assert back.similarity is not None
    assert_close(back.similarity, result.similarity, rtol=0, atol=5e-5)
    assert back.plot().axes
    told = planted.shuffled(planted.large("lora", sites=4))
    texts: dict[str, int] = {}
    again = from_columns(PairRecord, to_columns(told.records, texts), list(texts))
    assert all(same(astuple(a), astuple(b)) for a, b in zip(told.records, again, strict=True))


def test_what_is_no_report_is_refused(written: tuple[Path, tuple[Contrast, ...]], tmp_path: Path) -> None:
    text, other = written[0].read_text(), tmp_path / "other.html"

    def refused(told: str, words: str) -> None:
        other.write_text(told)
        with pytest.raises(DataError, match=words):
            rankscope.open_report(other)

    def holding(value: object) -> str:
        packed = b64encode(zlib.compress(json.dumps(value).encode())).decode()
        return re.sub(r'(id="data">)[^<]*', rf"\g<1>{packed}", text)

    data = data_of(text)
    with pytest.raises(DataError, match="there is no report at"):
        rankscope.open_report(tmp_path / "none.html")
    refused("<html></html>", "no report of rankscope")
    refused(holding({"format": "other"}), "no report of rankscope")
    refused(holding([1]), "not as they were written")
    refused(holding(data | {"version": 2}), "a later version")
    refused(holding(data | {"contrasts": [{}]}), "not as they were written")
    refused(re.sub(r'(id="data">.{400})[^<]*', r"\g<1>", text), "not as they were written")
    refused(holding(data | {"contrasts": [data["contrasts"][0] | {"texts": []}]}) if data["contrasts"][0]["texts"] else
            holding(data | {"contrasts": [data["contrasts"][0] | {"records": [{"at": [0], "columns": {}}]}]}),
            "not as they were written")  # fmt: skip
    (back,) = (rankscope.open_report(written[0]),)
    assert back, "and the one that was written is not"


def test_three_runs_of_34_sites_are_small() -> None:
    results = [planted.large(run) for run in ("lora", "full", "prefix")]
    assert len(page(results, Extras()).encode()) < 300 * 1024
    told = content(results, Extras())
    assert [len(b["at"]) for b in told["contrasts"][0]["records"]] == [34] * 14
    assert set(told["spectra"]) == {"base", "lora", "full", "prefix"}
    places, values = told["drawn"]["512"], told["spectra"]["lora"]["decoder.3"]["values"]
    exact = results[0].spectra["lora"][results[0].similarity_sites[4]].values
    assert len(places) == len(values) <= 48
    assert (places[0], places[-1]) == (0, 511)
    assert_close(torch.tensor(values).double(), exact[places] / exact[0], rtol=1e-3, atol=0)


def test_two_runs_are_held_against_the_base_and_each_other_and_more_against_the_base(
    runs: list[Run], tmp_path: Path
) -> None:
    out = tmp_path / "r.html"
    alone = rankscope.make_report([runs[2]], base=runs[0], out=out, sites="layers.1", **FEW)
    assert [result.names for result in alone] == [("base", "flat")]
    three = rankscope.make_report(
        [runs[1], runs[2], runs[2]], base=runs[0], out=out, sites="layers.1", overwrite=True, **FEW
    )
    assert [result.names for result in three] == [("base", planted.HOSTILE), ("base", "flat#3"), ("base", "flat#4")]
    assert {r.runs.run_b for r in three[2].records if r.runs} == {"flat#4"}
    back = rankscope.open_report(out)
    assert [one.names for one in back] == [one.names for one in three]
    assert "flat#4: participation-ratio" in Tags(out.read_text()).texts["th"]


def test_a_file_is_kept_and_a_report_is_of_something(runs: list[Run], tmp_path: Path) -> None:
    out = tmp_path / "mine.html"
    out.write_text("mine")
    with pytest.raises(OutputExists, match=r"mine\.html exists and is kept"):
        rankscope.make_report([runs[1]], base=runs[0], out=out)
    assert out.read_text() == "mine"
    for nothing in ([], "lora.pt"):
        with pytest.raises(UsageError, match="a list of runs"):
            rankscope.make_report(nothing, base=runs[0], out=tmp_path / "new.html")
    with pytest.raises(UsageError, match=r"what rankscope\.compare returned"):
        rankscope.write_report([], tmp_path / "new.html")


def test_a_stranger_learns_where_a_run_is_from_and_no_folder_of_this_machine(
    written: tuple[Path, tuple[Contrast, ...]], runs: list[Run]
) -> None:
    text = written[0].read_text()
    told = data_of(text)["runs"]
    assert [one["name"] for one in told] == ["base", planted.HOSTILE, "flat"]
    for one, run in zip(told, runs, strict=True):
        assert one["plan"] == run.manifest.plan_digest
        assert one["data"]["fingerprint"] == run.manifest.probe["fingerprint"]
        assert one["data"]["samples"] == 48
        assert "ids" not in one["data"]
    assert str(runs[0].path.parent) not in text
    assert str(Path.cwd()) not in text


def test_the_plane_is_that_of_the_bases_leading_components(runs: list[Run]) -> None:
    found = planes(Aligned(tuple(runs), runs[0].sites))
    assert list(found) == [str(site) for site in runs[0].sites]
    for site, several in found.items():
        x, *others = (run.features(site).double() for run in runs)
        values, vectors = torch.linalg.eigh((x - x.mean(0)).mT @ (x - x.mean(0)))
        axes = vectors.flip(1)[:, :2]
        base, *tuned = several
        assert len(base.xy) == 48 <= DRAWN
        assert_close(base.xy.abs(), ((x - x.mean(0)) @ axes).abs(), rtol=1e-6, atol=1e-6)
        assert base.share == pytest.approx((values.flip(0)[:2] / values.sum()).tolist())
        for plane, y in zip(tuned, others, strict=True):
            assert_close(plane.xy.abs(), ((y - x.mean(0)) @ axes).abs(), rtol=1e-6, atol=1e-6)
    told = found["layers.1.output"][0].to_json()
    low, high = (torch.tensor(told[end]).double() for end in ("low", "high"))
    xy = torch.tensor(list(b64decode(told["xy"]))).reshape(-1, 2) / 255 * (high - low) + low
    assert_close(xy, found["layers.1.output"][0].xy, rtol=0, atol=float((high - low).max()) / 250)


def test_uplot_is_as_it_was_released() -> None:
    """The files of uplot 1.6.32 in its registry; whoever takes a later one changes the hashes with it."""
    hashes = {
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    folder = files("rankscope.report") / "static" / "uplot"
    for name, expected in hashes.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == expected
    assert "The MIT License" in (folder / "LICENSE").read_text()
