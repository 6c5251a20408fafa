"""What the product knows of OFA, and the classes that it registers with transformers."""

from __future__ import annotations

from rankscope.models.family import Family, pair
from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.inputs import OFAInputs
from rankscope.models.ported.ofa.model import OFAModel
from rankscope.models.ported.ofa.processing import OFAImageProcessor, OFAProcessor
from rankscope.models.ported.ofa.tokenization import OFATokenizer, check_vocabulary
from rankscope.models.ported.port import Port

FAMILY = Family(
    pair("layers", "layer_norm"),
    inputs=OFAInputs,
    reads_images=True,
    check_vocabulary=check_vocabulary,
    port=Port(
        config=OFAConfig,
        models=dict.fromkeys(("AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"), OFAModel),
        tokenizer=OFATokenizer,
        processor=OFAProcessor,
        image_processor=OFAImageProcessor,
    ),
)
