"""What is wrong with data is told in one pass, with counts and places, before anything is computed."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from PIL import Image

from rankscope.data import check, open_data
from rankscope.data.open import recognise
from rankscope.data.regions import ArrayRegions
from rankscope.errors import DataError, MissingTool

Damage = Callable[[Path], object]


def text(change: Callable[[str], str]) -> Damage:
    """Damage to the text of a file."""
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def value(change: Callable[[Any], object]) -> Damage:
    """Damage to the value of a JSON file, in place."""

    def apply(path: Path) -> None:
        whole = json.loads(path.read_text())
        change(whole)
        path.write_text(json.dumps(whole))

    return apply


def beside(name: str, damage: Damage) -> Damage:
    """Damage to a file beside the one that is opened."""
    return lambda path: damage(path.parent / name)


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    """Half of the file is lost."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """A PNG of some hundred bytes that claims 100 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b""))


IMAGE = f"val2014/{make.coco_name(1)}"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
FAULTS: list[tuple[Callable[[Path], Path], Damage, str]] = [
    # JSON of COCO
    (make.coco, beside(IMAGE, lose), "1 × image missing .*COCO_val2014_000000522418.jpg"),
    (make.coco, cut, "is not JSON: .* at line 1, column"),
    (make.coco, value(lambda v: v["images"].append(v["images"][0])), r"1 × id occurs more than once \(391895\)"),
    (make.coco, value(lambda v: v["annotations"].append(v["annotations"][0])), "1 × annotation id occurs twice"),
    (make.coco, value(lambda v: v["annotations"][3].update(caption=" ")), r"1 × caption or answer is empty \(image 391895\)"),
    (make.coco, value(lambda v: v["annotations"][3].update(caption=7)), "1 × caption or answer is not text"),
    (make.coco, value(lambda v: v["annotations"][3].update(image_id=99)), r"1 × caption of an image that is not listed \(image 99\)"),
    (make.coco, value(lambda v: v["images"][0].pop("file_name")), r"1 × image has no id or no file_name \(image 0\)"),
    (make.coco, value(lambda v: v["images"][0].update(file_name="../../secret.png")), "1 × image name leaves the folder"),
    (make.coco, value(lambda v: v["images"][0].update(file_name="/etc/passwd")), "1 × image name leaves the folder"),
    (make.coco, value(lambda v: v["images"].append("x")), "1 × entry of images is not an object"),
    (make.coco, value(lambda v: v.update(annotations={})), "annotations should be a list of objects; it is dict"),
    (make.coco, value(lambda v: v.pop("images")), "holds annotations without their questions or images"),
    (make.coco, lambda p: p.write_text('{"a": NaN}'), "NaN is not a JSON number"),
    (make.coco, lambda p: p.write_text("[" * 100_000), "is not JSON"),
    (make.coco, lambda p: p.write_bytes("{}".encode("utf-16")), "is not UTF-8"),
    (make.coco, lambda p: p.write_text('{"a": 1}'), "is JSON of no known kind; its keys are a"),
    # Karpathy
    (make.karpathy, value(lambda v: v["images"][0].pop("split")), "1 × image has no filename or no split"),
    (make.karpathy, value(lambda v: v["images"][0].update(sentences=[])), "1 × image without sentences"),
    (make.karpathy, beside(IMAGE, lose), "1 × image missing"),
    (make.karpathy, value(lambda v: v["images"][0].update(filepath="../..")), "1 × image name leaves the folder"),
    # Flickr30k
    (make.flickr_token, text(lambda t: t.replace("#1\t", " 1 ", 1)), "1 × line is not NAME#NUMBER<TAB>CAPTION"),
    (make.flickr_token, text(lambda t: t + t.split("\n")[0] + "\n"), "1 × caption number occurs twice"),
    (make.flickr_token, lambda p: p.write_bytes(p.read_bytes() + b"x.jpg#0\t\xff\n"), r"1 × line is not UTF-8 \(line 21\)"),
    (make.flickr_results, text(lambda t: t.replace("| 1|", "| one|", 1)), "1 × row is not NAME| NUMBER| CAPTION"),
    (make.flickr_annotations, text(lambda t: t.replace('"[""', '"[', 1)), "1 × captions are not a JSON list"),
    (make.flickr_annotations, text(lambda t: t + "a,b\n"), "1 × row does not have 5 cells"),
    # VQAv2
    (make.vqa, beside(ANNOTATIONS, value(lambda v: v["annotations"][0]["answers"].pop())), r"does not have 10 answers \(question 391895000 has 9\)"),
    (make.vqa, beside(ANNOTATIONS, value(lambda v: v["annotations"][0]["answers"].append({"answer": "x"}))), "391895000 has 11"),
    (make.vqa, beside(ANNOTATIONS, value(lambda v: v["annotations"].pop(0))), r"1 × question without annotation \(question 391895000\)"),
    (make.vqa, value(lambda v: v["questions"].pop(0)), "1 × annotation of a question that is not in the file"),
    (make.vqa, beside(ANNOTATIONS, value(lambda v: v["annotations"].append(v["annotations"][0]))), "1 × question annotated twice"),
    (make.vqa, beside(ANNOTATIONS, value(lambda v: v["annotations"][0].pop("answers"))), "annotation has no question_id or no answers"),
    (make.vqa, beside(ANNOTATIONS, lambda p: p.write_text('{"images": []}')), "has no annotations; it has images: an annotation file of another kind?"),
    (make.vqa, value(lambda v: v["questions"][0].update(question="")), "1 × question has no question_id, no image_id or no text"),
    (make.vqa, beside(IMAGE, lose), "1 × image missing"),
    # JSON lines
    (make.jsonl, text(lambda t: t + "{oops\n"), "1 × line is not JSON"),
    (make.jsonl, text(lambda t: t + "[1]\n"), r"1 × line is not a JSON object \(line 5\)"),
    (make.jsonl, text(lambda t: t + t.split("\n")[0].replace("?", "!") + "\n"), r"1 × id occurs more than once \(q0\)"),
    (make.jsonl, text(lambda t: t.replace('"id": "q1"', '"id": null')), r"1 × record has no id \(record 2\)"),
    (make.jsonl, text(lambda t: t.replace("pictures/1.png", "../1.png")), "1 × image name leaves the folder"),
    (make.jsonl, text(lambda t: t.replace('"pictures/1.png"', "null")), r"1 × image is missing or not a file name \(record 2\)"),
    (make.jsonl, beside("pictures/2.png", lose), "1 × image missing"),
    (make.jsonl, lambda p: p.write_text(""), "holds no examples"),
    (make.jsonl, lambda p: p.write_text('{"label": "x", "text": "a"}\n'), "1 × label is not a whole number"),
    (make.jsonl, lambda p: p.write_text('{"speech": "x"}\n'), "has neither text nor image; its columns are speech"),
    # image folders
    (make.image_folder, lambda p: lose(p / "test" / "0002.png"), "1 × image missing .*0002.png"),
    (make.image_folder, lambda p: text(lambda t: t + t.split("\n")[0].replace("pink", "grey") + "\n")(p / "test" / "metadata.jsonl"), "1 × id occurs more than once .*0002.png"),
    (make.image_folder, lambda p: text(lambda t: t.replace("file_name", "name"))(p / "test" / "metadata.jsonl"), "2 × row does not have exactly one file_name"),
    # OFA
    (make.ofa_captions, text(lambda t: t.replace("\t", " ", 1)), "line 1, has 4 columns; OFA's files have 5"),
    (make.ofa_captions, text(lambda t: t + "1\t2\t3\n"), r"1 × line does not have 5 columns \(line 5 has 3\)"),
    (make.ofa_captions, text(lambda t: t + t.split("\n")[0].replace("pink", "grey") + "\n"), "1 × id occurs more than once"),
    (make.ofa_questions, text(lambda t: t.replace("0.6|!+no", "no", 1)), r"1 × answer is not CONFIDENCE\|!\+ANSWER \(line 1"),
    (make.ofa_questions, text(lambda t: t.replace("is it so?", " ", 1)), r"1 × question is empty \(line 1\)"),
    # Oscar
    (make.oscar, beside("val.feature.lineidx", text(lambda t: t.replace("0\n", "1\n", 1))), "1 × offset in .lineidx is not the start of a line"),
    (make.oscar, beside("val.feature.lineidx", text(lambda t: t + "99999999\n")), "1 × offset in .lineidx is not the start of a line"),
    (make.oscar, beside("val.feature.lineidx", text(lambda t: "zero" + t)), r"1 × .lineidx holds something other than offsets .* line 1: 'zero0'"),
    (make.oscar, beside("val.feature.lineidx", text(lambda t: "0\n")), "1 × .lineidx ends before the file does; write it again .* has 1 lines"),
    (make.oscar, beside("val.feature.tsv", text(lambda t: t.replace("522418\t", "391895\t"))), "1 × key of regions occurs twice"),
    (make.oscar, beside("val.label.tsv", text(lambda t: t.replace("[", "", 1))), "1 × label line is not KEY<TAB>LIST"),
    (make.oscar, beside("val.label.tsv", text(lambda t: t.replace("class", "name", 1))), r"1 × label line is not .* with a class \(val.label.tsv line 1"),
    (make.oscar, beside("val.label.tsv", lose), "names files that are not there: .*val.label.tsv"),
    (make.oscar, beside("val_caption.json", text(lambda t: t.replace("522418", "7"))), r"1 × caption of an image without regions \(image 7\)"),
    (make.oscar, beside("val_caption.json", value(lambda v: v[0].pop("caption"))), "1 × entry has no image_id or no caption"),
    (make.oscar, lambda p: p.write_text("img: val.img.tsv\n"), "names no feature file; it has img"),
    (make.oscar, lambda p: p.write_text("feature:\n  - a\n"), "line 2, is not KEY: VALUE"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(FAULTS)), ids=lambda i: f"{FAULTS[i][0].__name__}-{i}")
