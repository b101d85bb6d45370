"""Computational sequences of features and labels -> one clip file, in bounded memory.

The work is done in parts of some videos each, which are written whole or not at all to a folder
beside the output; its name carries a fingerprint of inputs and options. A killed job finds its
finished parts again, and its result is the same as without the interruption.
"""

import glob
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.progress import Progress

from msa_lightning import MODALITIES
from msa_lightning.datasets.aggregate import NonFinite, write_video
from msa_lightning.datasets.audit import Extremes, make_audit, show_audit
from msa_lightning.datasets.csd import BLOCK_BYTES, ComputationalSequence, split_key
from msa_lightning.datasets.hdf5 import (
    VERSION,
    ClipTable,
    FeatureWriter,
    open_clips,
    write_table,
    write_whole,
)
from msa_lightning.datasets.labels import (
    LabelColumns,
    Labels,
    assign_splits,
    read_folds,
    read_labels,
)
from msa_lightning.errors import USER_ERRORS, ConfigError, DataError, DataNotFoundError

log = logging.getLogger(__name__)

VIDEOS_PER_PART = 500  # about 5 GB of MOSEI: what a killed job has to read again
_HEARTBEAT_S = 30
_HOW_TO_GET = (
    "the CMU Multimodal SDK hands the files out; put them there, or say where they are with "
    "paths.data=<folder> or MSA_DATA. For a trial without them: msa-prepare source=demo"
)


