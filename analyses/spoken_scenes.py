"""Short scenes of sound, made from numbers: tones, sweeps, bursts of noise and spoken digits, one after another, with what is said of them.

A scene has one to three *parts*, no two alike: ``two short low tones``, ``a rising sweep``, ``the digit seven``. A digit is a vowel
that glides between two pairs of formants, which shape the harmonics of a voice, with noise before and after it where the word has
a hiss or a stop. There are two *looks*. In that of pre-training a low voice speaks, tones are pure, and captions tell the parts in their
order (``a short low tone , then the digit seven``). In that of tuning a high voice speaks, tones are rich in overtones, there is noise
behind, and captions tell backwards, in words that pre-training knows (``digit seven after short low tone , two sounds``).

Sounds are WAV files beside JSON lines, as the readers of rankscope take them. Which scene is which follows from the name of the
data and a number; no two sets share a seed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

import rankscope
from rankscope.data import ProbeSet
from rankscope.writing import write_output

Wave = NDArray[np.float64]
RATE = 16_000
SECONDS = 2
"""The longest scene."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PITCHES = {"low": 220.0, "middle": 520.0, "high": 1250.0}
LONG, SHORT, SWEEP, NOISE, WORD, GAP = 0.30, 0.12, 0.20, 0.14, 0.28, 0.09
"""Seconds of each kind of event, and between two."""
BEFORE, OTHER = "old look", "questions"
"""The captions and the questions of pre-training."""
PROMPT = "describe the sound :"

FRAME = 64
"""Samples for which the formants of a voice stand still."""
_SPOKEN: dict[str, tuple[float, tuple[float, float], tuple[float, float], float]] = {
    "zero": (4800, (400, 1800), (480, 900), 0), "one": (0, (350, 750), (700, 1250), 0),
    "two": (3300, (320, 1600), (320, 950), 0), "three": (6200, (330, 1300), (290, 2300), 0),
    "four": (2600, (560, 850), (520, 1050), 0), "five": (2900, (760, 1200), (380, 2100), 2900),
    "six": (5400, (400, 2000), (400, 1950), 5400), "seven": (5400, (560, 1800), (460, 1200), 0),
    "eight": (0, (500, 1950), (330, 2250), 3600), "nine": (0, (720, 1200), (320, 2100), 0),
}  # fmt: skip
"""Of each word the centre of the noise before its vowel in Hz (0 for none), the first two formants at both ends, the noise after."""


@dataclass(frozen=True)
class Part:
    """One thing that is heard, or heard twice."""

    kind: str
    """``low``, ``middle`` or ``high`` for a tone; ``rising`` or ``falling``; ``noise``; or a digit's name."""
    times: int = 1
    """How often it is heard in a row."""
    long: bool = False
    """Whether a tone is long."""

    def named(self, article: bool = True) -> str:
        """What it is called, with its article or without."""
        if self.kind in DIGITS:
            return f"{'the ' * article}digit {self.kind}"
        noun = {"noise": "noise burst", "rising": "rising sweep", "falling": "falling sweep"}.get(
            self.kind, f"{'long' if self.long else 'short'} {self.kind} tone"
        )
        return f"{NUMBERS[self.times]} {noun}s" if self.times > 1 else f"{'a ' * article}{noun}"


@dataclass(frozen=True)
class Spoken:
    """A scene, its sound, and what is heard in each stretch of it."""

    parts: tuple[Part, ...]
    """The parts in their order."""
    wave: Wave
    """``(t,)`` samples between -1 and 1."""
    heard: tuple[tuple[str, float, float], ...]
    """The kind of each event, and its begin and end in seconds."""