def test_a_fault_is_named_with_its_place(case: int, tmp_path: Path) -> None:
    write, damage, message = FAULTS[case]
    path = write(tmp_path / "data")
    damage(path)
    split = {"karpathy": "train", "flickr_annotations": "train", "image_folder": "test"}.get(write.__name__)
    with pytest.raises(DataError, match=message):
        open_data(path, split=split)
    assert not check(path).good


def test_many_cases_were_swept() -> None:
    assert len(FAULTS) >= 60


DECODING: list[tuple[Callable[[Path], Path], str, Damage]] = [
    (make.coco, IMAGE, cut),
    (make.coco, IMAGE, bomb),
    (make.vqa, IMAGE, lambda p: p.write_text("<html>404</html>")),
    (make.jsonl, "pictures/1.png", cut),
    (make.image_folder, "test/0002.png", bomb),
    (make.ofa_captions, "caption_test.tsv", text(lambda t: t.replace("\t/9j/4AAQ", "\t/9j/4AA", 1))),
    (make.ofa_questions, "vqa_val.tsv", text(lambda t: t.replace("\t/9j/", "\t9j//", 1))),
    (make.oscar, "val.feature.tsv", text(lambda t: t.replace('"num_boxes": 3', '"num_boxes": 4'))),
    (make.oscar, "val.feature.tsv", text(lambda t: t.replace('"features"', '"featurex"', 1))),
]


