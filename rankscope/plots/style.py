"""How every figure looks: a palette that the colour-blind and a grey printer can tell apart, and files that repeat byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure, SubFigure

from rankscope.writing import storing

WIDTH = 6.75
"""The width of a full figure in inches: two columns of a paper."""
KINDS: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
"""The kinds of files, and the metadata left out so that they repeat."""
_SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "rankscope",
}
_BASE: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "marker": "", "zorder": 3}
# Okabe & Ito's colours, with a wine for their black (the base's), each with a line style and a marker of its own.
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": "-", "marker": "v"},
    {"color": "#56B4E9", "linestyle": "--", "marker": "P"},
    {"color": "#882255", "linestyle": "-.", "marker": "X"},
    {"color": "#666666", "linestyle": ":", "marker": "*"},
)


def look(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the run at ``index``; -1 is the base, black and dashed."""
    return dict(_BASE) if index < 0 else dict(_LOOKS[index % len(_LOOKS)])


def styled() -> AbstractContextManager[None]:
    """A context in which figures are made and saved, which leaves the user's own settings alone."""
    return mpl.rc_context(_SETTINGS)


def new_figure(height: float) -> Figure:
    """An empty figure of full width and ``height`` inches, without pyplot's global state."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def grid(count: int, *, height: float = 2.2) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, two side by side, each ``height`` inches."""
    lines = (count + 1) // 2
    figure = new_figure(height * lines)
    return figure, panels(figure, count)


def panels(figure: Figure | SubFigure, count: int, heights: Sequence[float] | None = None) -> list[Axes]:
    """``count`` axes of a figure, two side by side, in rows of equal height or of the given ``heights``."""
    axes = list(figure.subplots((count + 1) // 2, 2, squeeze=False, height_ratios=heights).ravel())
    for ax in axes[count:]:
        ax.remove()
    return axes[:count]


def legend(figure: Figure | SubFigure) -> None:
    """One legend above all panels, each name once: first what has intervals, then what it is compared with."""
    named = {name: mark for ax in figure.axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    named = dict(sorted(named.items(), key=lambda item: not isinstance(item[1], Container)))
    if named:
        fit = int(WIDTH / (0.55 + 0.055 * max(map(len, named))))  # inches of a mark and of a letter
        figure.legend(
            named.values(), named.keys(), loc="outside upper left", ncols=max(1, min(len(named), fit)), frameon=False
        )


def panel_title(ax: Axes, text: str) -> None:
    """A title at the left, where the eye begins."""
    ax.set_title(drawn(text), loc="left")


def drawn(name: str) -> str:
    """A text with the names of runs as matplotlib draws it as it stands: between two dollars it would read a formula."""
    return name.replace("$", r"\$")


def in_legend(name: str) -> str:
    """A name as a legend takes it: one that begins with an underscore would be left out, were there not a space before it."""
    return drawn(f" {name}" if name.startswith("_") else name)


def save(figure: Figure, stem: str | Path, kinds: Sequence[str] = tuple(KINDS)) -> tuple[Path, ...]:
    """Write ``stem.svg``, ``stem.pdf`` and ``stem.png``, or those asked for; the same figure gives the same bytes.

    Files of these names are replaced.

    Returns:
        The paths.

    Raises:
        StorageError: if they cannot be written.
    """
    stem = Path(stem)
    paths = tuple(stem.with_name(f"{stem.name}.{kind}") for kind in kinds)
    with styled(), storing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        _settle(figure)
        for kind, path in zip(kinds, paths, strict=True):
            figure.savefig(path, dpi=200, metadata=KINDS[kind])
    return paths


def _settle(figure: Figure) -> None:
    """Lay the figure out and round where everything lies: the solver's last bits differ from call to call."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(6))
    for ax in figure.axes:
        ax.set_position(tuple(round(edge, 6) for edge in ax.get_position(original=True).bounds))
