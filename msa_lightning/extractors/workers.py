"""Extractors in one process per core. A worker that dies or hangs costs its clip, not the job."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import joblib
from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from msa_lightning.errors import USER_ERRORS
from msa_lightning.extractors.contract import Extractor, Features, RawClip, Unusable

log = logging.getLogger(__name__)

_AHEAD = 4  # tasks a worker has waiting; more would only take memory
_extractors: Mapping[str, Extractor] = {}  # of a worker process


@dataclass(frozen=True)
class Task:
    """Some clips for one extractor.

    Attributes:
        modality: Whose extractor.
        clips: One clip, or several for an extractor that takes several at once.
    """

    modality: str
    clips: Sequence[RawClip]


Result = tuple[str, RawClip, Features | Unusable]


class Workers:
    """A pool of processes that keep their extractors between jobs; use it in a ``with``.

    Args:
        extractors: By modality. A worker loads the model of one when its first clip comes.
        count: Processes; None is one per core, 0 is none: the work is done here, where a clip that
            hangs or kills its process is not contained.
        timeout_s: What a task may take.
    """

    def __init__(
        self, extractors: Mapping[str, Extractor], count: int | None, timeout_s: float
    ) -> None:
        self.extractors, self.timeout_s = extractors, timeout_s
        self.count = joblib.cpu_count() if count is None else count
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType) -> None:
        if self._pool:
            if kind:
                self._pool.stop()  # type: ignore[no-untyped-call]
            else:
                self._pool.close()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Modality, clip and features, or why there are none, as they come."""
        if self.count == 0:
            for task in tasks:
                with threadpool_limits(1):  # the number of threads would change the last bits
                    found = _extract(self.extractors, task)
                yield from _results(task, found)
            return
        waiting: dict[Any, Task] = {}
        for task in tasks:
            waiting[self._schedule(task)] = task
            if len(waiting) >= _AHEAD * self.count:
                yield from self._collect(waiting)
        while waiting:
            yield from self._collect(waiting)

    def _schedule(self, task: Task) -> Any:
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self.count,
                initializer=_begin,
                initargs=[self.extractors],
                # A forked copy of a process that runs torch or MediaPipe threads can hang.
                context=multiprocessing.get_context("spawn"),
            )
        return self._pool.schedule(_work, args=[task], timeout=self.timeout_s)

    def _collect(self, waiting: dict[Any, Task]) -> Iterator[Result]:
        """Results of what has finished; clips of a lost batch go back in, one by one."""
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            task = waiting.pop(future)
            try:
                yield from _results(task, future.result())
            except (ProcessExpired, TimeoutError) as error:
                if len(task.clips) > 1:
                    for clip in task.clips:
                        single = Task(task.modality, [clip])
                        waiting[self._schedule(single)] = single
                else:
                    yield task.modality, task.clips[0], self._loss(error)

    def _loss(self, error: ProcessExpired | TimeoutError) -> Unusable:
        if isinstance(error, TimeoutError):
            return Unusable("timed out", f"more than {self.timeout_s:g} s")
        return Unusable("worker died", f"exit code {error.exitcode}")


def _results(task: Task, found: Sequence[Features | Unusable]) -> Iterator[Result]:
    for clip, result in zip(task.clips, found, strict=True):
        yield task.modality, clip, result


def _begin(extractors: Mapping[str, Extractor]) -> None:
    """Make a process a worker: one thread, and Ctrl-C is for the parent."""
    global _extractors
    _extractors = extractors
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # of libraries yet to be loaded
    threadpool_limits(1)  # of those that are
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(task: Task) -> list[Features | Unusable]:
    return _extract(_extractors, task)


def _extract(extractors: Mapping[str, Extractor], task: Task) -> list[Features | Unusable]:
    extractor: Any = extractors[task.modality]
    if hasattr(extractor, "extract_batch"):
        try:
            found: list[Features | Unusable] = extractor.extract_batch(task.clips)
            return found
        except USER_ERRORS:
            raise
        except Exception as error:
            if len(task.clips) > 1:
                singles = [_extract(extractors, Task(task.modality, [c])) for c in task.clips]
                return [result for single in singles for result in single]
            return [_failure(task, error)]
    try:
        return [extractor.extract(clip) for clip in task.clips]
    except USER_ERRORS:
        raise
    except Unusable as finding:
        return [finding]
    except Exception as error:  # a clip must not cost the job
        return [_failure(task, error)]


def _failure(task: Task, error: Exception) -> Unusable:
    log.warning("%s, %s", task.clips[0].id, task.modality, exc_info=error)
    return Unusable("extractor failed", f"{type(error).__name__}: {error}")