@pytest.mark.parametrize("case", range(len(DECODING)))
def test_check_decodes_every_picture(case: int, tmp_path: Path) -> None:
    write, name, damage = DECODING[case]
    path = write(tmp_path)
    damage(tmp_path / name)
    report = check(path)
    assert [(p.kind, p.count) for p in report.faults] == [("image or regions cannot be decoded", 1)], report


def test_unusual_pictures_are_no_faults(tmp_path: Path) -> None:
    path = make.coco(tmp_path)
    Image.new("CMYK", (9, 9)).save(tmp_path / IMAGE)
    Image.new("L", (1, 1)).save(tmp_path / "val2014" / make.coco_name(2))
    report = check(path)
    assert report.good
    assert [p.kind for p in report.notices] == ["image of a single row or column of pixels"]
    assert open_data(path)[1].open_image().mode == "RGB"


def test_all_faults_are_told_at_once_with_the_first_five_places(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    rows = [json.dumps({"id": i % 8, "image": f"{i}.png", "caption": "" if i % 2 else "a\u2028b"}) for i in range(20)]
    path.write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        open_data(path)
    for part in (
        "10 × caption or answer is empty",
        "8 × id occurs more than once (0; 1; 2; 3; 4; …)",
        "20 × image missing",
    ):
        assert part in str(caught.value)
    report = check(path)
    assert [p.count for p in report.faults] == [10, 8, 20]
    assert all(len(p.places) == 5 for p in report.faults)
    assert [(r["severity"], r["count"]) for r in report.records()][-1] == ("notice", 10)
    assert "fault   20 × image missing" in str(report)


def test_ids_as_text_and_as_number_are_one(tmp_path: Path) -> None:
    path = make.coco(tmp_path)
    before = open_data(path).fingerprint
    value(lambda v: [a.update(image_id=str(a["image_id"])) for a in v["annotations"]])(path)
    assert open_data(path).fingerprint == before


def test_line_breaks_of_every_kind_stay_inside_their_caption(tmp_path: Path) -> None:
    path = make.flickr_token(tmp_path)
    for mark in "\v\f\x85\u2028\u2029\r":
        path.write_text(f"{make.FLICKR[0]}#0\tone{mark}two\n{make.FLICKR[1]}#0\tthree\n", encoding="utf-8", newline="")
        data = open_data(path)
        assert [e.targets for e in data] == [("one two",), ("three",)]
        assert len(data.notices) == 1


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = make.jsonl(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_data(path)) == 4
    path = make.flickr_results(tmp_path / "b")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_data(path)) == 4


