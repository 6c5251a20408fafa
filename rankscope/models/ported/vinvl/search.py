"""The two searches over a :class:`~rankscope.models.ported.vinvl.generation.Decoder`: word by word, and with beams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NonFinite
from rankscope.models.ported.vinvl.generation import CaptionOutput, Decoder, Decoding

_NEVER = -1e9
"""The score of a beam that does not exist yet: all but the first, before the first word."""


def step_search(decoder: Decoder, captions: Tensor, decoding: Decoding) -> CaptionOutput:
    """The most likely word at each step, or a drawn one, after ``(b, 1)`` first words.

    Raises:
        NonFinite: if a word is to be drawn and a score is NaN.
    """
    alive = torch.ones_like(captions[:, 0], dtype=torch.bool)
    total = torch.zeros(len(captions), device=captions.device)
    length = torch.zeros_like(total)
    while captions.shape[1] < decoding.max_length and alive.any():
        scores = decoder.scores(captions)
        if decoding.do_sample:
            if torch.isnan(scores).any():
                raise NonFinite("the scores of a sampled word are NaN")
            scores = scores / decoding.temperature
            word = torch.multinomial(scores.softmax(-1), 1)[:, 0]
        else:
            word = scores.argmax(-1)
        total += scores.log_softmax(-1).gather(1, word[:, None])[:, 0] * alive
        length += alive
        word = torch.where(alive, word, decoding.pad)
        captions = torch.cat([captions, word[:, None]], dim=1)
        alive = alive & (word != decoding.eos)
    if captions.shape[1] == decoding.max_length:
        captions[alive, -1] = decoding.eos
    return CaptionOutput(sequences=_padded(captions, decoding), sequences_scores=total / length)


class _Step(NamedTuple):
    """One continuation of a beam."""

    total: float
    word: int
    beam: int


@dataclass
class _Finished:
    """The best finished captions of one image, best first."""

    keep: int
    decoding: Decoding
    found: list[tuple[float, Tensor]] = field(default_factory=list)
    complete: bool = False
    """Whether no open caption can still enter."""

    def advance(self, captions: Tensor, totals: list[float], index: list[int], vocabulary: int) -> list[_Step]:
        """Enter the continuations that end; the ``beams`` best of the others go on.

        Args:
            captions: ``(beams, t)`` open captions.
            totals: sums of log-probabilities of the continuations, best first.
            index: ``beam · vocabulary + word`` of each.
        """
        length, penalty = captions.shape[1], self.decoding.length_penalty
        bound = totals[0] / (self.decoding.max_length - 1) ** penalty
        self.complete = self.complete or (len(self.found) == self.keep and self.found[-1][0] >= bound)
        live: list[_Step] = []
        for total, number in zip(totals, index, strict=True):
            if self.complete or len(live) == len(captions):
                break
            beam, word = divmod(number, vocabulary)
            if word == self.decoding.eos or length + 1 == self.decoding.max_length:
                self._add(total / length**penalty, captions[beam])
            else:
                live.append(_Step(total, word, beam))
        return live + [_Step(0.0, self.decoding.pad, 0)] * (len(captions) - len(live))

    def _add(self, score: float, caption: Tensor) -> None:
        """Enter ``(t,)`` words, without the end, if they are among the best."""
        self.found = sorted([*self.found, (score, caption)], key=lambda pair: -pair[0])[: self.keep]


def beam_search(decoder: Decoder, captions: Tensor, decoding: Decoding) -> CaptionOutput:
    """The best captions among ``num_beams`` that grow side by side; ``captions`` is ``(b · beams, 1)``.

    Twice as many continuations as beams are drawn, so that those which end leave enough to go on with. At the last
    step every continuation counts as ended, and the end word takes its place.
    """
    beams, images = decoding.num_beams, len(captions) // decoding.num_beams
    best = [_Finished(decoding.num_return_sequences, decoding) for _ in range(images)]
    totals = torch.full((images, beams), _NEVER, device=captions.device)
    totals[:, 0] = 0
    while captions.shape[1] < decoding.max_length:
        logs = decoder.scores(captions).log_softmax(-1).view(images, beams, -1)
        sums, flat = (logs + totals[:, :, None]).flatten(1).topk(2 * beams, dim=1)
        rows = zip(best, captions.view(images, beams, -1), sums.tolist(), flat.tolist(), strict=True)
        steps = [done.advance(open_, total, index, logs.shape[2]) for done, open_, total, index in rows]
        totals = torch.tensor([[step.total for step in live] for live in steps], device=captions.device)
        words = torch.tensor([step.word for live in steps for step in live], device=captions.device)
        order = torch.tensor([i * beams + step.beam for i, live in enumerate(steps) for step in live]).to(words.device)
        captions = torch.cat([captions[order], words[:, None]], dim=1)
        if all(done.complete for done in best):
            break
        decoder.reorder(order)
    chosen = [pair for done in best for pair in done.found]
    ended = [torch.cat([caption, caption.new_tensor([decoding.eos])]) for _, caption in chosen]
    sequences = torch.cat([_padded(caption[None], decoding) for caption in ended])
    scores = torch.tensor([score for score, _ in chosen], device=captions.device)
    return CaptionOutput(sequences=sequences, sequences_scores=scores)


def _padded(captions: Tensor, decoding: Decoding) -> Tensor:
    """``(b, t)`` captions to ``(b, max_length)``."""
    return torch.nn.functional.pad(captions, (0, decoding.max_length - captions.shape[1]), value=decoding.pad)
