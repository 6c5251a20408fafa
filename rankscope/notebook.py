"""How things show themselves in a notebook: plain tables, in which every text is a text and never HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def facts(title: str, told: Mapping[str, object]) -> str:
    """A title, and below it a table of two columns; what is empty or None is left out."""
    rows = (f"<tr><th style='text-align:left'>{escape(k)}</th>{_cell(v)}</tr>" for k, v in told.items() if v)
    return f"<b>{escape(title)}</b><table>{''.join(rows)}</table>"


def table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table with a header; the first column on the left."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def paragraphs(texts: Iterable[str]) -> str:
    """Each text as a paragraph."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _cell(value: object) -> str:
    return f"<td style='text-align:left'>{escape(str(value))}</td>"
