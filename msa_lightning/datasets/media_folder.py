"""A folder of media files without labels: each file is a clip."""

from pathlib import Path

import numpy as np

from msa_lightning.datasets.manifest import (
    SOUND,
    VIDEO,
    Manifest,
    by_id,
    raw_clip,
    span,
)
from msa_lightning.datasets.transcripts import read_transcript
from msa_lightning.errors import DataNotFoundError

_TRANSCRIPTS = (".align", ".srt", ".vtt", ".txt")  # those that know when each word is said first


class MediaFolder:
    """Video and audio files below a folder; the name without the ending is the clip's id.

    Sound comes from an audio file of the same name if there is one. A transcript is a file of the
    same name ending in .txt, or with the times of words in .srt, .vtt or .align (GRID's form).

    Args:
        folder: Where the files are, at any depth; or one file.
        transcripts: Where the transcripts are; None is beside the media.
        corpus: Name of the corpus; None is the folder's.
    """

    def __init__(
        self, *, folder: str, transcripts: str | None = None, corpus: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.transcripts = Path(transcripts) if transcripts else None
        self.corpus = corpus or self.folder.stem

    def manifest(self) -> Manifest:
        """List the clips.

        Raises:
            DataNotFoundError: If the folder is not there or has no media file.
        """
        if not self.folder.exists():
            raise DataNotFoundError(f"{self.folder}: no such file or folder")
        if self.transcripts and not self.transcripts.is_dir():
            raise DataNotFoundError(f"{self.transcripts}: no such folder of transcripts")
        single = self.folder.is_file()
        found = [self.folder] if single else self.folder.rglob("*")
        paths = [p for p in found if p.is_file() and not p.name.startswith(".")]
        videos = by_id(p for p in paths if p.suffix.lower() in VIDEO)
        sounds = by_id(p for p in paths if p.suffix.lower() in SOUND)
        ids = sorted(videos.keys() | sounds.keys())
        if not ids:
            endings = " ".join(sorted(VIDEO | SOUND))
            raise DataNotFoundError(f"{self.folder}: no media file (ending in {endings}) in it")
        clips = []
        for clip_id in ids:
            beside = videos.get(clip_id) or sounds.get(clip_id)
            folder = self.transcripts or (beside.parent if beside else self.folder)
            candidates = [folder / f"{clip_id}{ending}" for ending in _TRANSCRIPTS]
            beside_it = [path for path in candidates if path.is_file()]
            clips.append(
                raw_clip(
                    clip_id,
                    clip_id,
                    text=read_transcript(beside_it[0]) if beside_it else "no transcript",
                    audio=span(sounds if clip_id in sounds else videos, clip_id),
                    visual=span(videos, clip_id) if clip_id in videos else "no video stream",
                )
            )
        return Manifest(
            corpus=self.corpus,
            synthetic=False,
            clips=clips,
            intervals=np.full((len(clips), 2), np.nan),
            splits=np.full(len(clips), "none"),
        )
