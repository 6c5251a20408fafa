"""Collecting, in one call."""

from __future__ import annotations

from typing import Any

from rankscope.pipeline.job import prepare, run_job
from rankscope.pipeline.measure import Progress, silent
from rankscope.store import Run


def collect(model: Any, data: Any = None, *, progress: Progress = silent, **options: Any) -> Run:
    """The features of a checkpoint or module at the chosen sites, stored as a run.

    ``rankscope.collect("lora/", "texts.jsonl", sites="all", rows="last", out="lora.pt")``. A collect that was stopped
    continues when it is called again with the same arguments, and ends with the same bytes.

    Args:
        model: a checkpoint folder, several in order (base, adapters), a loaded model, or any ``nn.Module``.
        data: the probe set: whatever :func:`rankscope.open_data` takes; for a plain module a tensor with a sample a row,
            or a dictionary of those. The embedded scenes where nothing is given.
        progress: called with (batches done, batches in all, text).
        options: ``sites``, ``rows``, ``n``, ``out``, ``name``, ``keep_special``, ``tokens_per_batch``, ``nonfinite``,
            ``shard``, ``overwrite``, ``base_model``, ``device``, ``dtype``, ``trust_remote_code``, ``processor``, as
            :func:`rankscope.pipeline.job.prepare` and :func:`rankscope.pipeline.source.open_source` tell.

    Raises:
        RankscopeError: one of its named children, as those functions tell.
    """
    return run_job(prepare(model, data, **options), progress=progress)