# %% Sounds.
def spoken(draw: Random, *, tuned: bool) -> Spoken:
    """A scene in the look of pre-training, or in that of tuning."""
    parts: list[Part] = []
    wanted = draw.choice((1, 2, 2, 3, 3, 3))
    while len(parts) < wanted:
        part = _part(draw)
        parts += [part] * all(part.kind != other.kind for other in parts)
    noise = np.random.default_rng(draw.getrandbits(63))
    pieces, heard, now = [np.zeros(int(RATE * (lead := 0.04 + 0.1 * draw.random())))], [], lead
    voice = draw.uniform(185, 225) if tuned else draw.uniform(95, 125)
    for kind, seconds in ((p.kind, _seconds(p)) for p in parts for _ in range(p.times)):
        length = seconds * draw.uniform(0.92, 1.08)
        event = _event(kind, length, voice, draw.uniform(0.96, 1.04), noise, tuned=tuned)
        heard.append((kind, now, now + len(event) / RATE))
        pieces += [event * draw.uniform(0.7, 1.0), np.zeros(int(RATE * GAP * draw.uniform(0.9, 1.1)))]
        now += (len(event) + len(pieces[-1])) / RATE
    wave = np.concatenate(pieces)
    wave = 0.5 * wave + (0.02 if tuned else 0.004) * noise.normal(size=len(wave))
    assert len(wave) <= SECONDS * RATE
    return Spoken(tuple(parts), np.clip(wave, -1, 1), tuple(heard))


def _part(draw: Random) -> Part:
    kind = draw.choice((*PITCHES, *PITCHES, "rising", "falling", "noise", *(draw.choice(DIGITS) for _ in range(6))))
    if kind in DIGITS:
        return Part(kind)
    long = kind in PITCHES and draw.random() < 0.5
    return Part(kind, 1 if long or draw.random() < 0.6 else 2, long)


def _seconds(part: Part) -> float:
    if part.kind in PITCHES:
        return LONG if part.long else SHORT
    return {"noise": NOISE, "rising": SWEEP, "falling": SWEEP}.get(part.kind, WORD)


def _event(kind: str, seconds: float, voice: float, off: float, noise: np.random.Generator, *, tuned: bool) -> Wave:
    """One event, faded in and out."""
    t = np.arange(int(RATE * seconds)) / RATE
    if kind == "noise":
        wave = 0.5 * noise.normal(size=len(t))
    elif kind in _SPOKEN:
        wave = _word(kind, t, voice, 1.15 if tuned else 1.0, noise)
    else:
        ends = {"rising": (300.0, 1800.0), "falling": (1800.0, 300.0)}.get(kind, (PITCHES.get(kind, 0.0),) * 2)
        frequency = off * np.geomspace(*ends, len(t))
        phase = 2 * np.pi * np.cumsum(frequency) / RATE
        overtones = (1, 3, 5) if tuned else (1,)  # those of a square wave
        wave = sum((np.sin(k * phase) / k for k in overtones), np.zeros(len(t)))
    fade = np.minimum(1, np.minimum(t, t[-1] - t) / 0.012)
    return wave * fade / max(1e-3, float(np.abs(wave).max()))


def _word(name: str, t: Wave, voice: float, size: float, noise: np.random.Generator) -> Wave:
    """A digit: harmonics of a voice under three gliding formants, between noises."""
    before, start, end, after = _SPOKEN[name]
    share = t / t[-1]
    phase = 2 * np.pi * np.cumsum(voice * (1.08 - 0.16 * share)) / RATE
    k = np.arange(1, int(3800 / voice))[:, None]
    gain = np.full((len(k), len(t[::FRAME])), 0.01)
    for weight, a, b in zip((1.0, 0.7, 0.3), (*start, 2700), (*end, 2800), strict=True):
        formant = size * (a + (b - a) * share[::FRAME])
        # A resonance of bandwidth 120 Hz passes a harmonic by 1 / (1 + (distance / half of it)²).
        gain += weight / (1 + ((k * voice - formant) / 60) ** 2)
    wave = (np.repeat(gain, FRAME, axis=1)[:, : len(t)] / np.sqrt(k) * np.sin(k * phase)).sum(0)
    wave /= np.abs(wave).max()
    vowel = np.clip((share - (0.25 if before else 0)) / 0.08, 0, 1) * np.clip(
        ((0.75 if after else 1.01) - share) / 0.08, 0, 1
    )
    hiss = np.zeros(len(t))
    for centre, there in ((before, share < 0.28), (after, share > 0.78)):
        if centre:
            carrier = np.cos(2 * np.pi * centre * size * t + np.cumsum(noise.normal(size=len(t))) * 0.35)
            hiss += 0.5 * carrier * there
    return wave * vowel + hiss