def test_images_without_a_row_are_named(tmp_path: Path) -> None:
    path = make.image_folder(tmp_path)
    make.save_images(path / "train", ["extra.png"])
    assert "image without a row in the metadata, left out (extra.png)" in open_data(path, split="train").notices[0]


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has the ending '.pkl'; .csv, .json, .jsonl"):
        open_data(tmp_path / "a.pkl")
    with pytest.raises(DataError, match=r"no such file or folder: .*nothing.jsonl"):
        check(tmp_path / "nothing.jsonl")
    with pytest.raises(
        DataError, match=r"holds neither metadata.jsonl or metadata.csv or metadata.parquet, nor a dataset"
    ):
        open_data(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no such folder of images: .*absent"):
        open_data(make.coco(tmp_path), images=tmp_path / "absent")
    with pytest.raises(DataError, match="the data hold no examples"):
        open_data([])


def test_a_dataset_without_the_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    assert recognise(tmp_path).name == "Hugging Face dataset"
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingTool, match=r"needs the package datasets: pip install 'rankscope\[data\]'"):
        open_data(tmp_path)
    monkeypatch.undo()
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="looks like a dataset written by save_to_disk, and cannot be loaded"):
        open_data(tmp_path)


def test_regions_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros(3))
    np.savez(tmp_path / "evil.npz", one=np.array([print], dtype=object))
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the regions 'one' of .* are float64 of shape \(3,\)"):
        ArrayRegions(tmp_path / "a.npz", "one").open()
    with pytest.raises(DataError, match="'two' cannot be read from"):
        ArrayRegions(tmp_path / "a.npz", "two").open()
    with pytest.raises(DataError, match=r"cannot be read from .*evil.npz"):
        ArrayRegions(tmp_path / "evil.npz", "one").open()
    with pytest.raises(DataError, match=r"region features cannot be read from .*b.safetensors"):
        open_data(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="holds no region features"):
        open_data(make.vqa(tmp_path), regions=tmp_path / "none.txt")
    with pytest.raises(DataError, match="4 × image without regions"):
        open_data(make.vqa(tmp_path), regions=tmp_path / "a.npz")
    np.savez(tmp_path / "nan.npz", one=np.full((1, 2), np.nan))
    assert "1 × regions are not finite numbers (example one)" in str(check(tmp_path / "nan.npz"))


@pytest.mark.parametrize("write", [make.coco, make.karpathy, make.flickr_token, make.flickr_results, make.flickr_annotations, make.vqa,
                                   make.jsonl, make.ofa_captions, make.ofa_questions, make.oscar])  # fmt: skip
def test_damaged_bytes_never_raise_anything_but_a_data_error(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    if write is make.oscar:
        path = path.with_name("val.feature.tsv")
    whole, random = path.read_bytes(), Random(0)
    for _ in range(12):
        place, length = random.randrange(len(whole)), random.randrange(1, 9)
        path.write_bytes(whole[:place] + random.randbytes(length) + whole[place + random.randrange(9) :])
        report = check(path)
        assert report.examples <= 40
        if not report.good:
            with contextlib.suppress(DataError):
                open_data(path)
