"""Runs on disk: written batch by batch, each whole or not at all, and read back checked. ``FORMAT.md`` is the format."""

from rankscope.store.finish import discard, tidy_finished
from rankscope.store.interchange import export_run, import_features
from rankscope.store.manifest import Batch, Manifest
from rankscope.store.move import move
from rankscope.store.opening import open_run
from rankscope.store.pack import pack
from rankscope.store.run import Problem, Run, Verification
from rankscope.store.writer import Writer

__all__ = [
    "Batch",
    "Manifest",
    "Problem",
    "Run",
    "Verification",
    "Writer",
    "discard",
    "export_run",
    "import_features",
    "move",
    "open_run",
    "pack",
    "tidy_finished",
]
