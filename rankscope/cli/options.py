"""The options that several commands share, each declared once, and groups of them that commands take whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from typer import Argument, Option

from rankscope.catalogue import check_measure, listed
from rankscope.cli import completion, show
from rankscope.devices import check_device
from rankscope.errors import UsageError
from rankscope.reading.kinds import check_kind
from rankscope.sites import check_selection

if TYPE_CHECKING:
    from rankscope.checkpoint import Checkpoint as OnDisk
    from rankscope.data.probes import ProbeSet
    from rankscope.progress import Progress


def refusing(check: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """The callback of an option whose value a check refuses, before its command begins and imports torch."""

    def callback(value: str | None) -> str | None:
        if value is not None:
            check(value)
        return value

    return callback


def check_measures(text: str) -> None:
    """Check every name in a list of measures, as :func:`rankscope.catalogue.check_measure` does."""
    for name in listed(text):
        check_measure(name)


Run = Annotated[Path, Argument(help="A run, or a checkpoint of the embedded model, collected first on scenes.")]
Stored = Annotated[Path, Argument(help="A run: a folder, a .pt or a .safetensors file.")]
Checkpoint = Annotated[list[Path], Argument(help="A checkpoint folder, or several in order: base, adapters.")]
BaseModel = Annotated[str | None, Option(help="The base model, if the adapter records the wrong one.")]
Download = Annotated[
    bool,
    Option(
        "--download",
        help="Fetch a checkpoint named by repository (org/model) from the Hub if it is not on this machine.",
    ),
]
TrustRemoteCode = Annotated[bool, Option("--trust-remote-code", help="Allow Python code in the checkpoint to run.")]
Device = Annotated[
    str | None, Option(callback=refusing(check_device), help="The torch device. Default: the GPU if there is one.")
]
Sites = Annotated[
    str,
    Option(
        "--layers",
        "--sites",
        callback=refusing(check_selection),
        autocompletion=completion.sites,
        help="Sites: all; decoder.0,decoder.3-5,final; 0:12:2; vision.*; last.",
    ),
]
Measures = Annotated[
    str | None,
    Option(
        "--measures",
        "-m",
        callback=refusing(check_measures),
        autocompletion=completion.measures,
        help="Names or file.py:function, comma-separated.",
    ),
]
Rows = Annotated[str, Option(autocompletion=completion.rows, callback=refusing(check_kind), help="The kind of rows.")]
CommonRows = Annotated[bool, Option("--common-rows", help="If the rows differ, use those that all runs have.")]
Figure = Annotated[
    Path | None,
    Option(
        metavar="[PATH]",
        help="Draw the figure as SVG, PDF and PNG, or as the one kind that PATH's suffix names. Without PATH, or in a folder, it is "
        "named after the result. An earlier figure is replaced.",
    ),
]
Report = Annotated[
    Path | None,
    Option(
        metavar="[PATH]",
        help="Write the report, one HTML file. Without PATH, or in a folder, it is named after the runs. An earlier report is replaced.",
    ),
]
Full = Annotated[bool, Option("--full", help="Print every record, not one row a site.")]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Replace an existing output. By default it is kept, and the command stops.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print the result alone, without progress or notes.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
# Words that are refused before the library, which knows them too, is imported; tests/cli/test_early.py holds the two equal.
Variant = Literal["raw", "distinct", "sinks-dropped", "standardised"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Side = Literal["right", "left"]
Keep = Literal["rows", "moments"]
Form = Literal["npy", "parquet", "hf"]
Task = Literal["captioning", "vqa", "lm", "seq2seq", "classification"]


@dataclass(frozen=True)
class Data:
    """What a data set needs besides its path; fields are named as :func:`rankscope.open_data` names them."""

    images: Annotated[Path | None, Option(help="The folder of the images, if they are not beside the data.")] = None
    regions: Annotated[Path | None, Option(help="Region features (VinVL): TSV, npz or safetensors.")] = None
    answers: Annotated[Path | None, Option(help="VQAv2 annotations, if they are not beside the questions.")] = None
    columns: Annotated[list[str] | None, Option("--column", help="The column of a field, e.g. targets=summary.")] = None
    restval: Annotated[bool, Option(help="Karpathy's COCO: count restval as train, as papers do.")] = True

    def keywords(self) -> dict[str, Any]:
        """The options as keywords of the library."""
        columns = pairs(self.columns, "a column is written FIELD=NAME, e.g. --column targets=summary")
        return {**vars(self), "columns": columns}

    def open(self, spec: str | None, *, images_needed: bool = True) -> str | ProbeSet | None:
        """The data, opened with these options; only their name if there are none, so that the library opens them.

        Raises:
            UsageError: for options without data.
        """
        if self == Data():
            return spec
        if spec is None:
            given = ", ".join(name for name, value in vars(self).items() if value != getattr(Data(), name))
            raise UsageError(f"{given} describe data, and none were given; add --data")
        from rankscope.data.open import open_data

        return open_data(spec, **self.keywords(), images_needed=images_needed)


@dataclass(frozen=True)
class Treated:
    """What is asked of rows, and how they are treated; fields are named as the library names them."""

    measures: Measures = None
    variant: Annotated[Variant, Option(help="How the rows are treated first.")] = "raw"
    allow_duplicates: Annotated[bool, Option("--allow-duplicates", help="Measure even if many rows are copies.")] = (
        False
    )
    device: Device = None

    def keywords(self) -> dict[str, Any]:
        """The options as keywords of the library; without measures if none were named, so that its default holds."""
        given = dict(vars(self))
        names = given.pop("measures")
        if names:
            from rankscope.registry import named

            given["measures"] = named(names)
        return given


@dataclass(frozen=True)
class Analysed(Treated):
    """How runs are measured."""

    sites: Sites = "all"


@dataclass(frozen=True)
class Intervals:
    """Where the intervals of numbers come from; fields are named as the library names them."""

    groups: Annotated[int, Option(min=2, help="Number of sample groups that the jackknife leaves out in turn.")] = 20
    interval: Annotated[
        Literal["influence", "jackknife"],
        Option(help="Intervals from the influence of every sample, or from leaving groups of samples out in turn."),
    ] = "influence"

    def keywords(self) -> dict[str, Any]:
        """The options as keywords of the library."""
        return dict(vars(self))


@dataclass(frozen=True)
class Printing:
    """How a result is printed."""

    as_json: Annotated[
        bool, Option("--json", help="Print flat records as JSON, after the verdict where there is one.")
    ] = False
    as_csv: Annotated[bool, Option("--csv", help="Print the records as CSV.")] = False
    quiet: Quiet = False

    def progress(self, what: str, unit: str = "sites") -> AbstractContextManager[Progress]:
        """A bar on stderr, unless the command is to be quiet."""
        return show.progress(what, quiet=self.quiet, unit=unit)

    def notes(self, texts: Iterable[str]) -> None:
        """Notes on stderr, unless the command is to be quiet."""
        for text in () if self.quiet else texts:
            show.note(f"note: {text}")

    def notes_of(self, records: Sequence[Any]) -> None:
        """The notes of records on stderr, unless the command is to be quiet."""
        if not self.quiet:
            show.notes(records)

    def records(
        self, rows: Sequence[Mapping[str, Any]], table: Callable[[], None], whole: Callable[[], Any] | None = None
    ) -> None:
        """The records as JSON or CSV, or else the table that ``table`` prints; with ``whole``, JSON is what it returns."""
        show.records(rows, as_json=self.as_json, as_csv=self.as_csv, table=table, whole=whole)


def or_scenes(data: str | None, checkpoint: Path | OnDisk, scenes: str) -> str:
    """The data that were named; if none were, some of the embedded scenes for the embedded model.

    Args:
        data: what was typed.
        checkpoint: the model, or its folder.
        scenes: the task and split, as ``captions/test``.

    Raises:
        UsageError: if none were named for another model.
    """
    if data is not None:
        return data
    from rankscope.checkpoint import Checkpoint as Read
    from rankscope.models.embedded import check_embedded

    check_embedded(Read.read(checkpoint), instead="give --data FILE")
    return f"scenes:{scenes}"


def pairs(
    texts: Sequence[str] | None, form: str, split: Callable[[str, str], tuple[str, str, str]] = str.partition
) -> dict[str, str]:
    """``["targets=summary"]`` as ``{"targets": "summary"}``.

    Args:
        texts: what was typed, once for each pair.
        form: how a pair is written, with an example, for the message.
        split: divides a text at the first or the last equals sign.

    Raises:
        UsageError: if one is not written so.
    """
    found = [split(text, "=") for text in texts or ()]
    for parts in found:
        if not all(parts):
            raise UsageError(f"{form}; got {''.join(parts)!r}")
    return {name: value for name, _, value in found}


def flat(command: Callable[..., None], more: Iterable[Parameter] = ()) -> Callable[..., None]:
    """A command with the fields of its groups among its own options, as typer wants them.

    Args:
        command: takes dataclasses for groups of options; its ``**keywords``, if it has them, are those in ``more``.
        more: further options, besides those in the signature.
    """
    groups: dict[str, Any] = {}
    options: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        group: Any = parameter.annotation
        if is_dataclass(group):
            groups[name] = group
            hints = get_type_hints(group, include_extras=True)
            options += [
                Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
                for f in fields(group)
            ]
        elif parameter.kind is not Parameter.VAR_KEYWORD:
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def flattened(**given: Any) -> None:
        whole = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**given, **whole)

    options += more
    flattened.__signature__ = Signature(options)  # type: ignore[attr-defined]
    flattened.__annotations__ = {option.name: option.annotation for option in options}
    return flattened
