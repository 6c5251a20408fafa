from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankscope.reading.forward import ModelBatch, read
from rankscope.reading.probing import Parts, probe
from rankscope.sites import Site


def parts(module: nn.Module, x: Tensor) -> Parts:
    module.eval()
    return probe(module, lambda: module(x), len(x))


def axes(module: nn.Module, x: Tensor) -> dict[str, int]:
    return {site.stack: 1 if tap.channels_first else -1 for site, tap in parts(module, x).taps.items()}


class Patches(nn.Module):
    """A picture to ``(b, t, d)``, as a vision transformer embeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.cut(x).flatten(2).transpose(1, 2))


class Odd(nn.Module):
    """Parts that cannot be read: used twice, not used, of no tensor, of whole numbers, without a row for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.none, self.whole, self.turned = (
            _Gives(lambda x: None),
            _Gives(lambda x: x.argmax(1)),
            _Gives(lambda x: x.T),
        )

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.none, self.whole, self.turned):
            part(x)
        return self.last(self.twice(self.twice(x)))


class _Gives(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor | None:
        return self.function(x)


def test_features_are_where_the_part_that_made_them_puts_them() -> None:
    picture = torch.randn(2, 3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)
    )
    assert axes(net, picture) == {"0": 1, "1": 1, "2": 1, "3": 1, "4": -1, "5": -1}
    assert axes(nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU()), torch.randn(2, 3, 7)) == {"0": 1, "1": 1}
    assert axes(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.randn(2, 4, 7, 3)) == {"0": -1, "1": -1}
    assert axes(nn.Sequential(Patches()), picture) == {"0": -1, "0.cut": 1, "0.norm": -1}
    assert parts(net, picture).widths == {"0": 5, "1": 5, "2": 5, "3": 5, "4": 20, "5": 4}


def test_channels_of_a_convolution_are_the_features_of_its_places() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3)).eval()
    x = torch.randn(2, 3, 6, 6)
    found = read(net, parts(net, x).taps, ModelBatch({"input": x}, {}), kind="tokens")
    torch.testing.assert_close(found.features[Site("0", "output")], net(x).movedim(1, -1).reshape(-1, 5))


def test_parts_that_give_no_rows_are_told_with_their_reason() -> None:
    found = parts(Odd(), torch.randn(3, 4))
    assert [str(site) for site in found.taps] == ["last.output"]
    assert {site.stack: why for site, why in found.unreadable.items()} == {
        "twice": "it runs more than once",
        "never": "it does not run",
        "none": "it returns no tensor",
        "whole": "it returns int64 of shape (3,), not features with one row for each sample",
        "turned": "it returns float32 of shape (4, 3), not features with one row for each sample",
    }


def test_a_grid_whose_features_nothing_tells_is_not_guessed() -> None:
    found = parts(nn.Sequential(nn.Identity()), torch.randn(2, 3, 4, 5))
    assert "which of its dimensions is the features is not known" in found.unreadable[Site("0", "output")]


def test_a_module_without_parts_is_its_own() -> None:
    assert axes(nn.Linear(3, 2), torch.randn(4, 3)) == {"model": -1}
