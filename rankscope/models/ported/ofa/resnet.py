"""The stem: the first three stages of a ResNet of bottlenecks, sixteen pixels to a patch.

The 3 × 3 convolution has the stride of its stage. Every stem is made of bottlenecks, the small ones too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankscope.models.ported.ofa.configuration import RESNETS, OFAConfig

WIDTH = 1024
"""Channels of the last stage."""
PIXELS = 16
"""Height and width of a patch."""


class DropPath(nn.Module):
    """In training, leave a branch out for a whole sample, with the given probability; scale the others up.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """``(b, *)``."""
        if not self.training or self.probability == 0:
            return x
        # Dividing by the probability of being kept leaves the expectation as it is.
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.probability
        return x * kept.to(x.dtype) / (1 - self.probability)


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 convolutions around an identity."""

    def __init__(self, channels: int, inner: int, *, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        outer = inner * 4
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.drop_path = DropPath(drop_path)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, outer, 1, stride=stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(b, channels, h, w)``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x))
        return (identity + self.drop_path(x)).relu()


class Stem(nn.Module):
    """Pixels to patches."""

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        first, second, third = RESNETS[config.resnet_type]
        rate = config.resnet_drop_path_rate
        self.layer1 = _stage(64, 64, first, stride=1, rate=rate)
        self.layer2 = _stage(256, 128, second, stride=2, rate=rate)
        self.layer3 = _stage(512, 256, third, stride=2, rate=rate)

    def forward(self, images: Tensor) -> Tensor:
        """``(b, 1024, h / 16, w / 16)`` from ``(b, 3, h, w)``."""
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        return self.layer3(self.layer2(self.layer1(x)))


def _stage(channels: int, inner: int, blocks: int, *, stride: int, rate: float) -> nn.Sequential:
    """Bottlenecks in a row, dropped the more often the later; the first takes the stride and is never dropped."""
    rates = torch.linspace(0, rate, blocks).tolist()
    later = [Bottleneck(inner * 4, inner, drop_path=rates[i]) for i in range(1, blocks)]
    return nn.Sequential(Bottleneck(channels, inner, stride=stride), *later)
