"""Small files in exactly the public formats: COCO, Karpathy, Flickr30k, VQAv2, image folders, OFA and VinVL.

Field names, separators, quoting, number or text of ids, and the malformed rows are those of the published files; the content is
scenes of digits. Every function takes a folder and returns what a user would open.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np

from rankscope.data.scenes import scenes

IDS = (391895, 522418, 184613, 318219)
"""COCO ids of the images."""
FLICKR = ("1000092795.jpg", "10002456.jpg", "2199200615.jpg", "4559587.jpg")
WIDTH = 2054
"""The width of VinVL's region features."""
TAGS = (("dog", "grass"), ("digit",), ("cat", "mat", "hat"), ("digit", "seven"))
REGIONS = 3
"""How many regions the first image has; each next has one more."""


def captions(i: int) -> list[str]:
    """Five captions of image i."""
    said = scenes("captions", "test")[i].targets
    return [f"{text[0].upper()}{text[1:]}." for text in (*said, said[0])]


def save_images(folder: Path, names: tuple[str, ...] | list[str]) -> None:
    """The scene i under the i-th name."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        scenes("captions", "test")[i].open_image().save(folder / name)


def coco_name(i: int, split: str = "val2014") -> str:
    """The file name of image i in the releases of 2014."""
    return f"COCO_{split}_{IDS[i]:012d}.jpg"


def coco(folder: Path, *, images: bool = True) -> Path:
    """``captions_val2014.json``, the images in ``val2014/``."""
    if images:
        save_images(folder / "val2014", [coco_name(i) for i in range(len(IDS))])
    listed = [
        {
            "license": 3,
            "file_name": coco_name(i),
            "coco_url": "",
            "height": 48,
            "width": 48,
            "date_captured": "",
            "flickr_url": "",
            "id": IDS[i],
        }
        for i in range(len(IDS))
    ]
    said = [
        {"image_id": IDS[i], "id": 10 * i + j, "caption": c} for i in range(len(IDS)) for j, c in enumerate(captions(i))
    ]
    info = {"description": "scenes", "url": "", "version": "1.0", "year": 2014, "contributor": "", "date_created": ""}
    whole = {"info": info, "images": listed, "licenses": [{"url": "", "id": 3, "name": ""}], "annotations": said}
    return _dump(folder / "captions_val2014.json", whole)


def karpathy(folder: Path, *, dataset: str = "coco") -> Path:
    """``dataset_coco.json`` with the four splits; for Flickr30k without ``filepath`` and ``cocoid``."""
    names = [coco_name(i) for i in range(len(IDS))] if dataset == "coco" else list(FLICKR)
    save_images(folder / ("val2014" if dataset == "coco" else "flickr30k-images"), names)
    items = []
    for i, split in enumerate(("train", "restval" if dataset == "coco" else "train", "val", "test")):
        sentences = [
            {"tokens": c.lower().rstrip(".").split(), "raw": c, "imgid": i, "sentid": 5 * i + j}
            for j, c in enumerate(captions(i))
        ]
        item = {
            "sentids": [s["sentid"] for s in sentences],
            "imgid": i,
            "sentences": sentences,
            "split": split,
            "filename": names[i],
        }
        items.append(item | ({"filepath": "val2014", "cocoid": IDS[i]} if dataset == "coco" else {}))
    return _dump(folder / f"dataset_{dataset}.json", {"images": items, "dataset": dataset})


def flickr_token(folder: Path) -> Path:
    """``results_20130124.token``: name, number, tab, caption."""
    save_images(folder / "flickr30k-images", FLICKR)
    lines = [f"{name}#{j}\t{c}" for i, name in enumerate(FLICKR) for j, c in enumerate(captions(i))]
    return _write(folder / "results_20130124.token", "\n".join(lines) + "\n")


def flickr_results(folder: Path) -> Path:
    """Kaggle's ``results.csv`` with its malformed row (19999 in the real file): the second separator is missing."""
    save_images(folder / "flickr30k_images", FLICKR)
    lines = ["image_name| comment_number| comment"]
    lines += [f"{name}| {j}| {c[:-1]} ." for i, name in enumerate(FLICKR) for j, c in enumerate(captions(i))]
    broken = next(k for k, line in enumerate(lines) if line.startswith("2199200615.jpg| 4"))
    lines[broken] = "2199200615.jpg| 4   A dog runs across the grass ."
    return _write(folder / "results.csv", "\n".join(lines) + "\n")


def flickr_annotations(folder: Path) -> Path:
    """``flickr_annotations_30k.csv``: lists as JSON in quoted cells."""
    save_images(folder / "flickr30k-images", FLICKR)
    lines = ["raw,sentids,split,filename,img_id"]
    for i, (name, split) in enumerate(zip(FLICKR, ("train", "train", "val", "test"), strict=True)):
        cells = [json.dumps(captions(i)), json.dumps([5 * i + j for j in range(5)]), split, name, str(i)]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' if "[" in cell else cell for cell in cells))
    return _write(folder / "flickr_annotations_30k.csv", "\n".join(lines) + "\n")