class CsdSource:
    """A corpus as .csd files of features and labels.

    Args:
        corpus: Name of the corpus, and of the data config that reads the output.
        folder: Where the files are.
        features: File name by modality.
        dims: Feature size D by modality.
        labels: File name of the labels.
        targets: What the columns of the labels are, in order, by target name.
        first_clip: Number of the first row of a video's labels; 1 in MOSI.
        folds: ``mosei``, or a json file of the official folds.
        aggregate: ``mean`` over the frames of a clip, or ``sequence``: the frames themselves.
        output: File to write; with aggregate=sequence ``_sequence`` is added to its name.
        make: Called first with the folder; brings the files there if they can be made.
    """

    def __init__(
        self,
        *,
        corpus: str,
        folder: str,
        features: Mapping[str, str],
        dims: Mapping[str, int],
        labels: str,
        targets: Mapping[str, LabelColumns],
        first_clip: int,
        folds: str,
        aggregate: str,
        output: str,
        make: Callable[[Path], None] | None = None,
    ) -> None:
        if aggregate not in ("mean", "sequence"):
            raise ConfigError(f"source.aggregate: found {aggregate!r}, expected mean or sequence")
        if not features or set(features) - set(MODALITIES) or set(features) != set(dims):
            raise ConfigError(
                f"source.features has {sorted(features)}, source.dims has {sorted(dims)}; expected "
                f"both to have the same of {', '.join(MODALITIES)}"
            )
        self.corpus = corpus
        self.folder = Path(folder)
        self.features = {m: self.folder / features[m] for m in MODALITIES if m in features}
        self.dims = {m: dims[m] for m in self.features}
        self.labels = self.folder / labels
        self.targets = dict(targets)
        self.first_clip = first_clip
        self.folds = folds
        self.aggregate = aggregate
        self.output = Path(output)
        if aggregate == "sequence":
            self.output = self.output.with_stem(f"{self.output.stem}_sequence")
        self.make = make

    def prepare(self) -> Path:
        """Write the clip file unless it is up to date, print its audit, return its path.

        Raises:
            DataNotFoundError: If a file is not there.
            DataError: If the content of a file is not what the configuration says.
        """
        started = time.monotonic()
        if self.make:
            self.make(self.folder)
        self._check_files()
        folds = read_folds(self.folds)
        source = self._describe(folds)
        if self._is_current(source):
            log.info("%s: up to date, nothing to do", self.output)
        else:
            self._write(source, folds)
        for parts in self.output.parent.glob(f".{glob.escape(self.output.name)}.parts-*"):
            shutil.rmtree(parts)
        with open_clips(self.output) as file:
            audit = json.loads(file.attrs["audit"])
            digest = str(file.attrs["digest"])
            clips = len(file["id"])
        text = json.dumps({"digest": digest, **audit}, indent=1)
        audit_path = self.output.with_suffix(".audit.json")
        temporary = audit_path.with_name(f".{audit_path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(audit_path)
        show_audit(audit, Console())
        log.info(
            "%s: %s clips, %.1f MB, %.1f s; next: msa-train data=%s%s",
            self.output,
            f"{clips:,}",
            self.output.stat().st_size / 1e6,
            time.monotonic() - started,
            self.corpus,
            f" data.path={self.output}" if self.aggregate == "sequence" else "",
        )
        return self.output

    def _check_files(self) -> None:
        files = [*self.features.values(), self.labels]
        if missing := [path.name for path in files if not path.is_file()]:
            raise DataNotFoundError(
                f"{', '.join(missing)}: not found in {self.folder.absolute()} (source.folder); "
                f"{_HOW_TO_GET}"
            )

    def _describe(self, folds: Mapping[str, list[str]]) -> dict[str, Any]:
        """Describe inputs and options: as long as this is the same, so is the result."""
        files = {}
        for path in (*self.features.values(), self.labels):
            stat = path.stat()
            files[path.name] = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        return {
            "version": VERSION,
            "corpus": self.corpus,
            "files": files,
            "features": {m: path.name for m, path in self.features.items()},
            "dims": self.dims,
            "labels": self.labels.name,
            "targets": {name: vars(target) for name, target in self.targets.items()},
            "first_clip": self.first_clip,
            "folds": hashlib.sha256(json.dumps(folds).encode()).hexdigest(),
            "aggregate": self.aggregate,
        }

    def _is_current(self, source: Mapping[str, Any]) -> bool:
        if not self.output.is_file():
            return False
        try:
            with open_clips(self.output) as file:
                return bool(json.loads(file.attrs["source"]) == source)
        except (DataError, KeyError):
            return False  # not ours, or damaged: written anew

    def _write(self, source: Mapping[str, Any], folds: Mapping[str, list[str]]) -> None:
        with self._open(folds) as inputs:
            fingerprint = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
            folder = self.output.with_name(f".{self.output.name}.parts-{fingerprint[:8]}")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                parts = self._write_parts(folder, inputs)
                self._assemble(folder, parts, inputs, source)
            except USER_ERRORS:
                shutil.rmtree(folder)  # the input has to change, so they are of no more use
                raise

    @contextmanager
    def _open(self, folds: Mapping[str, list[str]]) -> Iterator["_Inputs"]:
        """Open all inputs and check what can be checked before the features are read."""
        with ExitStack() as stack:
            sequences = {
                m: stack.enter_context(ComputationalSequence(path))
                for m, path in self.features.items()
            }
            self._check_dims(sequences)
            labels = read_labels(self.labels, self.targets, self.first_clip)
            splits = assign_splits(labels, folds, self.folds)
            _check_videos(sequences, labels)
            yield _Inputs(sequences, labels, splits, folds)

    def _check_dims(self, sequences: Mapping[str, ComputationalSequence]) -> None:
        """Compare with the first video of each file, so that nothing is read in vain."""
        for m, sequence in sequences.items():
            for key in sorted(sequence.keys)[:1]:
                rows = sequence.rows(key)
                if rows.words or rows.dim != self.dims[m]:
                    found = "words" if rows.words else f"{rows.dim} columns"
                    raise DataError(
                        f"{rows.where}/features: found {found}, source.dims.{m} is "
                        f"{self.dims[m]}; set source.dims.{m}, or give the right file as "
                        f"source.features.{m}"
                    )

    def _write_parts(self, folder: Path, inputs: "_Inputs") -> list[Path]:
        """Write the features of all videos, some videos a file; skip what is there."""
        videos = list(_clips_by_video(inputs.labels))
        groups = [videos[i : i + VIDEOS_PER_PART] for i in range(0, len(videos), VIDEOS_PER_PART)]
        parts = [folder / f"part-{i:05d}.h5" for i in range(len(groups))]
        if done := sum(part.is_file() for part in parts):
            log.info("%s: continuing, %d of %d parts are done", self.output, done, len(parts))
        steps = len(self.features)  # of a video
        with _progress(self.output.name, steps * len(videos)) as advance:
            for part, group in zip(parts, groups, strict=True):
                if part.is_file():
                    advance(steps * len(group))
                else:
                    self._write_part(part, group, inputs, advance)
        return parts

    def _write_part(
        self, part: Path, videos: list[slice], inputs: "_Inputs", advance: Callable[[int], None]
    ) -> None:
        with write_whole(part, part.parent) as file:
            for m, sequence in inputs.sequences.items():
                group = file.create_group(f"features/{m}")
                writer = FeatureWriter(group, self.dims[m], times=self.aggregate == "sequence")
                nonfinite = NonFinite(self.dims[m])
                for clips in videos:
                    write_video(writer, sequence, inputs.labels, clips, self.aggregate, nonfinite)
                    advance(1)
                writer.close()
                group["nan"], group["inf"] = nonfinite.nan, nonfinite.inf

    def _assemble(
        self, folder: Path, parts: list[Path], inputs: "_Inputs", source: Mapping[str, Any]
    ) -> None:
        """Put the parts together into the output, with labels and audit."""
        labels = inputs.labels
        digests, frames, nonfinite, extremes = {}, {}, {}, {}
        with write_whole(self.output, folder) as file:
            for m, dim in self.dims.items():
                group = file.create_group(f"features/{m}")
                writer = FeatureWriter(group, dim, times=self.aggregate == "sequence")
                nonfinite[m], extremes[m] = NonFinite(dim), Extremes(dim)
                for part in parts:
                    with h5py.File(part, "r") as piece:
                        _append(writer, piece["features"][m], nonfinite[m], extremes[m])
                digests[m] = writer.close()
                frames[m] = group["frames"][()]
                if not frames[m].any():
                    raise DataError(
                        f"{self.features[m]}: found no frame that overlaps one of the "
                        f"{len(labels):,} clips of {self.labels.name}, although videos match; "
                        "expected the intervals of both in seconds of the same video: give "
                        "features and labels of the same corpus"
                    )
            table = ClipTable(
                path=self.output,
                corpus=self.corpus,
                aggregate=self.aggregate,
                synthetic=any(s.synthetic for s in inputs.sequences.values()),
                digest="",  # known once it is written
                ids=labels.ids,
                videos=labels.videos,
                splits=inputs.splits,
                intervals=labels.intervals,
                targets=labels.targets,
                columns={name: list(target.columns) for name, target in self.targets.items()},
                dims=self.dims,
                frames=frames,
            )
            audit = make_audit(table, nonfinite, extremes, inputs.folds)
            write_table(file, table, digests, source, audit)


@dataclass(frozen=True)
class _Inputs:
    """What is read: open sequences by modality, N labelled clips, their splits (N,), the folds."""

    sequences: dict[str, ComputationalSequence]
    labels: Labels
    splits: np.ndarray
    folds: Mapping[str, list[str]]


def _check_videos(sequences: Mapping[str, ComputationalSequence], labels: Labels) -> None:
    labelled = set(labels.videos.tolist())
    for sequence in sequences.values():
        found = {split_key(key)[0] for key in sequence.keys}
        if not found & labelled:
            raise DataError(
                f"{sequence.path}: {sequence.name}/data has none of the {len(labelled):,} labelled "
                f"videos (found {sorted(found)[:2]}, expected such as {sorted(labelled)[:2]}); "
                "give features and labels of the same corpus"
            )


def _clips_by_video(labels: Labels) -> Iterator[slice]:
    starts = np.flatnonzero(np.append(True, labels.videos[1:] != labels.videos[:-1])).tolist()
    for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True):
        yield slice(start, stop)


def _append(
    writer: FeatureWriter, part: h5py.Group, nonfinite: NonFinite, extremes: Extremes
) -> None:
    """Append one modality of a part, block by block."""
    values, times = part["values"], part.get("times")
    step = max(1, BLOCK_BYTES // (4 * nonfinite.dim))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        extremes.update(block)
        writer.add(block, None if times is None else times[start : start + step])
    writer.end_clips(np.diff(part["offsets"][()]).tolist(), part["frames"][()].tolist())
    nonfinite.nan += part["nan"][()]
    nonfinite.inf += part["inf"][()]


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, a line now and then elsewhere; yield what advances it."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        done, last = 0, time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            if console.is_terminal:
                bar.update(task, completed=done)
            elif time.monotonic() > last + _HEARTBEAT_S:
                log.info("%s: %d %%", name, 100 * done // total)
                last = time.monotonic()

        yield advance
