"""Scores of generated captions, answers and labels: texts in, numbers out.

This package needs no models and no data sets, and Java only for METEOR, SPICE and the reference tokenizer.
:mod:`rankscope.scores.join` matches predictions with the data they were made for.
"""

from rankscope.scores.answers import Question, score_labels, score_vqa
from rankscope.scores.captions import METRICS, score_captions
from rankscope.scores.cider import CiderReward, Frequencies
from rankscope.scores.java import Java
from rankscope.scores.predictions import read_predictions, write_coco_results, write_vqa_submission
from rankscope.scores.result import Percentiles, Scores
from rankscope.scores.tokenize import tokenize
from rankscope.scores.vqa import RULES, vqa_accuracy

__all__ = [
    "METRICS",
    "RULES",
    "CiderReward",
    "Frequencies",
    "Java",
    "Percentiles",
    "Question",
    "Scores",
    "read_predictions",
    "score_captions",
    "score_labels",
    "score_vqa",
    "tokenize",
    "vqa_accuracy",
    "write_coco_results",
    "write_vqa_submission",
]