def vqa(folder: Path) -> Path:
    """``v2_OpenEnded_mscoco_val2014_questions.json`` and its annotations, ten answers each."""
    save_images(folder / "val2014", [coco_name(i) for i in range(len(IDS))])
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions, annotations = [], []
    for i in range(len(IDS)):
        asked = scenes("questions", "test")[i]
        questions.append({"image_id": IDS[i], "question": asked.text, "question_id": 1000 * IDS[i]})
        said = [asked.target] * 7 + ["unsure", asked.target, "two"]
        answers = [{"answer": a, "answer_confidence": "maybe", "answer_id": j + 1} for j, a in enumerate(said)]
        types = {"question_type": "how many", "answer_type": "number" if asked.target.isdecimal() else "yes/no"}
        ids = {"image_id": IDS[i], "question_id": 1000 * IDS[i]}
        annotations.append({**types, "multiple_choice_answer": asked.target, "answers": answers, **ids})
    _dump(folder / "v2_mscoco_val2014_annotations.json", head | {"annotations": annotations})
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    return _dump(path, head | {"task_type": "Open-Ended", "questions": questions})


def image_folder(folder: Path, *, csv: bool = False, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """An image folder with metadata in each split: JSON lines with lists of captions, or CSV with one caption."""
    for k, split in enumerate(splits):
        names = [f"{i:04d}.png" for i in range(2 * k, 2 * k + 2)]
        save_images(folder / split, names)
        if csv:
            lines = [
                "file_name,text,caption",
                *(f'{n},"what, and where ?","{captions(i)[0]}"' for i, n in enumerate(names)),
            ]
        else:
            lines = [json.dumps({"file_name": n, "captions": captions(i), "image_id": i}) for i, n in enumerate(names)]
        _write(folder / split / ("metadata.csv" if csv else "metadata.jsonl"), "\n".join(lines) + "\n")
    return folder


def jsonl(folder: Path) -> Path:
    """Questions about images beside the file."""
    save_images(folder / "pictures", [f"{i}.png" for i in range(4)])
    asked = [scenes("questions", "test")[i] for i in range(4)]
    lines = [
        json.dumps({"id": f"q{i}", "image": f"pictures/{i}.png", "question": e.text, "answer": e.target})
        for i, e in enumerate(asked)
    ]
    return _write(folder / "questions.jsonl", "\n".join(lines) + "\n")


def _base64_image(i: int) -> str:
    buffer = io.BytesIO()
    scenes("captions", "test")[i].open_image().save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def ofa_captions(folder: Path) -> Path:
    """OFA's caption file: five columns, references of the test split joined by ``&&``."""
    lines = [
        "\t".join([str(i), str(IDS[i]), "&&".join(captions(i)), "&&".join(TAGS[i]), _base64_image(i)])
        for i in range(len(IDS))
    ]
    return _write(folder / "caption_test.tsv", "\n".join(lines) + "\n")


def ofa_questions(folder: Path) -> Path:
    """OFA's VQA file: six columns, answers with their confidence."""
    lines = [
        "\t".join([f"{9 + i}", str(IDS[i]), "is it so?", "0.6|!+no&&1.0|!+yes", "&&".join(TAGS[i]), _base64_image(i)])
        for i in range(len(IDS))
    ]
    return _write(folder / "vqa_val.tsv", "\n".join(lines) + "\n")


def region_array(i: int) -> np.ndarray:
    """Region features of image i."""
    return np.random.default_rng(i).standard_normal((REGIONS + i, WIDTH)).astype("<f4")


def oscar(folder: Path) -> Path:
    """Oscar's ``val.yaml`` with features (and their ``.lineidx``), labels and captions; ids are text."""
    features, labels = [], []
    for i, name in enumerate(IDS):
        array = region_array(i)
        packed = {"num_boxes": len(array), "features": base64.b64encode(array.tobytes()).decode()}
        features.append(f"{name}\t{json.dumps(packed)}\n")
        labels.append(f"{name}\t{json.dumps([{'class': tag, 'conf': 0.9, 'rect': [0, 0, 9, 9]} for tag in TAGS[i]])}\n")
    _write(folder / "val.feature.tsv", "".join(features))
    _write(folder / "val.label.tsv", "".join(labels))
    for kind, rows in (("feature", features), ("label", labels)):
        starts = np.cumsum([0, *(len(r) for r in rows[:-1])])
        _write(folder / f"val.{kind}.lineidx", "".join(f"{start}\n" for start in starts))
    said = [
        {"image_id": str(name), "id": 5 * i + j, "caption": c}
        for i, name in enumerate(IDS)
        for j, c in enumerate(captions(i))
    ]
    _dump(folder / "val_caption.json", said)
    return _write(folder / "val.yaml", "feature: val.feature.tsv\nlabel: val.label.tsv\ncaption: val_caption.json\n")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def _dump(path: Path, value: object) -> Path:
    return _write(path, json.dumps(value))
