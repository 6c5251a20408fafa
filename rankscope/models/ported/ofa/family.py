"""How OFA enters transformers' tables. Nothing heavy is imported here."""

from __future__ import annotations

from rankscope.models.ported.register import Family

FAMILY = Family(
    model_type="ofa",
    package="rankscope.models.ported.ofa",
    config="configuration.OFAConfig",
    models={
        "MODEL_MAPPING": "model.OFAModel",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING": "model.OFAModel",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": "model.OFAModel",
    },
    tokenizer="tokenization.OFATokenizer",
    processor="processing.OFAProcessor",
    image_processor="processing.OFAImageProcessor",
)
