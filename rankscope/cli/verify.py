"""``rankscope verify``: every byte that a run stored, checked."""

from __future__ import annotations

from typer import echo

from rankscope.cli import early, options, show


def verify(run: options.Stored) -> None:
    """Check every byte of a run against the checksums that were stored with it.

    Example: rankscope verify lora.pt
    """
    early.need_stored(run)
    from rankscope.collecting.budget import size_in_words
    from rankscope.store import open_run

    report = open_run(run).verify()
    for problem in report.problems[1:]:
        show.note(problem.message)
    report.check()
    echo(f"{run}: {report.files} files, {size_in_words(report.bytes)}, every byte as it was written")
