"""Probe sets: the ordered inputs of a run, with ids and a fingerprint; equal fingerprints mean comparable rows."""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload, runtime_checkable

from rankscope.data.files import is_file
from rankscope.data.intake import COPIED, Finding
from rankscope.data.sounds import Sound, decode_sound
from rankscope.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from rankscope.data.regions import Regions

MOST_PIXELS = 64 * 2**20
"""Images of more pixels are refused before they are decoded: a small file can claim a picture of any size."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats of image files that are opened, as Pillow calls them; each is decoded inside this process.

Whatever a file is called, Pillow looks at its first bytes. Left to choose, it would start Ghostscript for EPS, a program that
runs what the file says, and for other formats load decoders that nobody's pictures need. Data that are in one of those are
converted by their owner, once.
"""


@runtime_checkable
class Picture(Protocol):
    """A picture that is made or read when it is needed."""

    def open(self) -> Image:
        """The picture itself."""

    def digest(self) -> str:
        """A text that is equal for two pictures exactly if they are equal."""


class EncodedPicture(Protocol):
    """A :class:`Picture` kept as the bytes of an image file, which lie somewhere in a larger file."""

    @property
    @abstractmethod
    def where(self) -> str:
        """What the picture is called in messages."""

    @abstractmethod
    def encoded(self) -> bytes:
        """The bytes of the image file."""

    def open(self) -> Image:
        """The picture itself, decoded."""
        return decode_picture(self.encoded(), self.where)

    def digest(self) -> str:
        """The SHA-256, in hex, of the encoded bytes."""
        return hashlib.sha256(self.encoded()).hexdigest()


Known = dict[object, tuple[object, str]]
"""Digests of images and regions that many examples share, so that each is read once.

The key is a path, or the ``id`` of an object, which is kept beside its digest so that its ``id`` is not given out again."""


def _digest_once(shown: Path | Regions, digest: Callable[[], str], known: Known) -> str:
    key = shown if isinstance(shown, Path) else id(shown)
    if key not in known:
        known[key] = shown, digest()
    return known[key][1]


ASSISTANT = "assistant"
"""The role of the turns whose rows are ``answer``."""


class Turn(NamedTuple):
    """What one side of a conversation said."""

    role: str
    """``user``, ``assistant``, ``system``, or another that the chat template knows."""
    text: str
    """What was said."""


