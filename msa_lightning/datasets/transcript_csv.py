"""A corpus of which only transcripts and labels are at hand, as a csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from msa_lightning.datasets.label_csv import read_label_csv
from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.datasets.manifest import Manifest, raw_clip
from msa_lightning.datasets.transcripts import transcript_of
from msa_lightning.errors import DataNotFoundError


class TranscriptCsv:
    """Transcripts and one label per clip; clips without a transcript are left out and listed.

    Args:
        corpus: Name of the corpus.
        path: The csv.
        columns: What the csv calls video, clip, label, text, split, start, end.
    """

    def __init__(self, *, corpus: str, path: str, columns: Mapping[str, Sequence[str]]) -> None:
        self.corpus, self.path, self.columns = corpus, Path(path), columns

    def manifest(self) -> Manifest:
        """List the clips.

        Raises:
            DataNotFoundError: If the file is not there.
            DataError: If a line of it cannot be used.
        """
        if not self.path.is_file():
            raise DataNotFoundError(f"{self.path}: no such file; say where with source.path")
        rows = read_label_csv(self.path, self.columns)
        spoken = [row for row in rows if row.text and row.text.strip()]
        without = [row.id for row in rows if not (row.text and row.text.strip())]
        return Manifest(
            corpus=self.corpus,
            synthetic=False,
            clips=[
                raw_clip(row.id, row.video, text=transcript_of(row.text, row.end - row.start))
                for row in spoken
            ],
            intervals=np.array([(row.start, row.end) for row in spoken], np.float64),
            splits=np.array([row.split for row in spoken]),
            targets={"sentiment": np.array([[row.label] for row in spoken], np.float32)},
            columns={"sentiment": LabelColumns(["sentiment"], -3, 3)},
            unmatched={"labels without a transcript": without} if without else {},
        )
