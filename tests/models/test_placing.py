"""Where the placeholder of an image is put: as the processor wants it, and never twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import ProcessorMixin

from rankscope.models.inputs.placing import placings


class Expands:
    """A processor that makes the rows of an image out of a placeholder."""

    image_token = "<row>"

    def replace_image_token(self) -> str:
        """The rows."""
        return ""


class Asks(Expands):
    """One whose placeholder is another token than its rows."""

    image_placeholder_token = "<image>"


class Tells(ProcessorMixin):
    """One that counts placeholders and tells only when it is called."""

    image_token = "<image>"

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("processor", "text", "places", "want"),
    [
        (Expands(), "a cat", False, ["[<row>]\na cat"]),
        (Expands(), "a <row> cat", False, ["a <row> cat"]),
        (Expands(), "a cat", True, ["a cat"]),
        (Asks(), "a cat", False, ["[<image>]\na cat"]),
        (Tells(), "a cat", False, ["a cat", "[<image>]\na cat"]),
        (Tells(), "<image> a cat", False, ["<image> a cat"]),
        (SimpleNamespace(), "a cat", False, ["a cat"]),
    ],
)
def test_the_placeholder_is_put_where_the_text_has_none(
    processor: Any, text: str, places: bool, want: list[str]
) -> None:
    assert list(placings(processor, text, frame=("[", "]"), after="\n", places=places)) == want
