"""Planted answers through the whole pipeline."""

from rankscope.selftest.answers import COLUMNS, Answer, Selftest, questions, run

__all__ = ["COLUMNS", "Answer", "Selftest", "questions", "run"]
