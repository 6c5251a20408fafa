"""Planted answers through the whole pipeline."""

from rankscope.selftest.answer import Answer
from rankscope.selftest.answers import COLUMNS, Selftest, questions, run

__all__ = ["COLUMNS", "Answer", "Selftest", "questions", "run"]
