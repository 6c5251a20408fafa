"""Learned prefixes: the effective number of rows of a prefix.

A prefix of 16 rows need not span 16 directions: rows that start alike stay alike, because nothing distinguishes them.
The effective number of rows follows from the prefix's own spectrum.
"""

from __future__ import annotations

from rankscope.definition import WeightDefinition

DEFINITION = WeightDefinition(
    name="prefix-effective",
    formula="exp(-sum p ln p), p = sigma / sum sigma of the rows of a prefix, uncentred",
    citation="Roy & Vetterli, EUSIPCO 2007, definition 1, on the rows of a prefix",
    low="1",
    high="rows of the prefix",
    bias="none: the rows are known in full",
    noise="nearly the number of rows",
    unit="rows",
)
