"""What a transformers model itself returns as its hidden states, beside what its sites give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.reading.hooks import hidden_states, reading
from rankscope.reading.rounding import apart, rounding
from rankscope.sites import Site


def not_told(model: nn.Module, call: Callable[[], object]) -> dict[Site, str]:
    """The sites whose hidden states are not those that the model returns with ``output_hidden_states``.

    The model returns a stack's input, the output of each block, and, in most families in place of the last, the output of
    the norm after it. Stacks of which it returns no hidden states are left out.

    Args:
        model: the tuned model.
        call: makes one forward pass of one sample, so that there is no padding, which some models set to zero.

    Returns:
        The sites that differ, each with the reason in words.
    """
    base = unwrapped(model)
    there = {name: s for name, s in stacks(model).items() if s.blocks or s.stage}
    if not isinstance(base, PreTrainedModel) or not there:
        return {}
    taps = {site: tap for stack in there.values() for site, tap in stack.taps.items()}
    again: set[Site] = set()
    keep = reading(taps, lambda _, hidden: hidden.clone(), again=again)
    with torch.inference_mode(), _telling(base) as told, keep as found:
        call()
    faults: dict[Site, str] = {}
    for stack in there.values():
        if silent := [site for site in stack.sites if site not in found]:
            faults |= dict.fromkeys(silent, "the model computes it without calling its module, so it cannot be seen")
            continue
        outputs = _outputs(base, stack, told)
        given = next((states for output in outputs if (states := output.get("hidden_states"))), ())
        states = [None if state is None else hidden_states(state) for state in given]
        if stack.stage:
            faults |= _compared_stage(stack, found, states)
        elif states:
            lasts = [output["last_hidden_state"] for output in outputs if output.get("last_hidden_state") is not None]
            faults |= _compared(stack, found, states, lasts)
    return faults | dict.fromkeys(again, "its module runs more than once in one forward pass")


@contextmanager
def _telling(base: nn.Module) -> Iterator[dict[nn.Module, Mapping[str, Any]]]:
    """Every inner model returns its hidden states, and what each returned is kept by module."""
    told: dict[nn.Module, Mapping[str, Any]] = {}
    models = [m for m in base.modules() if isinstance(m, PreTrainedModel)]
    configs: dict[int, Any] = {id(m.config): m.config for m in models}
    before = {key: config.output_hidden_states for key, config in configs.items()}

    def keep(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Mapping):
            told[module] = output

    handles = [m.register_forward_hook(keep) for m in models]
    try:
        for config in configs.values():
            config.output_hidden_states = True
        yield told
    finally:
        for handle in handles:
            handle.remove()
        for key, config in configs.items():
            config.output_hidden_states = before[key]


def _outputs(base: nn.Module, stack: Stack, told: Mapping[nn.Module, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the models around a stack returned, the innermost first.

    An outer model of the same configuration returns the same hidden states, and may add a norm after them; one of another
    configuration returns another stack's.
    """
    first = stack.output if stack.stage else stack.blocks[0]
    path = next((name for name, module in base.named_modules() if module is first), "")
    steps = path.split(".")
    around = [base.get_submodule(".".join(steps[:end])) for end in range(len(steps))]
    models = [m for m in around if isinstance(m, PreTrainedModel)]
    return [told[m] for m in reversed(models) if m.config is models[-1].config and m in told]


def _compared(
    stack: Stack, found: Mapping[Site, Tensor], states: Sequence[Tensor | None], lasts: Sequence[Tensor]
) -> dict[Site, str]:
    """The sites of one stack that differ from the hidden states, and the last ones, that the models around it returned.

    Towers of which an outer model takes a few layers return None for the others.
    """
    if stack.channels_first:
        states = [state.movedim(1, -1) if state is not None and state.ndim > 3 else state for state in states]
    count = len(stack.blocks)
    # The states begin with the stack's input, save in families (RWKV) that return what comes out of the blocks alone.
    begin = int(
        _any(found[Site(stack.name, "embed")], states[:1]) or not _any(found[Site(stack.name, "0")], states[:1])
    )
    if len(states) - begin not in (count, count + 1):
        reason = f"the model returns {len(states)} hidden states of {stack.name}, and {count} blocks were found"
        return dict.fromkeys(stack.sites, reason)
    ends = [states[-1], *lasts]
    expected = {"final": ends} | {str(i): [states[i + begin]] for i in range(count)}
    if begin:
        expected["embed"] = [states[0]]
    if stack.final is None or _any(found[Site(stack.name, "final")], ends):
        # The last block's own output is not returned where the norm after it is: the other blocks vouch for it.
        del expected[str(count - 1)]
    faults: dict[Site, str] = {}
    for site in stack.sites:
        there = [state for state in expected.get(site.point, ()) if state is not None]
        if there and not _any(found[site], there):
            how = _words(found[site], there[0])
            faults[site] = f"it is not the hidden state that {type(stack.owner).__name__} returns there ({how})"
    return faults


def _compared_stage(stack: Stack, found: Mapping[Site, Tensor], states: Sequence[Tensor | None]) -> dict[Site, str]:
    """The site of a stage, if it is none of the hidden states that the model returned, or its features are not known."""
    (site,) = stack.sites
    hidden = found[site]
    # Read first or last by which is a known width: if both are, or neither, the wrong one might be taken for the features.
    widths = {dim for dim in (1, -1) if hidden.shape[dim] in stack.widths}
    if hidden.ndim > 3 and not stack.grid_first and len(widths) != 1:
        return {site: f"its shape is {tuple(hidden.shape)}, and which of these are the features is not known"}
    (tap,) = stack.taps.values()
    if states and not _any(hidden, [tap.features_last(state) for state in states if state is not None]):
        return {site: f"it is none of the hidden states that {type(stack.owner).__name__} returns"}
    return {}


def _any(hidden: Tensor, states: Sequence[Tensor | None]) -> bool:
    return any(state is not None and apart(hidden, state) <= rounding(hidden) for state in states)


def _words(hidden: Tensor, state: Tensor) -> str:
    if hidden.shape != state.shape:
        return f"shape {tuple(hidden.shape)}, and it returns {tuple(state.shape)}"
    return f"they are {apart(hidden, state):.2g} of their size apart"
