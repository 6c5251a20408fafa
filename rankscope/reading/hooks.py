"""Forward hooks that keep the chosen rows of each site and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from torch import Tensor, nn

from rankscope.errors import CheckpointError
from rankscope.reading.course import Course, Ended
from rankscope.sites import Site

LAST = -1
"""The last of a module's runs in one forward pass."""


@dataclass(frozen=True)
class Tap:
    """Where a site is read: a module, and whether what enters it or what it returns."""

    module: nn.Module
    """The module inside the model that is called."""
    entering: bool = False
    """Whether its first input is read, rather than its output."""
    channels_first: bool = False
    """Whether its features are dimension 1, as convolutions return them, rather than the last."""
    time_first: bool = False
    """Whether its columns are dimension 0 and its samples dimension 1."""
    turn: int | None = None
    """Which of the module's runs in one forward pass is read, from 0, or :data:`LAST`; None if it runs once."""
    grid_first: bool = False
    """The same for those that return a grid ``(b, d, h, w)``, but not for those that return tokens ``(b, t, d)``."""
    widths: frozenset[int] = frozenset()
    """The numbers of features that there are, where only they tell which dimension of ``(b, ·, ·, ·)`` is the features."""

    def features_last(self, hidden: Tensor) -> Tensor:
        """Hidden states with samples as their first dimension and features as their last."""
        hidden = hidden.transpose(0, 1) if self.time_first else hidden
        shape = hidden.shape
        first = (
            self.grid_first or (shape[1] in self.widths and shape[-1] not in self.widths) if hidden.ndim == 4 else False
        )
        return hidden.movedim(1, -1) if self.channels_first or first else hidden


def hidden_states(value: object) -> Tensor:
    """The hidden states in what a module takes or returns: a tensor, or the first tensor of a tuple or model output.

    Raises:
        CheckpointError: if there is no tensor in it.
    """
    while isinstance(value, Mapping | tuple | list) and len(value):
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"a site must return a tensor of hidden states, or a tuple that begins with one; got {type(value).__name__}"
        )
    return value


@contextmanager
def reading(
    taps: Mapping[Site, Tap],
    keep: Callable[[Site, Tensor], Tensor],
    *,
    again: set[Site] | None = None,
    course: Course | None = None,
    stop: bool = False,
) -> Iterator[dict[Site, Tensor]]:
    """Fill a dictionary with what each site gives during the forward passes inside the block.

    Args:
        taps: where each site is read.
        keep: the site and its hidden states → the rows to keep. Called inside the hook, so that what is not kept is freed.
        again: takes up the sites that run twice in one forward pass, of which the first is kept; without it they are refused.
        course: takes up the order in which the one forward pass inside the block reaches the sites.
        stop: whether that pass ends at the last site, where the course knows it; what follows in the block is left out.

    Raises:
        CheckpointError: if a site runs twice in one forward pass, so that its rows would be ambiguous.
    """
    found: dict[Site, Tensor] = {}
    runs: Counter[Site] = Counter()
    order: list[Site] = []
    handles = []
    whole = False

    def reached(site: Site, value: object) -> None:
        order.append(site)
        record(site, value)
        if stop and course is not None and course.ends(order):
            raise Ended

    def record(site: Site, value: object) -> None:
        tap = taps[site]
        runs[site] += 1
        if tap.turn not in (None, LAST, runs[site] - 1):
            return
        if site in found and tap.turn != LAST:
            if again is not None:
                again.add(site)
                return
            raise CheckpointError(f"the site {site} ran more than once in one forward pass; read another site")
        found[site] = keep(site, tap.features_last(hidden_states(value)))

    def entering(site: Site) -> Callable[..., None]:
        return lambda module, args, kwargs: reached(site, args or kwargs.get("hidden_states", kwargs))

    def leaving(site: Site) -> Callable[..., None]:
        return lambda module, args, output: reached(site, output)

    try:
        for site, tap in taps.items():
            if tap.entering:
                handles.append(tap.module.register_forward_pre_hook(entering(site), with_kwargs=True))
            else:
                handles.append(tap.module.register_forward_hook(leaving(site)))
        with suppress(Ended):
            yield found
            whole = True
    finally:
        for handle in handles:
            handle.remove()
    if whole and course is not None:  # now that the hooks are gone, those that are left are somebody else's
        course.learn(order)
