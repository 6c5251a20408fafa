r"""The bottleneck adapter, as a method of PEFT, which has none of its own.

After a sub-layer (attention, feed-forward) and before its residual addition, :math:`h \leftarrow h + s\,U f(D h)` with
:math:`D` down to a few dimensions and :math:`U` up again, both with biases; :math:`U` starts at zero, so that the tuned
model starts as the base. Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, §2.1.

PEFT knows it under the name ``BOTTLENECK`` once ``rankscope.register()`` was called, or a configuration of it made; from
then on plain PEFT makes, saves and loads it like any other: ``get_peft_model(model, BottleneckConfig(...))``,
``PeftModel.from_pretrained(model, folder)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import Tensor, nn
from transformers.activations import ACT2FN

from rankscope.errors import UsageError
from rankscope.models.tunings.attention import width_out

NAME = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """PEFT's configuration of a bottleneck adapter."""

    target_modules: list[str] | set[str] | str | None = field(default=None)
    """The modules that get an adapter after their output: names, path endings, or a regular expression."""
    exclude_modules: list[str] | set[str] | str | None = field(default=None)
    """Modules left out of those."""
    bottleneck_size: int = field(default=16)
    """Dimensions inside."""
    non_linearity: str = field(default="gelu")
    """The function between down and up, by transformers' name."""
    bottleneck_scaling: float = field(default=1.0)
    """Factor on what is added."""
    bottleneck_dropout: float = field(default=0.0)
    """Dropout before the way up, in training."""
    init_weights: bool = field(default=True)
    """Whether the way up starts at zero, so that the adapter starts as nothing; otherwise at random, for tests."""
    modules_to_save: list[str] | None = field(default=None)
    """Modules trained and saved whole (a classifier)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = register_bottleneck()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if self.bottleneck_size < 1:
            raise UsageError(f"a bottleneck has at least 1 dimension; got {self.bottleneck_size}")
        if self.non_linearity not in ACT2FN:
            raise UsageError(
                f"there is no function {self.non_linearity!r}; transformers has {', '.join(sorted(ACT2FN))}"
            )


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module with bottleneck adapters behind its output."""

    bottleneck_down: nn.ModuleDict
    bottleneck_up: nn.ModuleDict
    bottleneck_between: nn.ModuleDict
    # What the mixin brings, for type checkers that cannot look into PEFT.
    active_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]
    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_size",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.bottleneck_between = nn.ModuleDict()
        self.bottleneck_size: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Put an adapter of this name in place, newly drawn."""
        width = width_out(self.get_base_layer())
        self.bottleneck_size[adapter_name], self.scaling[adapter_name] = (
            config.bottleneck_size,
            config.bottleneck_scaling,
        )
        self.bottleneck_down[adapter_name] = nn.Linear(width, config.bottleneck_size)
        self.bottleneck_up[adapter_name] = up = nn.Linear(config.bottleneck_size, width)
        function: nn.Module = ACT2FN[config.non_linearity]
        self.bottleneck_between[adapter_name] = nn.Sequential(function, nn.Dropout(config.bottleneck_dropout))
        if config.init_weights:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns, with what the active adapters add."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        kept = result.dtype
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                inner = self.bottleneck_down[name](
                    self._cast_input_dtype(result, next(self.bottleneck_down[name].parameters()).dtype)
                )
                added = self.bottleneck_up[name](self.bottleneck_between[name](inner))
                # h ← h + s · U f(D h)
                result = result + (self.scaling[name] * added).to(kept)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a non-linear map does not merge into a linear one.

        Raises:
            UsageError: always.
        """
        raise _not_linear()

    def unmerge(self) -> None:
        """Refuse, as :meth:`merge` does.

        Raises:
            UsageError: always.
        """
        raise _not_linear()


def _not_linear() -> UsageError:
    return UsageError("a bottleneck adapter is not linear and cannot be merged into the weights; keep its PEFT folder")


class BottleneckModel(BaseTuner):
    """PEFT's tuner: puts a :class:`BottleneckLayer` around each target."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise _not_linear()


def register_bottleneck() -> PeftType:
    """Make the adapter known to PEFT; further calls do nothing.

    Returns:
        The adapter's member of PEFT's enumeration, to which it is added, because PEFT registers only what that has.
    """
    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_, member._value_ = NAME, NAME
        type.__setattr__(PeftType, NAME, member)
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
        register_peft_method(name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)
    return PeftType[NAME]
