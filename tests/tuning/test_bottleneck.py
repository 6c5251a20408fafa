"""The bottleneck adapter: a method of PEFT like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import tiny
import torch
import transformers as tf
from torch import nn
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.models.tunings.bottleneck import BottleneckConfig
from rankscope.tuning.targets import sublayer_outputs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.arange(10, 20)[None]


def adapted(base: Path, **options: object) -> tuple[nn.Module, nn.Module]:
    """A model, and the same with random adapters."""
    torch.manual_seed(0)
    config = BottleneckConfig(target_modules=["attn.c_proj", "mlp.c_proj"], **options)
    return tiny.open_base(base), peft.get_peft_model(tiny.open_base(base), config).eval()


def test_it_starts_as_nothing(base: Callable[[str], Path]) -> None:
    plain, tuned = adapted(base("gpt2"))
    assert torch.equal(plain(IDS).logits, tuned(IDS).logits)


def test_it_computes_its_definition(base: Callable[[str], Path]) -> None:
    _, tuned = adapted(base("gpt2"), init_weights=False, bottleneck_scaling=0.5)
    layer = tuned.base_model.model.transformer.h[0].mlp.c_proj
    x = torch.randn(3, 128)
    h = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    inner = nn.functional.gelu(h @ down.weight.T + down.bias)
    assert_close(layer(x), h + 0.5 * (inner @ up.weight.T + up.bias))


def test_only_the_adapters_are_trained(base: Callable[[str], Path]) -> None:
    _, tuned = adapted(base("gpt2"))
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in tuned.named_parameters() if ".bottleneck_" in name}
    assert len(trained) == 3 * 2 * 4


def test_it_can_be_switched_off(base: Callable[[str], Path]) -> None:
    plain, tuned = adapted(base("gpt2"), init_weights=False)
    assert not torch.equal(plain(IDS).logits, tuned(IDS).logits)
    with tuned.disable_adapter():
        assert torch.equal(plain(IDS).logits, tuned(IDS).logits)


def test_plain_peft_saves_and_opens_it(base: Callable[[str], Path], tmp_path: Path) -> None:
    plain, tuned = adapted(base("gpt2"), init_weights=False)
    tuned.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    opened = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    assert_close(opened(IDS).logits, tuned(IDS).logits, rtol=0, atol=1e-6)


def test_two_adapters_stand_side_by_side(base: Callable[[str], Path]) -> None:
    _, tuned = adapted(base("gpt2"), init_weights=False)
    first = tuned(IDS).logits
    tuned.add_adapter("other", BottleneckConfig(target_modules=["mlp.c_proj"], init_weights=False, bottleneck_size=3))
    assert torch.equal(tuned(IDS).logits, first)
    tuned.set_adapter("other")
    assert not torch.equal(tuned(IDS).logits, first)


def test_peft_takes_it_out_and_trains_it_on(base: Callable[[str], Path], tmp_path: Path) -> None:
    plain, tuned = adapted(base("gpt2"), init_weights=False)
    expected = tuned(IDS).logits
    tuned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny.open_base(base("gpt2")), tmp_path, is_trainable=True)
    again.train()(IDS, labels=IDS).loss.backward()
    assert {name for name, p in again.named_parameters() if p.grad is not None} == {
        name for name, _ in again.named_parameters() if ".bottleneck_" in name
    }
    through_transformers = tiny.open_base(base("gpt2"))
    through_transformers.load_adapter(str(tmp_path))
    assert_close(through_transformers.eval()(IDS).logits, expected, rtol=0, atol=1e-6)
    tuned.add_adapter("other", BottleneckConfig(target_modules=["mlp.c_proj"]))
    tuned.delete_adapter("other")
    assert torch.equal(tuned.unload()(IDS).logits, plain(IDS).logits)


def test_blocks_without_linear_maps_take_none() -> None:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    with pytest.raises(UsageError, match="no linear map that an adapter could stand behind"):
        sublayer_outputs(tf.ResNetForImageClassification(config))


def test_merging_is_refused(base: Callable[[str], Path]) -> None:
    _, tuned = adapted(base("gpt2"))
    with pytest.raises(UsageError, match="not linear and cannot be merged"):
        tuned.merge_and_unload()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bottleneck_size": 0}, "at least 1 dimension"), ({"non_linearity": "bend"}, "no function 'bend'")],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BottleneckConfig(**options)  # type: ignore[arg-type]
