"""CMU-MOSI's raw media as users have them: two layouts, labels of the SDK or a csv, official folds.

The original release, ``Raw`` itself or the folder that holds it::

    Raw/Video/{Segmented,Full}              <video>_<n>.mp4, <video>.mp4
    Raw/Audio/WAV_16000/{Segmented,Full}    the same as .wav; without them, the video's sound
    Raw/Transcript/Segmented                <video>.annotprocessed, lines <n>_DELIM_<words>

The layout of MMSA, ``<video>/<n>.mp4`` below ``Raw`` or the folder itself, with its label.csv.

Ids match exactly, never by part of a name. Everything that has no counterpart is listed.
"""

import re
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Literal

import numpy as np

from msa_lightning.datasets.label_csv import MOSI_COLUMNS, LabelledClip, clip_id, read_label_csv
from msa_lightning.datasets.labels import LabelColumns, read_folds, read_labels
from msa_lightning.datasets.manifest import (
    SOUND,
    VIDEO,
    Manifest,
    by_id,
    raw_clip,
    span,
)
from msa_lightning.datasets.transcripts import transcript_of
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.contract import RawClip, Reason, Span, Transcript

_LINE = re.compile(r"^(\d+)_DELIM_(.*)$", re.MULTILINE)
_COLUMNS = {"sentiment": LabelColumns(["sentiment"], -3, 3)}


Files = Mapping[str, Path | None]
Found = tuple[list[RawClip], dict[str, list[str]]]


class MosiRaw:
    """Find the raw media, transcripts, labels and folds of CMU-MOSI or a corpus in its layout.

    Args:
        corpus: Name of the corpus.
        folder: Where ``Raw`` is.
        labels: The SDK's .csd file of opinion labels, or a csv with the columns video_id, clip_id
            (or clip), label and, where known, text, mode (or split), start, end.
        folds: ``mosi``, a json file of the SDK's form, or ``labels``: the csv's column.
        media: ``segmented`` clips, ``full`` videos with the intervals of the labels, or ``auto``:
            segmented where they exist.
        synthetic: True if a program made it.
        make: Called first with the folder; brings the files there if they can be made.

    Raises:
        ConfigError: If ``media`` is none of the three.
    """

    def __init__(
        self,
        *,
        corpus: str,
        folder: str,
        labels: str,
        folds: str,
        media: Literal["auto", "segmented", "full"] = "auto",
        synthetic: bool = False,
        make: Callable[[Path], None] | None = None,
    ) -> None:
        if media not in ("auto", "segmented", "full"):
            raise ConfigError(f"source.media: '{media}' is not auto, segmented or full")
        self.corpus, self.folder, self.labels, self.folds = corpus, Path(folder), labels, folds
        self.media, self.synthetic, self.make = media, synthetic, make

    def manifest(self) -> Manifest:
        """List the labelled clips.

        Raises:
            DataNotFoundError: If labels, folds or media are not there.
            DataError: If their content is not what it should be.
        """
        if self.make:
            self.make(self.folder)
        rows = self._read_labels()
        root = next((p for p in (self.folder / "Raw", self.folder) if p.is_dir()), None)
        if root is None:
            raise DataNotFoundError(
                f"{self.folder}: no such folder; say where Raw/ is with source.folder or paths.data"
            )
        original = (root / "Video").is_dir() or (root / "Audio").is_dir()
        clips, unmatched = _original(root, rows, self.media) if original else _mmsa(root, rows)
        splits = self._splits(rows)
        unmatched |= {
            "labels in no fold": [r.id for r, s in zip(rows, splits, strict=True) if s == "none"],
            "labels without any media": [c.id for c in clips if not (c.audio or c.visual)],
        }
        return Manifest(
            corpus=self.corpus,
            synthetic=self.synthetic,
            clips=clips,
            intervals=np.array([(row.start, row.end) for row in rows], np.float64),
            splits=np.array(splits),
            targets={"sentiment": np.array([[row.label] for row in rows], np.float32)},
            columns=_COLUMNS,
            unmatched={what: ids for what, ids in unmatched.items() if ids},
        )

    def _read_labels(self) -> list[LabelledClip]:
        path = self.folder / self.labels
        if not path.is_file():
            raise DataNotFoundError(
                f"{path}: no such file; give the SDK's CMU_MOSI_Opinion_Labels.csd or a csv as "
                "source.labels=<file>, the folder as source.folder or paths.data"
            )
        if path.suffix == ".csv":
            return read_label_csv(path, MOSI_COLUMNS)
        found = read_labels(path, _COLUMNS, first_clip=1)
        return [
            LabelledClip(i, video, i.rsplit("_", 1)[1], label, None, "none", start, end)
            for i, video, label, (start, end) in zip(
                found.ids.tolist(),
                found.videos.tolist(),
                found.targets["sentiment"][:, 0].tolist(),
                found.intervals.tolist(),
                strict=True,
            )
        ]

    def _splits(self, rows: list[LabelledClip]) -> list[str]:
        if self.folds == "labels":
            splits = [row.split for row in rows]
        else:
            shipped = self.folds in ("mosi", "mosei")
            folds = read_folds(self.folds if shipped else str(self.folder / self.folds))
            of = {video: split for split, videos in folds.items() for video in videos}
            splits = [of.get(row.video, "none") for row in rows]
        return splits


