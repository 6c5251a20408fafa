"""Runs on disk: written a batch at a time, whole or not at all, and read back checked. The format is in ``FORMAT.md``."""

from rankscope.store.finish import discard, finalize
from rankscope.store.interchange import export_run, import_features
from rankscope.store.manifest import Batch, Manifest
from rankscope.store.opening import is_run, open_run
from rankscope.store.pack import pack
from rankscope.store.run import Problem, Report, Run
from rankscope.store.trees import tree_digest
from rankscope.store.writer import Writer

__all__ = [
    "Batch",
    "Manifest",
    "Problem",
    "Report",
    "Run",
    "Writer",
    "discard",
    "export_run",
    "finalize",
    "import_features",
    "is_run",
    "open_run",
    "pack",
    "tree_digest",
]
