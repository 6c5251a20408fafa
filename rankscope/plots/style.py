"""How every figure looks: a palette that the colour-blind and a grey printer can tell apart, and files that repeat byte for byte."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from rankscope.errors import UsageError
from rankscope.names import printable
from rankscope.writing import storing

P = ParamSpec("P")
Columns = Literal["single", "double"]
"""How many columns of a paper a figure is as wide as."""
WIDTHS: dict[Columns, float] = {"single": 3.25, "double": 6.75}
"""The width of a figure in inches."""
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


def new_figure(height: float, columns: Columns = "double") -> Figure:
    """An empty figure of ``height`` inches, without pyplot's global state."""
    return Figure(figsize=(WIDTHS[columns], height), layout="constrained")


def drawing(function: Callable[P, Axes]) -> Callable[P, Axes]:
    """A function ``f(result, ax=None, **style)`` that, without axes, draws on a figure of its own as wide as one column."""
    signature = inspect.signature(function)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Axes:
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("ax") is not None:
            return function(*args, **kwargs)
        with styled():
            figure = new_figure(2.6, "single")
            bound.arguments["ax"] = figure.subplots()
            ax = function(*bound.args, **bound.kwargs)
            if ax.get_legend_handles_labels()[1]:
                ax.legend(frameon=False, fontsize=6)
            fit_titles(figure)
        return ax

    return called


def nothing() -> UsageError:
    """What is raised in the place of empty axes."""
    return UsageError("there is nothing to draw: no measure has a value here; the notes of the records say why")


def grid(count: int, *, height: float = 2.2, columns: Columns = "double") -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, each ``height`` inches: one below the other, or two or three side by side."""
    beside = 1 if columns == "single" or count == 1 else 2 if count <= 4 else 3
    figure = new_figure(height * -(-count // beside), columns)
    return figure, panels(figure, count, beside)


def panels(figure: Figure | SubFigure, count: int, beside: int = 2) -> list[Axes]:
    """``count`` axes of a figure, so many side by side."""
    axes = list(figure.subplots(-(-count // beside), beside, squeeze=False).ravel())
    for ax in axes[count:]:
        ax.remove()
    return axes[:count]


def legend(figure: Figure) -> None:
    """One legend below all panels, each name once: first what has intervals, then what it is compared with."""
    named = {name: mark for ax in figure.axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    named = dict(sorted(named.items(), key=lambda item: not isinstance(item[1], Container)))
    if named:
        fit = int(figure.get_figwidth() / (0.55 + 0.055 * max(map(len, named))))  # inches of a mark and of a letter
        figure.legend(
            named.values(), named.keys(), loc="outside lower left", ncols=max(1, min(len(named), fit)), frameon=False
        )


def panel_title(ax: Axes, text: str, *, y: float | None = None) -> None:
    """A title at the left, where the eye begins."""
    ax.set_title(drawn(text), loc="left", y=y)


def fit_titles(figure: Figure) -> None:
    """Break the titles that would reach into the next panel, a scale or the edge of the figure over several lines."""
    figure.draw_without_rendering()
    apart, edge = figure.dpi / 12, figure.bbox.x1
    if figure._suptitle is not None:  # type: ignore[attr-defined]  # matplotlib has no other way to it
        _fit(figure._suptitle, edge - apart)  # type: ignore[attr-defined]
    panels = [ax for ax in figure.axes if ax.get_title("left")]
    for ax in panels:
        beside = [
            x.bbox.x0 for x in panels if x.bbox.x0 > ax.bbox.x0 and x.bbox.y0 < ax.bbox.y1 and ax.bbox.y0 < x.bbox.y1
        ]
        scales = [box.x0 for child in ax.child_axes if (box := child.get_tightbbox()) is not None]
        _fit(ax._left_title, min([edge, *beside, *scales]) - apart)  # type: ignore[attr-defined]


def _fit(title: Text, end: float) -> None:
    """Break a text into lines that end before ``end`` pixels, inside words with hyphens only where nothing else fits."""
    whole = title.get_text()
    for hyphens in (False, True):
        for letters in range(len(whole), 0, -1):
            lines = wrap(whole, letters, break_long_words=False, break_on_hyphens=hyphens)
            title.set_text("\n".join(lines))
            if title.get_window_extent().x1 <= end:
                return
            if max(map(len, lines)) > letters:  # a word that is wider than the room
                break


def bar_in_title(image: AxesImage, ax: Axes) -> None:
    """The scale of a map, in the line of its title at the right, where it takes no room from any panel."""
    inset = ax.inset_axes((0.7, 1.03, 0.3, 0.03))
    bar = ax.figure.colorbar(image, cax=inset, orientation="horizontal", ticks=sorted({*image.get_clim()}))
    bar.ax.xaxis.set_ticks_position("top")
    bar.ax.tick_params(length=0, pad=1, labelsize=6)
    bar.outline.set_visible(False)


def drawn(name: str) -> str:
    """A text with the names of runs as matplotlib draws it as it stands: between two dollars it would read a formula.

    No font has what cannot be printed.
    """
    return printable(name, keep="\n").replace("$", r"\$")


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
