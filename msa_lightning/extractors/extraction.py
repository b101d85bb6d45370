"""From raw clips to the feature cache: what is missing, in parallel, with a report."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from msa_lightning import MODALITIES
from msa_lightning.datasets.cache import FeatureCache
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.errors import ConfigError, JobError
from msa_lightning.extractors.contract import Extractor, Features, RawClip, Unusable
from msa_lightning.extractors.workers import Task, Workers

log = logging.getLogger(__name__)

_PART_CLIPS, _PART_S = 64, 20.0  # what a killed job has to extract again, at most
_HEARTBEAT_S = 30.0


@dataclass
class Counts:
    """What became of one modality's clips.

    Attributes:
        extracted: Usable clips extracted now.
        cached: Usable clips that were in the cache.
        masked: Clips that cannot be used, by reason.
        frames: Frames looked at, where an extractor counts them.
        frames_with_face: Those with a face.
    """

    extracted: int = 0
    cached: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    frames_with_face: int = 0


class Extraction:
    """Extractors and how to run them.

    Args:
        extractors: By modality.
        modalities: Which of them to run.
        cache: Root folder of the feature caches.
        workers: Processes; None is one per core, 0 is none: the work is done in this process.
        max_failed: Share of the clips of a modality that may be unusable.
        timeout_s: What one clip may take, loading the model included.
        retry: Try once more what was unusable before.
    """

    def __init__(
        self,
        *,
        extractors: Mapping[str, Extractor],
        modalities: Sequence[str],
        cache: str,
        workers: int | None,
        max_failed: float,
        timeout_s: float,
        retry: bool,
    ) -> None:
        self.extractors = {m: extractors[m] for m in MODALITIES if m in modalities}
        self.cache = Path(cache)
        self.workers, self.timeout_s = workers, timeout_s
        self.max_failed, self.retry = max_failed, retry

    def run(
        self,
        manifest: Manifest,
        *,
        shard: str | None = None,
        workers: Workers | None = None,
        quiet: bool = False,
    ) -> dict[str, Counts]:
        """Extract what the cache lacks, and print a closing table.

        Args:
            manifest: The clips.
            shard: ``i/n``: only every n-th clip, beginning with the i-th, from 0.
            workers: Processes to use; by default they are started, if needed, and stopped.
            quiet: Print nothing if there was nothing to do.

        Raises:
            JobError: If more than ``max_failed`` of the clips of a modality cannot be used. What
                was extracted stays in the cache.
        """
        clips = _shard(manifest.clips, shard)
        caches = self.caches()
        counts = {m: Counts() for m in caches}
        todo: dict[str, list[RawClip]] = {m: [] for m in caches}
        for m, cache in caches.items():
            for clip in clips:
                entry = cache.find(clip)
                if getattr(clip, m) is None:
                    counts[m].masked[clip.missing[m]] += 1
                elif entry is None or (entry.reason and self.retry):
                    todo[m].append(clip)
                elif entry.reason:
                    counts[m].masked[entry.reason] += 1
                else:
                    counts[m].cached += 1
                    _count_frames(counts[m], entry.facts)
        try:
            self._check(counts, len(clips))
            if any(todo.values()):
                for m, extractor in self.extractors.items():
                    if todo[m]:
                        how = extractor.name, extractor.weights
                        log.info("%s: %d clips with %s (weights: %s)", m, len(todo[m]), *how)
                own = Workers(self.extractors, self.workers, self.timeout_s)
                with nullcontext(workers) if workers else own as pool:
                    self._extract(todo, caches, counts, pool, len(clips))
        except JobError:
            show(manifest, counts)
            raise
        if any(todo.values()) or not quiet:
            show(manifest, counts)
        return counts

    def caches(self) -> dict[str, FeatureCache]:
        """The cache of each extractor, as it is on disk now."""
        caches = {m: FeatureCache(self.cache, e) for m, e in self.extractors.items()}
        for cache in caches.values():
            cache.refresh()
        return caches

    def _extract(
        self,
        todo: Mapping[str, Sequence[RawClip]],
        caches: Mapping[str, FeatureCache],
        counts: Mapping[str, Counts],
        workers: Workers,
        total: int,
    ) -> None:
        pending: dict[str, list[tuple[RawClip, Features | Unusable]]] = {m: [] for m in todo}
        began = written = beat = time.monotonic()
        number, done = sum(map(len, todo.values())), 0
        with _progress() as progress:
            bar = progress.add_task("extract", total=number, rate="")
            try:
                for m, clip, result in workers.run(self._tasks(todo)):
                    pending[m].append((clip, result))
                    done += 1
                    if isinstance(result, Unusable):
                        counts[m].masked[result.reason] += 1
                        log.debug("%s, %s: %s", clip.id, m, result)
                        self._check(counts, total)
                    else:
                        counts[m].extracted += 1
                        _count_frames(counts[m], result.facts)
                    now = time.monotonic()
                    rate = done / len(todo) / (now - began)
                    progress.update(bar, completed=done, rate=f"{rate:.1f} clips/s")
                    if not progress.console.is_terminal and now - beat > _HEARTBEAT_S:
                        log.info("%d of %d extracted, %.1f clips/s", done, number, rate)
                        beat = now
                    if len(pending[m]) >= _PART_CLIPS:
                        caches[m].write(pending.pop(m))
                        pending[m] = []
                    if now - written > _PART_S:
                        written = now
                        for name, results in pending.items():
                            caches[name].write(results)
                            pending[name] = []
            finally:
                for name, results in pending.items():
                    caches[name].write(results)
        seconds = time.monotonic() - began
        log.info("%.1f s, %.1f clips/s", seconds, number / len(todo) / seconds)

    def _tasks(self, todo: Mapping[str, Sequence[RawClip]]) -> Iterator[Task]:
        """The longest work first, so that no process ends long after the others."""
        for m in ("visual", "text", "audio"):
            size = getattr(self.extractors.get(m), "batch_size", 1)
            clips = list(todo.get(m, []))
            if size > 1:
                clips.sort(key=lambda clip: len(clip.text.text) if clip.text else 0, reverse=True)
            for i in range(0, len(clips), size):
                yield Task(m, clips[i : i + size])

    def _check(self, counts: Mapping[str, Counts], total: int) -> None:
        for m, count in counts.items():
            failed = count.masked.total()
            if failed > self.max_failed * total:
                raise JobError(
                    f"{m}: {failed} of {total} clips cannot be used, more than max_failed="
                    f"{self.max_failed:g}; see the reasons above, mend them or allow more"
                )


def _shard(clips: Sequence[RawClip], shard: str | None) -> Sequence[RawClip]:
    if shard is None:
        return clips
    try:
        i, n = map(int, shard.split("/"))
    except ValueError:
        i, n = -1, 0
    if not 0 <= i < n:
        raise ConfigError(f"shard: '{shard}' is not i/n with 0 <= i < n, 0/8 say")
    return clips[i::n]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        transient=True,
    )


def _count_frames(count: Counts, facts: Mapping[str, Any]) -> None:
    count.frames += facts.get("frames", 0)
    count.frames_with_face += facts.get("frames_with_face", 0)


def show(manifest: Manifest, counts: Mapping[str, Counts]) -> None:
    """Print what became of the clips, and what of the corpus has no counterpart."""
    table = Table("modality", "extracted", "cached", "masked", "reasons", "frames with a face")
    for m, count in counts.items():
        reasons = "\n".join(f"{n} {reason}" for reason, n in count.masked.most_common())
        share = f"{count.frames_with_face} of {count.frames}" if count.frames else ""
        numbers = (count.extracted, count.cached, count.masked.total())
        table.add_row(m, *map(str, numbers), reasons, share)
    table.title = f"{manifest.corpus}{' (synthetic)' if manifest.synthetic else ''}: features"
    console = Console()
    console.print(table)
    for what, ids in manifest.unmatched.items():
        console.print(f"{what}: {len(ids)} ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})")