@dataclass(frozen=True)
class HeldPicture(EncodedPicture):
    """An image whose encoded bytes came with its record, as Parquet files hold them."""

    name: str
    """What it is called in messages."""
    data: bytes = field(repr=False)
    """The bytes of the image file."""

    @property
    def where(self) -> str:
        return self.name

    def encoded(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Example:
    """One input, and what a good output for it would be."""

    id: str
    """The name by which rows of two runs are matched, unique in a probe set."""
    text: str = ""
    """The prompt: a question, a text; empty if there is only an image."""
    image: Path | Picture | Image | None = None
    """The image, a file that holds it, or something that makes it; opened by :meth:`open_image` only."""
    targets: tuple[str, ...] = ()
    """Good outputs: the reference captions, the answer, or the answers of every annotator in their order."""
    label: int | None = None
    """The class, for classification."""
    regions: Regions | None = None
    """Features of image regions and their tags, for models that read those instead of pixels; read when needed."""
    turns: tuple[Turn, ...] = ()
    """The turns of a conversation before the target, which :attr:`text` joins; empty if the text is no conversation."""
    audio: Path | Sound | None = None
    """The sound, or the WAV file that holds it; opened by :meth:`open_audio` only."""
    about: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What else the file says about it (``image_id``, ``question_type``); not part of the fingerprint."""

    @property
    def target(self) -> str:
        """The most frequent target, the first of equally frequent ones; empty if there is none."""
        return Counter(self.targets).most_common(1)[0][0] if self.targets else ""

    def open_image(self) -> Image:
        """The image in RGB, decoded.

        Raises:
            DataError: if there is no image, or its file is missing, cannot be decoded or claims more than ``MOST_PIXELS``.
        """
        if self.image is None:
            raise DataError(f"example {self.id!r} has no image, and the model reads one; name its file in the data")
        if isinstance(self.image, Path):
            return decode_picture(self.image, f"the image of example {self.id!r}, {self.image}")
        image = self.image.open() if isinstance(self.image, Picture) else self.image
        return image.convert("RGB")

    def open_audio(self) -> Sound:
        """The sound, decoded.

        Raises:
            DataError: if there is none, or its file is missing or cannot be decoded.
        """
        if self.audio is None:
            raise DataError(
                f"example {self.id!r} has no sound, and the model reads one; name its file in the data (audio)"
            )
        if isinstance(self.audio, Path):
            return decode_sound(self.audio, f"the sound of example {self.id!r}, {self.audio.name}")
        return self.audio

    def digest(self, known: Known | None = None) -> str:
        """The SHA-256, in hex, of the id, text, targets, label, image, regions and sound.

        Args:
            known: digests of the image files and regions that were read before; the example's own are added.
        """
        known = {} if known is None else known
        image = (
            _digest_once(self.image, lambda: _image_digest(self), known)
            if isinstance(self.image, Path)
            else _image_digest(self)
        )
        parts = [self.id, self.text, *self.targets, repr(self.label), image]
        parts += [_digest_once(self.regions, self.regions.digest, known)] if self.regions is not None else []
        parts += [part for turn in self.turns for part in turn]
        parts += [_sound_digest(self)] if self.audio is not None else []
        # Each part follows its length, so that no two different lists of parts are the same text.
        return hashlib.sha256("".join(f"{len(p.encode())}:{p}" for p in parts).encode()).hexdigest()


def decode_picture(source: Path | bytes, what: str) -> Image:
    """The picture in a file, or in the bytes of one, decoded to RGB; ``what`` names it in messages.

    Raises:
        DataError: if the file is missing, is not an image in one of :data:`FORMATS`, is cut short, or claims more than
            ``MOST_PIXELS``.
    """
    from PIL import Image, UnidentifiedImageError

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(
                    f"{image.width} × {image.height} pixels; at most {MOST_PIXELS} are read"
                )
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(
            f"{what} is not there: {source!s}; give the folder of the images, or check the file name"
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{what} cannot be decoded: its format is not one of those that are opened, which are {', '.join(FORMATS)}; "
            "convert or replace it"
        ) from None
    except (OSError, SyntaxError, ValueError, *bombs) as error:
        raise DataError(f"{what} cannot be decoded: {error}; replace it") from error


def _image_digest(example: Example) -> str:
    image = example.image
    if image is None:
        return ""
    if isinstance(image, Path):
        if not is_file(image):
            raise DataError(f"the image of example {example.id!r} is not there: {image}")
        return hashlib.sha256(image.read_bytes()).hexdigest()
    if isinstance(image, Picture):
        return image.digest()
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def _sound_digest(example: Example) -> str:
    sound = example.audio
    if isinstance(sound, Path) and not sound.is_file():
        raise DataError(f"the sound of example {example.id!r} is not there: {sound}")
    return (
        hashlib.sha256(sound.read_bytes()).hexdigest() if isinstance(sound, Path) else sound.digest() if sound else ""
    )


@dataclass(frozen=True, eq=False)
class ProbeSet(Sequence[Example]):
    """The ordered inputs of a run."""

    name: str
    """What was opened, as a user would type it."""
    examples: Sequence[Example]
    """The inputs, in order."""
    notices: tuple[str, ...] = ()
    """What was repaired or left out while reading, in words, with counts."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of :func:`rankscope.open_data` with which it was opened, as plain values; with its name they open it again."""
    known: Known = field(default_factory=dict, repr=False)
    """Digests of the files that were read already."""

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise DataError(f"{self.name} holds no examples")
        twice = [i for i, n in Counter(self.ids).items() if n > 1]
        if twice:
            raise DataError(
                f"{self.name} has {len(twice)} ids that occur more than once (first {', '.join(map(repr, twice[:5]))}); "
                "ids must be unique, so that rows of two runs can be matched"
            )

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> ProbeSet: ...

    def __getitem__(self, index: int | slice) -> Example | ProbeSet:
        if isinstance(index, slice):
            return replace(self, examples=self.examples[index])
        return self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(example.id for example in self.examples)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hex, over ids and contents in their order; it reads every image once."""
        whole = hashlib.sha256()
        for example in self.examples:
            whole.update(bytes.fromhex(example.digest(self.known)))
        return whole.hexdigest()

    def distinct(self, reads: Callable[[Example], Example]) -> ProbeSet:
        """Every input once: without the examples of which a model reads what it has read already, with one notice.

        Args:
            reads: from an example to an example of what the model reads of it.
        """
        first, copies, kept = dict[str, str](), Finding(COPIED), []
        for example in self.examples:
            earlier = first.setdefault(replace(reads(example), id="").digest(self.known), example.id)
            if earlier == example.id:
                kept.append(example)
            else:
                copies.add(f"{example.id!r} is {earlier!r}")
        return replace(self, examples=kept, notices=(*self.notices, str(copies))) if copies.count else self

    def first(self, n: int) -> ProbeSet:
        """The first ``n`` examples.

        Raises:
            DataError: if there are fewer, or ``n`` is not positive.
        """
        if not 0 < n <= len(self):
            raise DataError(f"{self.name} holds {len(self)} examples; {n} were asked for")
        return self if n == len(self) else self[:n]
