"""VinVL / Oscar+: a BERT encoder that reads words, object tags and detected regions as one sequence.

Origin. Written afresh from the papers — Li et al., "Oscar: Object-Semantics Aligned Pre-training for Vision-Language
Tasks", ECCV 2020; Zhang et al., "VinVL: Revisiting Visual Representations in Vision-Language Models", CVPR 2021; Devlin
et al., "BERT", NAACL 2019; Zhou et al., "Unified Vision-Language Pre-Training" (the sequence-to-sequence mask), AAAI
2020 — and from the layout of the published weights: the keys and shapes of ``pytorch_model.bin`` and the fields of
``config.json``. No line is taken from the authors' repository. The constants that decide agreement with it (the
additive −10000 of the mask, the bookkeeping of its beam search) are named where they are used, and ``tests/models_vinvl``
holds the port to the original's outputs.

Layout of a folder: ``config.json`` (without ``model_type``; recognised by ``img_feature_dim``), ``vocab.txt``,
``pytorch_model.bin``. A ``training_args.bin`` in it is a pickle of code and is never opened.
"""

from rankscope.models.ported.vinvl.captioning import VinVLForImageCaptioning
from rankscope.models.ported.vinvl.classification import VinVLForSequenceClassification
from rankscope.models.ported.vinvl.configuration import VinVLConfig
from rankscope.models.ported.vinvl.encoder import VinVLModel
from rankscope.models.ported.vinvl.encoding import encode_caption_inputs, encode_vqa_inputs
from rankscope.models.ported.vinvl.masking import mask_words

__all__ = [
    "VinVLConfig", "VinVLForImageCaptioning", "VinVLForSequenceClassification", "VinVLModel", "encode_caption_inputs",
    "encode_vqa_inputs", "mask_words",
]  # fmt: skip
