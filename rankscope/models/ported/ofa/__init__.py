"""OFA: one encoder and decoder for images and text, with patches from a ResNet stem.

Origin. Written afresh from the papers — Wang et al., "OFA: Unifying Architectures, Tasks, and Modalities Through a
Simple Sequence-to-Sequence Learning Framework", ICML 2022; Lewis et al., "BART", ACL 2020; Shleifer et al.,
"NormFormer", 2021 (head scaling, norms inside the blocks); Ke et al., "Rethinking Positional Encoding in Language
Pre-training" (TUPE: positions untied from words), ICLR 2021; Dai et al., "CoAtNet", NeurIPS 2021 (relative positions of
patches); He et al., "Deep Residual Learning", CVPR 2016 — and from the layout of the published weights: keys and shapes
of ``pytorch_model.bin``, fields of ``config.json``. No line is taken from the authors' repository; what only their
implementation decides (which states are zeroed, the order of the sums) was settled on the reference outputs, to which
``tests/models_ofa`` holds the port.

Layout of a folder: ``config.json`` (``model_type: ofa``), ``vocab.json``, ``merges.txt``, ``pytorch_model.bin``. A
fairseq ``.pt`` is read through :mod:`rankscope.models.ported.ofa.fairseq`.

Not ported: generation of images (``code_masks``; its weights are kept), two images at once, sampling of patches.
"""

from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.fairseq import load_fairseq
from rankscope.models.ported.ofa.model import OFAModel
from rankscope.models.ported.ofa.processing import OFAImageProcessor, OFAProcessor
from rankscope.models.ported.ofa.prompts import CAPTION_PROMPT, vqa_prompt
from rankscope.models.ported.ofa.tokenization import OFATokenizer

__all__ = [
    "CAPTION_PROMPT", "OFAConfig", "OFAImageProcessor", "OFAModel", "OFAProcessor", "OFATokenizer", "load_fairseq", "vqa_prompt",
]  # fmt: skip
