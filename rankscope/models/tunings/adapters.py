"""An adapter's files: its configuration, its tensors, and the errors when they do not fit a base."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

from rankscope.checkpoint import Tuning
from rankscope.checkpoint.files import ADAPTER_WEIGHTS, weight_files
from rankscope.errors import CheckpointError
from rankscope.models.tensor_files import read_tensors
from rankscope.models.tunings.bottleneck import register_bottleneck

_UNREAD = {
    **dict.fromkeys(
        ("multitask_prompt_tuning", "poly"),
        "needs a task for every sample; a probe set has none, so it is not read",
    ),
    "xlora": "mixes adapters of other folders; give those, one at a time or as a list",
    "shadow": "passes the states of a second model between the blocks together with the first one's, which no site can tell apart",
}
"""Kinds of adapters that cannot be read, and why."""


_OUTSIDE = ("lora", "ia3", "bottleneck")
"""Kinds that take what the base's layer gives and, as they come, never read its weights."""
_SAME_ON_ANY = (
    "adalora", "adaption_prompt", "beft", "boft", "c3a", "deft", "delora", "fourierft", "gralora", "lily", "ln_tuning", "loha",
    "lokr", "oft", "pvera", "randlora", "road", "trainable_tokens", "unilora", "vblora", "vera", "waveft",
)  # fmt: skip
"""Further kinds that compute the same beside earlier adapters as on the base that those were merged with."""
_UNMERGED = ("adaption_prompt", "beft", "bottleneck", "lily")
"""Kinds that PEFT cannot merge into the weights (BEFT into layers without biases)."""
_BESIDE = ("gaussian", "orthogonal", "eva", "mica")
"""Initialisations of a LoRA, by name, that leave the base's weights as they are."""
_LOST = {
    "pissa_niter_": "a randomised decomposition of the base's weights, which comes out differently each time",
    "corda": "the covariance of what passed through the base on its data",
    "lora_ga": "the gradients of its task",
}
"""Initialisations that took something out of the base's weights which no file holds, by how their names begin, and from what."""
_OF_A_SAVE = ("auto_mapping", "peft_type", "peft_version")
"""Entries that say how an adapter was saved and not what it does."""


def ignored_entries(tuning: Tuning, config: peft.PeftConfig) -> tuple[str, ...]:
    """Entries of an adapter's configuration that are set and that this PEFT does not know, as ``name=value``."""
    known = {field.name for field in fields(config)} | set(_OF_A_SAVE)
    return tuple(
        f"{name}={str(value)[:60]}"
        for name, value in sorted(tuning.config.items())
        if name not in known and value not in (None, False, [], {}, "")
    )


def peft_config(tuning: Tuning) -> peft.PeftConfig:
    """PEFT's configuration of an adapter; entries that this PEFT does not know are left out.

    Raises:
        CheckpointError: if this PEFT does not know the kind of adapter, or it cannot be read.
    """
    register_bottleneck()
    kinds = {str(getattr(kind, "value", kind)).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if tuning.kind in _UNREAD:
        raise CheckpointError(f"{tuning.path} is an adapter of the kind {tuning.kind!r}, which {_UNREAD[tuning.kind]}")
    if tuning.kind not in kinds:
        raise CheckpointError(
            f"{tuning.path} is an adapter of the kind {tuning.kind!r}, which PEFT {peft.__version__} does not know; it knows "
            f"{', '.join(sorted(kinds))}"
        )
    known = {field.name for field in fields(kinds[tuning.kind]) if field.init} - {"auto_mapping"}
    try:
        config = kinds[tuning.kind](**{k: v for k, v in tuning.config.items() if k in known and k != "peft_type"})
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{tuning.path / 'adapter_config.json'} is no configuration of {tuning.kind}: {error}"
        ) from error
    config.inference_mode = True
    return config


def rewrites_base(tuning: Tuning) -> bool:
    """Whether attaching an adapter changes the base's weights: its factors start as a part of them (PiSSA, OLoRA, CorDA, …)."""
    start = tuning.config.get("init_lora_weights")
    return isinstance(start, str) and start not in _BESIDE


def reads_base(tuning: Tuning) -> bool:
    """Whether what an adapter does depends on the weights of its layers, beyond what they give for an input (DoRA, OFT, PiSSA)."""
    return tuning.kind not in _OUTSIDE or bool(tuning.config.get("use_dora")) or rewrites_base(tuning)


def differs_on_merged(tuning: Tuning) -> bool:
    """Whether an adapter is another model beside earlier adapters than on the base that those were merged with."""
    return reads_base(tuning) and tuning.kind not in _SAME_ON_ANY


def merges(tuning: Tuning) -> bool:
    """Whether an adapter can be merged into the weights of its layers."""
    return tuning.kind not in _UNMERGED


def check_reproducible(tuning: Tuning) -> None:
    """Refuse an adapter whose base was rewritten in a way that cannot be repeated; PEFT would fail on it, or say nothing.

    Raises:
        CheckpointError: for a LoRA that began as a randomised PiSSA, a CorDA or a LoRA-GA.
    """
    start = str(tuning.config.get("init_lora_weights"))
    for name, source in _LOST.items():
        if start.startswith(name):
            raise CheckpointError(
                f"{tuning.path} began as {start}, which takes a part out of the base's weights that follows from {source}: the part "
                "is not in the file, so that the tuned model cannot be made again. Save it with PEFT's "
                "path_initial_model_for_weight_conversion (which makes a plain LoRA of it), or merge it where it was trained"
            )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter, on the CPU.

    Raises:
        CheckpointError: if the file is damaged, or a tensor holds NaN or infinite numbers.
        UnsafeError: if it is a pickle of more than tensors.
    """
    return read_tensors(weight_files(folder, ADAPTER_WEIGHTS)[0])


def check_landed(tuning: Tuning, missing: list[str], unexpected: list[str]) -> None:
    """Check that an adapter's tensors are those that its layers expect.

    Raises:
        CheckpointError: if some are missing or left over.
    """
    faults = [
        f"{len(keys)} {word} ({', '.join(sorted(keys)[:4])}{', …' if len(keys) > 4 else ''})"
        for word, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if faults:
        raise CheckpointError(
            f"the adapter {tuning.path} ({tuning.kind}) does not land: {'; '.join(faults)}. It was "
            "made for another base, or its file is incomplete; the base without it would give plausible numbers of the wrong model"
        )


@contextmanager
def understood(tuning: Tuning) -> Iterator[None]:
    """Turns what PEFT raises inside the block into an error that names the adapter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])[:300].rstrip(".")
        raise CheckpointError(
            f"the adapter {tuning.path} ({tuning.kind}) does not fit this base: {reason}. It was made for another base, or its "
            "file is damaged"
        ) from error


def parameters(tuning: Tuning) -> int:
    """How many numbers an adapter holds."""
    return sum(tensor.numel() for tensor in read_weights(tuning.path).values())
