"""What the ported families share: a lazy entry into transformers' Auto classes, and strict loading.

``install()`` costs nothing: it waits until transformers imports its own tables, and then adds the families to them; their
models enter when a configuration of theirs is made. So ``import rankscope`` stays free of torch, and
``AutoModel.from_pretrained`` knows the families all the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rankscope.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FAMILIES = ("rankscope.models.ported.vinvl", "rankscope.models.ported.ofa")
"""Packages with a module ``family``."""

_AUTO = "transformers.models.auto."


@dataclass(frozen=True)
class Family:
    """A ported architecture, as transformers' tables need it; classes are spelled ``module.Class``."""

    model_type: str
    package: str
    config: str
    models: dict[str, str]
    """Table of ``modeling_auto`` to the model class it gives."""
    tokenizer: str | None = None
    processor: str | None = None
    image_processor: str | None = None
    recognise: Callable[[dict[str, Any], Path], dict[str, Any] | None] | None = None
    """What a ``config.json`` that does not name the family is to be read as, from its fields and folder; None if it is
    not this family's."""

    def load(self, name: str) -> Any:
        """The class of that name, in the package or spelled in full."""
        module, _, attribute = name.rpartition(".")
        home = module if module.startswith("transformers.") else f"{self.package}.{module}"
        return getattr(importlib.import_module(home), attribute)


def register_family(family: Family) -> None:
    """Add a family to transformers' Auto tables; what is there already stays."""
    for name, enter in _ENTRIES.items():
        enter(family, importlib.import_module(_AUTO + name))
    enter_models(family)


def _enter_config(family: Family, auto: ModuleType) -> None:
    """``AutoConfig``."""
    auto.CONFIG_MAPPING.register(family.model_type, family.load(family.config), exist_ok=True)
    if family.recognise is not None:
        _recognise(family)


def enter_models(family: Family) -> None:
    """``AutoModel`` and the ``AutoModelFor…`` of the family's tables.

    A family's configuration calls this when one is made, as every way to a model makes one first: when the tables are
    imported, what the models themselves import may be half imported.
    """
    auto = importlib.import_module(_AUTO + "modeling_auto")
    for table, model in family.models.items():
        getattr(auto, table).register(family.load(family.config), family.load(model), exist_ok=True)


def _enter_tokenizer(family: Family, auto: ModuleType) -> None:
    """``AutoTokenizer``."""
    if family.tokenizer is not None:
        config, tokenizer = family.load(family.config), family.load(family.tokenizer)
        auto.AutoTokenizer.register(config, tokenizer_class=tokenizer, exist_ok=True)


def _enter_processor(family: Family, auto: ModuleType) -> None:
    """``AutoProcessor``."""
    if family.processor is not None:
        auto.AutoProcessor.register(family.load(family.config), family.load(family.processor), exist_ok=True)


def _enter_image_processor(family: Family, auto: ModuleType) -> None:
    """``AutoImageProcessor``."""
    if family.image_processor is not None:
        config, processor = family.load(family.config), family.load(family.image_processor)
        auto.AutoImageProcessor.register(config, slow_image_processor_class=processor, exist_ok=True)


_ENTRIES: dict[str, Callable[[Family, ModuleType], None]] = {
    "configuration_auto": _enter_config,
    "tokenization_auto": _enter_tokenizer,
    "image_processing_auto": _enter_image_processor,
    "processing_auto": _enter_processor,
}


def _recognise(family: Family) -> None:
    """Name the family where transformers reads a ``config.json`` that does not name it."""
    from transformers.configuration_utils import PreTrainedConfig

    known: dict[str, Callable[[dict[str, Any], Path], dict[str, Any] | None]]
    known = getattr(PreTrainedConfig, "_rankscope_families", {})
    if not known:
        PreTrainedConfig._rankscope_families = known
        original = PreTrainedConfig.get_config_dict.__func__

        @wraps(original)
        def get_config_dict(cls: type, path: str | Path, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            fields, rest = original(cls, path, **kwargs)
            found = (recognise(fields, Path(path)) for recognise in known.values())
            return next((told for told in found if told is not None), fields), rest

        PreTrainedConfig.get_config_dict = classmethod(get_config_dict)
    assert family.recognise is not None
    known[family.model_type] = family.recognise


def install() -> None:
    """Enter the families into each of transformers' tables when it is imported, or now where it is already.

    The bottleneck adapter is made known to PEFT in the same way.
    """
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _AfterImport())
    for name, enter in _AFTER.items():
        if (module := sys.modules.get(name)) is not None:
            enter(module)


def _enter_all(name: str, module: ModuleType) -> None:
    """Enter every family into one of transformers' modules."""
    for package in FAMILIES:
        _ENTRIES[name](importlib.import_module(f"{package}.family").FAMILY, module)


_AFTER: dict[str, Callable[[ModuleType], object]] = {
    **{_AUTO + name: partial(_enter_all, name) for name in _ENTRIES},
    "peft": lambda _: importlib.import_module("rankscope.models.tunings.bottleneck"),
}
"""What is done after a module is imported."""


class _AfterImport(MetaPathFinder):
    """Finds nothing itself; lets the modules of :data:`_AFTER` be found, and does what comes after them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that goes on to what comes after."""
        if fullname not in _AFTER:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Entering(spec.loader, fullname)
                return spec
        return None


class _Entering(Loader):
    """A loader that does what comes after once its module has run."""

    def __init__(self, inner: Loader, name: str) -> None:
        self.inner, self.name = inner, name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader inside does."""
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then what comes after."""
        self.inner.exec_module(module)
        _AFTER[self.name](module)

    def __getattr__(self, name: str) -> Any:
        """Everything else, from the loader inside (``get_source`` and the like)."""
        return getattr(self.inner, name)


def keys_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """The keys of a folder's weights and their shapes; no value is read, no code is run.

    Raises:
        CheckpointError: if there are no weights, or a file is neither safetensors nor plain tensors.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _safetensors_shapes(file) if file.suffix == ".safetensors" else _tensor_shapes(file)
    return shapes


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Key to shape, from the header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from error


def _tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Key to shape, of a file of tensors and nothing else."""
    return {key: tuple(value.shape) for key, value in read_tensors(file, device="meta").items()}


def read_tensors(file: Path, *, device: str = "cpu") -> dict[str, torch.Tensor]:
    """A ``.bin`` or ``.pt`` file's tensors by key, read without running what a pickle could run.

    Raises:
        CheckpointError: if the file holds anything but tensors and plain containers, or no dictionary of tensors.
    """
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(file, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{file} cannot be read as plain tensors ({str(error).splitlines()[0]}); "
            "a file that needs code to load is not opened"
        ) from error
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def load_strict(model_class: Any, folder: Path, *, dtype: torch.dtype | None = None) -> Any:
    """``model_class.from_pretrained(folder)`` in evaluation mode, with every key landed.

    Raises:
        CheckpointError: naming the keys that are missing, left over or of another shape.
    """
    keys_of(folder)
    model, info = model_class.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
    )
    told = [
        f"{len(info[kind])} {kind.removesuffix('_keys')} ({', '.join(sorted(map(str, info[kind]))[:4])})"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[kind]
    ]
    if told:
        raise CheckpointError(
            f"{folder} does not fit {model_class.__name__}: {'; '.join(told)}; "
            "the weights are of another architecture, size or head than config.json says"
        )
    return model.eval()
