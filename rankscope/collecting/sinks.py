"""Where the rows of a collect go, batch by batch: into a store, by a thread that writes while the next batch is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from rankscope.store import Batch
from rankscope.store.run import Places

WAITING = 1
"""Batches that wait for the thread, besides the one that it writes and the one that is read: one evens out their times."""


class Sink(Protocol):
    """What takes up the rows of each batch: a store (:class:`~rankscope.store.Writer`), or what adds them up."""

    @property
    def todo(self) -> Sequence[Batch]:
        """The batches that this process has yet to read, in the order of the plan."""

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        """Take up a batch, once.

        Args:
            batch: its id.
            features: ``(rows, d)`` on the CPU for every site, by name.
            rows: for every stack, where its rows came from: ``(rows,)`` samples as indices into the probe set, positions, roles.
        """

    def finish(self) -> bool:
        """Complete the run when every batch was taken up; whether it is complete, or other processes have batches left."""


class Behind:
    """A sink that a thread of its own feeds, so that what it does overlaps the forward passes. A context manager.

    Memory holds at most one batch that is read, :data:`WAITING` and one that is written. An error of the thread is raised by
    the next call. However the block is left, the batches that were handed over are written first.

    Args:
        sink: what takes up the batches, in the order in which they come; it is used by the thread alone until :meth:`finish`.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.todo = sink.todo
        """The batches to read."""
        self._queue: Queue[tuple[int, Mapping[str, Tensor], Mapping[str, Places]] | None] = Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="rankscope-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        """Hand a batch over; waits while the thread is behind. Raises what the thread met with at an earlier one."""
        self._check()
        self._queue.put((batch, features, rows))

    def finish(self) -> bool:
        """Wait for the thread, and complete the run. Raises what the thread met with."""
        self._join()
        self._check()
        return self._sink.finish()

    def _work(self) -> None:
        while (told := self._queue.get()) is not None:
            if self._error is None:  # after an error batches are still taken, or the reader would wait forever
                try:
                    self._sink.write(*told)
                except BaseException as error:  # it is the reader's to raise
                    self._error = error
            del told  # or the batch would stay until the next one comes

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._join()
        except (
            BaseException
        ):  # a second Ctrl-C: the lock of a store must not be given back while the thread still writes
            self._join()
            raise
        if error is None:
            self._check()
