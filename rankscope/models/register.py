"""What rankscope adds to transformers and to PEFT, for those who open a checkpoint with these alone."""

from __future__ import annotations

from rankscope import plugins
from rankscope.models.families import FAMILIES
from rankscope.models.family import Family
from rankscope.models.ported.port import enter
from rankscope.models.tunings.bottleneck import register_bottleneck


def register() -> None:
    """Make OFA and VinVL known to transformers' Auto classes, and the bottleneck adapter to PEFT.

    So are the architectures that plug-ins bring. After it ``AutoModel.from_pretrained`` opens a published OFA or VinVL folder, and ``PeftModel.from_pretrained`` a
    bottleneck adapter. rankscope's own loading calls it by itself; further calls do nothing.
    """
    families = plugins.working("families", FAMILIES, Family)
    enter(family.port for family in families if family.port is not None)
    register_bottleneck()
