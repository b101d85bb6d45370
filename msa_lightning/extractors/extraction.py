"""From raw clips to the feature cache: what is missing, in parallel, with a report."""

import csv
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
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
        unusable: Id, reason and detail of each clip that cannot be used.
        frames: Frames looked at, where an extractor counts them.
        frames_with_face: Those with a face.
    """

    extracted: int = 0
    cached: int = 0
    unusable: list[tuple[str, str, str]] = field(default_factory=list)
    frames: int = 0
    frames_with_face: int = 0

    @property
    def masked(self) -> Counter[str]:
        """How many cannot be used, by reason."""
        return Counter(reason for _, reason, _ in self.unusable)


class Extraction:
    """Extractors and how to run them.

    Args:
        extractors: By modality.
        modalities: Which of them to run.
        cache: Root folder of the feature caches.
        workers: Processes; None is one per core, 0 is none: the work is done in this process.
        max_failed: Share of the clips of a modality that may be unusable.
        timeout_s: What a clip, or a batch of transcripts, may take, loading the model included.
        retry: Try once more what was unusable before.

    Raises:
        ConfigError: If a number makes no sense.
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
        for name, value, fine in (
            ("workers", workers, workers is None or workers >= 0),
            ("max_failed", max_failed, 0 <= max_failed <= 1),
            ("timeout_s", timeout_s, timeout_s > 0),
        ):
            if not fine:
                raise ConfigError(f"extraction.{name}: {value} makes no sense")
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
        lock: AbstractContextManager[object] | None = None,
    ) -> dict[str, Counts]:
        """Extract what the cache lacks, and print a closing table.

        Args:
            manifest: The clips.
            shard: ``i/n``: only every n-th clip, beginning with the i-th, from 0.
            workers: Processes to use; by default they are started, if needed, and stopped.
            quiet: Print nothing if there was nothing to do.
            lock: Held while there is something to do.

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
                    counts[m].unusable.append((clip.id, clip.missing[m], ""))
                elif entry is None or (entry.reason and self.retry):
                    todo[m].append(clip)
                elif entry.reason:
                    counts[m].unusable.append((clip.id, entry.reason, entry.detail))
                else:
                    counts[m].cached += 1
                    _count_frames(counts[m], entry.facts)
        if lock and any(todo.values()):
            with lock:  # another process may have done it meanwhile
                return self.run(manifest, shard=shard, workers=workers, quiet=quiet)
        try:
            self._check(counts, len(clips))
            if any(todo.values()):
                for m, extractor in self.extractors.items():
                    if todo[m]:
                        how = extractor.name, extractor.weights
                        log.info("%s: %d clips with %s (weights: %s)", m, len(todo[m]), *how)
                for cache in caches.values():
                    cache.make_folder()
                own = Workers(self.extractors, self.workers, self.timeout_s)
                with nullcontext(workers) if workers else own as pool:
                    self._extract(todo, caches, counts, pool, len(clips))
        finally:
            if any(todo.values()) or not quiet:
                show(manifest, counts)
                self._list_unusable(manifest, counts, shard)
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
        kinds = sum(map(bool, todo.values()))
        with _progress() as progress:
            bar = progress.add_task("extract", total=number, rate="")
            try:
                for m, clip, result in workers.run(self._tasks(todo)):
                    pending[m].append((clip, result))
                    done += 1
                    if isinstance(result, Unusable):
                        counts[m].unusable.append((clip.id, result.reason, result.detail))
                        self._check(counts, total)
                    else:
                        counts[m].extracted += 1
                        _count_frames(counts[m], result.facts)
                    now = time.monotonic()
                    rate = done / kinds / (now - began)
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
        log.info("%.1f s, %.1f clips/s", seconds, number / kinds / seconds)

    def _list_unusable(
        self, manifest: Manifest, counts: Mapping[str, Counts], shard: str | None
    ) -> None:
        """Write every unusable clip, and what has no counterpart, to a csv beside the caches."""
        rows = [(m, *row) for m, count in counts.items() for row in sorted(count.unusable)]
        rows += [("", clip, what, "") for what, ids in manifest.unmatched.items() for clip in ids]
        if not rows:
            return
        part = f"-{shard.replace('/', '-of-')}" if shard else ""
        path = self.cache / f"{manifest.corpus}{part}.unusable.csv"
        self.cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("modality", "id", "reason", "detail"))
            writer.writerows(rows)
        temporary.replace(path)
        log.info("all of them: %s", path)

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
            failed = len(count.unusable)
            if failed > self.max_failed * total:
                raise JobError(
                    f"{m}: {failed} of {total} clips cannot be used, more than max_failed="
                    f"{self.max_failed:g}; mend them, or allow more (and extraction.retry=true "
                    "tries again what failed before)"
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
        reasons = "\n".join(
            f"{n} {reason} ({_some([i for i, why, _ in count.unusable if why == reason])})"
            for reason, n in count.masked.most_common()
        )
        share = f"{count.frames_with_face} of {count.frames}" if count.frames else ""
        numbers = (count.extracted, count.cached, len(count.unusable))
        table.add_row(m, *map(str, numbers), escape(reasons), share)
    synthetic = " (synthetic)" if manifest.synthetic else ""
    table.title = f"{escape(manifest.corpus)}{synthetic}: features"
    console = Console()
    console.print(table)
    for what, ids in manifest.unmatched.items():
        console.print(f"{what}: {len(ids)} ({_some(ids)})", markup=False)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
