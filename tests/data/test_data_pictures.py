"""Which image files are opened: those decoded inside this process, and none that starts a program."""

from __future__ import annotations

import ast
import io
import os
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

import rankscope
from rankscope.data.folder import SUFFIXES
from rankscope.data.probes import FORMATS, decode_picture
from rankscope.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%Pages: 1\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trace that a program called gs leaves if it is started."""
    trace, folder = tmp_path / "started", tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # or Pillow remembers that there was none
    return trace


def test_a_picture_never_starts_a_program(tmp_path: Path, ghostscript: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(EPS)
    for source in (tmp_path / "photo.jpg", EPS):
        with pytest.raises(
            DataError, match=r"photo.* its format is not one of those that are opened, which are JPEG, PNG"
        ):
            decode_picture(source, "photo")
    assert not ghostscript.exists()
    with Image.open(io.BytesIO(EPS)) as image, suppress(OSError):  # what Pillow does if it may choose
        image.load()
    assert ghostscript.exists()


def test_the_formats_meant_are_opened() -> None:
    picture = Image.new("RGB", (3, 2), (250, 10, 20))
    for form in FORMATS:
        picture.save(file := io.BytesIO(), form)
        assert decode_picture(file.getvalue(), form).size == (3, 2)
    picture.save(file := io.BytesIO(), "MPO", save_all=True, append_images=[picture])  # as some phones write JPEG
    assert decode_picture(file.getvalue(), "MPO").size == (3, 2)
    assert {Image.registered_extensions()[suffix] for suffix in SUFFIXES} == set(FORMATS)
    picture.save(file := io.BytesIO(), "TGA")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_picture(file.getvalue(), "a TGA file")


def test_every_opening_of_an_image_names_its_formats() -> None:
    calls = [
        node
        for path in Path(rankscope.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert len(calls) >= 1
    assert all("formats" in {k.arg for k in call.keywords} for call in calls)