def _original(root: Path, rows: list[LabelledClip], media: str) -> Found:
    """Clips of the original release's layout."""
    videos, cut_videos = _files(root / "Video", VIDEO, media)
    sounds, cut_sounds = _files(root / "Audio" / "WAV_16000", SOUND, media)
    if not videos and not sounds:
        raise DataNotFoundError(
            f"{root}: no media in Video/ or Audio/WAV_16000/ (Segmented or Full; source.media is "
            f"{media}); put them there"
        )
    texts, stray = _texts(root / "Transcript" / "Segmented", rows)
    clips = []
    for row, text in zip(rows, texts, strict=True):
        visual = _find(videos, row, segmented=cut_videos)
        audio = _find(sounds, row, segmented=cut_sounds) if sounds else visual
        clips.append(raw_clip(row.id, row.video, text=text, audio=audio, visual=visual))
    unmatched = {"transcripts without a label": stray}
    for what, files, cut in (("video", videos, cut_videos), ("audio", sounds, cut_sounds)):
        known = {row.id if cut else row.video for row in rows}
        unmatched[f"{what} files without a label"] = sorted(set(files) - known)
    return clips, unmatched


def _mmsa(root: Path, rows: list[LabelledClip]) -> Found:
    """Clips of MMSA's layout."""
    files: dict[str, Path | None] = {}
    for path in sorted(p for p in root.glob("*/*") if p.suffix.lower() in VIDEO):
        name = clip_id(path.parent.name, path.stem)
        files[name] = None if name in files else path
    if not files:
        raise DataNotFoundError(
            f"{root}: neither Video/ nor files <video>/<clip>.mp4 in it; say where the media are "
            "with source.folder or paths.data"
        )
    clips = []
    for row in rows:
        found = _find(files, row, segmented=True)
        text = transcript_of(row.text, row.end - row.start)
        clips.append(raw_clip(row.id, row.video, text=text, audio=found, visual=found))
    return clips, {"video files without a label": sorted(set(files) - {row.id for row in rows})}


def _files(folder: Path, endings: Set[str], media: str) -> tuple[Files, bool]:
    """Media files by name, and whether they are cut into clips."""
    for name, segmented in (("Segmented", True), ("Full", False)):
        if media in ("auto", name.lower()) and (folder / name).is_dir():
            paths = [p for p in (folder / name).iterdir() if p.is_file() and p.name[0] != "."]
            return by_id(p for p in paths if p.suffix.lower() in endings), segmented
    return {}, True


def _find(files: Files, row: LabelledClip, *, segmented: bool) -> Span | Reason:
    if _leads_outside(row):
        return "outside data folder"
    if segmented:
        return span(files, row.id)
    if np.isnan([row.start, row.end]).any():
        raise DataError(
            f"{row.id}: no start and end in the labels, which whole videos need; give labels that "
            "have them, or segmented clips"
        )
    return span(files, row.video, (row.start, row.end))


def _leads_outside(row: LabelledClip) -> bool:
    return any(part in (".", "..") or "/" in part for part in (row.video, row.clip))


def _texts(folder: Path, rows: list[LabelledClip]) -> tuple[list[Transcript | Reason], list[str]]:
    """What is said in each clip, and the lines of the transcripts that belong to no label."""
    lines: dict[str, str] = {}
    unreadable = set()
    for path in sorted(folder.glob("*.annotprocessed")):
        try:
            for match in _LINE.finditer(path.read_text(encoding="utf-8-sig")):
                lines[clip_id(path.stem, match[1])] = match[2]
        except (OSError, UnicodeDecodeError):
            unreadable.add(path.stem)
    texts: list[Transcript | Reason] = []
    for row in rows:
        if row.video in unreadable:
            texts.append("transcript not UTF-8")
        else:
            texts.append(transcript_of(lines.get(row.id, row.text), row.end - row.start))
    return texts, sorted(set(lines) - {row.id for row in rows})
