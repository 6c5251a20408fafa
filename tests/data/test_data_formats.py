"""Every format as it is published: what an example holds, and that it is the same data through each door."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import fixtures_data as make
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from rankscope.data import Example, check, open_data
from rankscope.data.vqa import answer_vocabulary, soft_scores
from rankscope.errors import DataError, UsageError

FORMATS = {
    "coco": (make.coco, "COCO captions", None),
    "karpathy": (make.karpathy, "Karpathy's captions", "train"),
    "flickr token": (make.flickr_token, "Flickr30k tokens", None),
    "flickr results": (make.flickr_results, "Flickr30k results", None),
    "flickr annotations": (make.flickr_annotations, "Flickr30k annotations", "test"),
    "vqa": (make.vqa, "VQAv2 questions", None),
    "image folder": (make.image_folder, "image folder", "train"),
    "jsonl": (make.jsonl, "JSON lines", None),
    "ofa captions": (make.ofa_captions, "OFA TSV", None),
    "ofa questions": (make.ofa_questions, "OFA TSV", None),
    "oscar": (make.oscar, "Oscar data set", None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_well_formed_file_is_recognised_opened_and_checked(name: str, tmp_path: Path) -> None:
    write, kind, split = FORMATS[name]
    path = write(tmp_path / "a folder")
    report = check(path)
    assert report.good, report
    assert report.format == kind
    data = open_data(path, split=split)
    assert data.ids == open_data(f"{path}:{split}" if split else str(path)).ids
    for example in data:
        assert example.targets
        assert all("\n" not in t for t in example.targets)
        assert example.regions is not None or example.open_image().size == (48, 48)
    assert len(data.fingerprint) == 64


def test_coco_captions_are_grouped_by_image(tmp_path: Path) -> None:
    data = open_data(make.coco(tmp_path))
    assert data.ids == tuple(map(str, make.IDS))
    assert data[1].targets == tuple(make.captions(1))
    assert data[1].about["image_id"] == "522418"
    assert data[1].image == tmp_path / "val2014" / make.coco_name(1)


def test_images_of_2017_lie_where_the_annotation_file_says(tmp_path: Path) -> None:
    path = make.coco(tmp_path, images=False)
    value = json.loads(path.read_text())
    for image in value["images"]:
        image["file_name"] = f"{image['id']:012d}.jpg"
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(value))
    make.save_images(tmp_path / "val2017", [f"{i:012d}.jpg" for i in make.IDS])
    assert open_data(path, images=tmp_path)[2].image == tmp_path / "val2017" / "000000184613.jpg"


def test_restval_counts_as_train_and_says_so(tmp_path: Path) -> None:
    data = open_data(make.karpathy(tmp_path), split="train")
    assert data.ids == ("391895", "522418")
    assert "restval counted as train" in data.notices[0]
    assert check(data.name).splits == {"train": 2}
    assert data.name.endswith("dataset_coco.json:train")
    alone = open_data(data.name, restval=False)
    assert alone.ids == ("391895",)
    assert "restval is not part of train" in alone.notices[0]
    assert open_data(make.karpathy(tmp_path), split="restval", restval=False).ids == ("522418",)


def test_karpathy_of_flickr_has_neither_path_nor_coco_id(tmp_path: Path) -> None:
    data = open_data(make.karpathy(tmp_path, dataset="flickr30k"), split="val")
    assert data.ids == ("2199200615.jpg",)


def test_the_malformed_row_of_flickr_is_repaired_with_a_notice(tmp_path: Path) -> None:
    data = open_data(make.flickr_results(tmp_path))
    assert data[2].targets[4] == "A dog runs across the grass ."
    assert len(data[2].targets) == 5
    assert any("without its second separator" in n and "2199200615.jpg" in n for n in data.notices)


def test_vqa_joins_questions_with_ten_answers(tmp_path: Path) -> None:
    data = open_data(make.vqa(tmp_path))
    first = data[0]
    assert len(first.targets) == 10
    assert first.target == first.about["multiple_choice_answer"]
    assert first.targets[7] == "unsure"
    assert first.about["question_type"] == "how many"
    vocabulary = answer_vocabulary(data)
    assert soft_scores(first.targets, vocabulary)[vocabulary.index(first.target)] == 1.0
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    assert open_data(data.name)[0].targets == ()


def test_soft_scores_are_the_official_accuracy_of_each_answer() -> None:
    for k in range(11):
        answers = ["yes"] * k + ["no"] * (10 - k)
        # The definition: leave each annotator out, compare with the other nine.
        official = sum(min(1, sum(a == "yes" for j, a in enumerate(answers) if j != i) / 3) for i in range(10)) / 10
        assert soft_scores(answers, ("yes",)).get(0, 0.0) == pytest.approx(official)
    assert soft_scores(["maybe"] * 10, ("yes", "no")) == {}


def test_the_answer_vocabulary_is_sorted_by_count_then_name() -> None:
    said = ["b", "a", "c", "c", "d"]
    data = [Example(str(i), targets=(a,)) for i, a in enumerate(said)]
    assert answer_vocabulary(data, size=3) == ("c", "a", "b")
    with pytest.raises(DataError, match="no example has an answer"):
        answer_vocabulary([Example("x")])


def test_image_folder_rows_bear_the_name_of_their_image(tmp_path: Path) -> None:
    data = open_data(make.image_folder(tmp_path / "json"), split="test")
    assert data.ids == ("test/0002.png", "test/0003.png")
    table = open_data(make.image_folder(tmp_path / "csv", csv=True), split="test")
    assert table[0].text == "what, and where ?"
    assert table[0].targets == (make.captions(0)[0],)


def test_metadata_in_parquet_is_that_in_json(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = make.image_folder(tmp_path)
    before = open_data(folder, split="train")
    for split in ("train", "test"):
        lines = (folder / split / "metadata.jsonl").read_text().splitlines()
        parquet.write_table(
            pyarrow.Table.from_pylist([json.loads(line) for line in lines]), folder / split / "metadata.parquet"
        )
        (folder / split / "metadata.jsonl").unlink()
    assert open_data(folder, split="train").fingerprint == before.fingerprint
    (folder / "train" / "metadata.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"metadata.parquet cannot be read as Parquet: "):
        open_data(folder, split="train")


def test_a_folder_of_images_alone_is_data(tmp_path: Path) -> None:
    make.save_images(tmp_path, ["b.png", "a.png"])
    assert open_data(tmp_path).ids == ("a.png", "b.png")


def test_a_saved_dataset_keeps_its_images_encoded_until_asked(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    make.save_images(tmp_path / "in", ["a.png", "b.png"])
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = {
        "image": [str(tmp_path / "in" / n) for n in ("a.png", "b.png")],
        "question": ["one ?", "two ?"],
        "answer": ["1", "2"],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "out")
    data = open_data(tmp_path / "out", split="train")
    assert [(e.text, e.target) for e in data] == [("one ?", "1"), ("two ?", "2")]
    assert data[0].open_image().size == (48, 48)
    with pytest.raises(DataError, match=r"has the splits train \(2\), test \(1\); choose one"):
        open_data(tmp_path / "out")


def test_ofa_answers_stand_with_the_most_confident_first(tmp_path: Path) -> None:
    data = open_data(make.ofa_questions(tmp_path))
    assert data[0].targets == ("yes", "no")
    assert data[0].about["confidences"] == "1.0 0.6"
    assert open_data(make.ofa_captions(tmp_path))[1].targets == tuple(make.captions(1))


def test_oscar_regions_tags_and_captions_meet(tmp_path: Path) -> None:
    path = make.oscar(tmp_path)
    data = open_data(path)
    assert data.ids == tuple(map(str, make.IDS))
    found = data[2].regions.open()
    assert_array_equal(found.features, make.region_array(2))
    assert found.tags == make.TAGS[2]
    assert data[2].targets == tuple(make.captions(2))
    (tmp_path / "val.feature.lineidx").unlink()
    again = open_data(path)
    assert again.fingerprint == data.fingerprint
    assert any("the file is scanned" in n for n in again.notices)


@pytest.mark.parametrize("kind", ["tsv", "columns", "npz", "safetensors", "folder"])
def test_regions_of_every_kind_join_questions_by_image(kind: str, tmp_path: Path) -> None:
    path = make.vqa(tmp_path)
    arrays = {str(name): make.region_array(i) for i, name in enumerate(make.IDS)}
    source = tmp_path / "val.feature.tsv" if kind == "tsv" else tmp_path / f"regions.{kind}"
    if kind == "tsv":
        make.oscar(tmp_path)
    elif kind == "columns":
        source = tmp_path / "val_img_frcnn_feats.tsv"
        packed = {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}
        source.write_text("".join(f"{name}\t{len(arrays[name])}\t{text}\n" for name, text in packed.items()))
        assert check(source).format == "region features"
    elif kind == "npz":
        np.savez(source, **arrays)
    elif kind == "safetensors":
        save_file(arrays, source)
    else:
        source.mkdir()
        for name, array in arrays.items():
            np.savez(source / f"{name}.npz", features=array)
    data = open_data(path, regions=source)
    assert [e.about["image_id"] for e in data] == list(arrays)
    for example in data:
        assert_array_equal(example.regions.open().features, arrays[example.about["image_id"]])


def test_columns_are_recognised_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frage": "ja oder nein ?", "sentence": "ja", "label": 3}\n')
    assert open_data(path)[0] == Example("1", "ja", label=3, about={"frage": "ja oder nein ?"})
    assert open_data(path, columns={"text": "frage", "targets": "sentence"})[0].targets == ("ja",)
    one = tmp_path / "one.jsonl"
    one.write_text('{"question": "what?", "text": "this"}\n')
    assert open_data(one)[0].text == "this"
    asked = open_data(one, columns={"targets": "text"})[0]  # a column that is named is taken once
    assert (asked.text, asked.targets) == ("what?", ("this",))
    with pytest.raises(
        DataError, match=r"asked for columns that it does not have \(text=question\); it has frage, sentence, label"
    ):
        open_data(path, columns={"text": "question"})
    (tmp_path / "a.csv").write_text("sentence,label\nfine,1\nawful,0\n")
    assert [(e.text, e.label) for e in open_data(tmp_path / "a.csv")] == [("fine", 1), ("awful", 0)]


def test_texts_records_and_examples_in_memory_are_data() -> None:
    assert [e.id for e in open_data(["one", "two"])] == ["0", "1"]
    assert open_data([{"text": "a", "answers": ["b", {"answer": "c"}]}])[0].targets == ("b", "c")
    data = open_data([Example("x", "y")])
    assert open_data(data) is data
    with pytest.raises(DataError, match="all texts, all records or all examples; these are dict, str"):
        open_data(["a", {"text": "b"}])


def test_lines_of_text_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufefffirst\n\nthird\u2028still third\n", encoding="utf-8")
    data = open_data(tmp_path / "a.txt")
    assert [(e.id, e.text) for e in data] == [("1", "first"), ("3", "third still third")]
    assert "line break inside a text" in data.notices[0]


def test_a_check_tells_what_is_there(tmp_path: Path) -> None:
    path = make.karpathy(tmp_path)
    whole, part = check(path), check(f"{path}:val")
    assert str(whole).startswith(
        f"{path}: Karpathy's captions, 4 examples (train 2, val 1, test 1); 4 images, 20 targets\n"
    )
    assert (part.examples, part.holds, part.splits) == (1, {"images": 1, "targets": 5}, {"val": 1})
    assert check(make.oscar(tmp_path / "oscar")).holds == {"regions": 4, "targets": 20}
    assert check(make.vqa(tmp_path / "vqa")).holds == {"images": 4, "texts": 4, "targets": 40}
    assert check("scenes:questions/test?n=3").holds == {"images": 3, "texts": 3, "targets": 3}
    with pytest.raises(DataError, match=r"has no split 'dev'; it has train \(2\), val \(1\), test \(1\)"):
        check(f"{path}:dev")
    (tmp_path / "val2014" / make.coco_name(3)).unlink()
    assert check(f"{path}:val").good
    told = check(f"{path}:test").to_json()
    assert (told["good"], told["problems"][0]["kind"]) == (False, "image missing")


def test_a_split_asked_for_twice_must_be_one(tmp_path: Path) -> None:
    path = make.karpathy(tmp_path)
    with pytest.raises(UsageError, match="names the split val, and test was asked for"):
        open_data(f"{path}:val", split="test")
    with pytest.raises(DataError, match=r"no split 'dev'; it has train \(2\), val \(1\), test \(1\)"):
        open_data(path, split="dev")


def test_opening_data_imports_no_model_library() -> None:
    code = "import sys; from rankscope.data import open_data; open_data('scenes')[0].open_image(); print({'torch','transformers','datasets','sklearn','pandas'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