# %% What is said.
def caption(scene: Spoken) -> str:
    """The caption in the look of pre-training."""
    return " , then ".join(part.named() for part in scene.parts)


def captions(scene: Spoken) -> tuple[str, str]:
    """The two captions in the look of tuning."""
    told = " after ".join(part.named(article=False) for part in reversed(scene.parts))
    return f"{told} , {_count(scene)}", f"{_count(scene)} , {told}"


def _count(scene: Spoken) -> str:
    count = len(scene.heard)
    return f"{NUMBERS[count]} sound{'s' * (count > 1)}"


def question(scene: Spoken, draw: Random) -> tuple[str, str]:
    """A question of pre-training and its answer."""
    parts, said = scene.parts, [part.kind for part in scene.parts if part.kind in DIGITS]
    place = draw.randrange(len(parts))
    where = f"after {parts[place - 1].named()}" if place else "first"
    asked: tuple[Callable[[], tuple[str, str]], ...] = (
        lambda: ("how many sounds ?", _count(scene)),
        lambda: ("which digits ?", " and ".join(said) or "no digit"),
        lambda: ("what is first ?", parts[0].named(article=False)),
        lambda: ("what is last ?", parts[-1].named(article=False)),
        lambda: (f"where is {parts[place].named()} ?", where),
    )
    return draw.choice(asked)()


def words() -> list[str]:
    """Every word that is ever said, in alphabetical order."""
    draw, found = Random("words"), set(PROMPT.split())
    kinds = (*PITCHES, "rising", "falling", "noise", *DIGITS)
    for part in (Part(kind, times, long) for kind in kinds for times in (1, 2) for long in (False, True)):
        scene = Spoken((part, Part("seven")), np.zeros(1), (("low", 0.0, 0.1),) * draw.randint(1, 6))
        found.update(word for text in (caption(scene), *captions(scene)) for word in text.split())
        found.update(word for _ in range(30) for text in question(scene, draw) for word in text.split())
    return sorted(found | set(NUMBERS))


# %% Files.
@dataclass(frozen=True)
class SpokenData:
    """Sets of data in a folder, which are made when they are asked for."""

    folder: Path
    """Where WAV files and JSON lines are."""

    def __call__(self, name: str, n: int) -> ProbeSet:
        """The first ``n`` examples of ``train``, ``validation``, ``test``, :data:`BEFORE` or :data:`OTHER`; fewer are the first of more."""
        listed = self.folder / name.replace(" ", "-") / f"{n}.jsonl"
        if not listed.exists():
            listed.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(self._example(name, i, listed.parent)) for i in range(n)]
            write_output(listed, ("\n".join(lines) + "\n").encode())
        return _opened(listed)

    def _example(self, name: str, index: int, into: Path) -> dict[str, object]:
        draw = Random(f"{name}/{index}")
        scene = spoken(draw, tuned=name not in (BEFORE, OTHER))
        held = io.BytesIO()
        wavfile.write(held, RATE, np.round(scene.wave * (2**15 - 1)).astype(np.int16))
        write_output(into / f"{index}.wav", held.getvalue())
        text, targets = PROMPT, list(captions(scene))
        if name == BEFORE:
            targets = [caption(scene)]
        elif name == OTHER:
            text, answer = question(scene, draw)
            targets = [answer]
        elif name == "train":  # one caption of each, as a small task has
            targets = [draw.choice(targets)]
        return {"id": str(index), "text": text, "audio": f"{index}.wav", "targets": targets}


@cache
def _opened(listed: Path) -> ProbeSet:
    return rankscope.open_data(listed)


def stretches(scenes: Sequence[Spoken], seconds: float, count: int) -> NDArray[np.int64]:
    """``(b, count)`` what is heard in the middle of each stretch of so many seconds: 0 for silence, else 1 and the place in ``KINDS``."""
    found = np.zeros((len(scenes), count), dtype=np.int64)
    middles = (np.arange(count) + 0.5) * seconds
    for row, scene in zip(found, scenes, strict=True):
        for kind, begin, end in scene.heard:
            row[(middles >= begin) & (middles < end)] = 1 + KINDS.index(kind)
    return found


KINDS = (*PITCHES, "rising", "falling", "noise", *DIGITS)
"""What can be heard."""
