"""Transcripts as files: a reason instead of an error, whatever lies there."""

from pathlib import Path

import pytest

from msa_lightning.datasets.transcripts import read_transcript
from msa_lightning.extractors.contract import Transcript

ENDINGS = ["txt", "align", "srt", "vtt", "SRT"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_cannot_be_read_has_a_reason(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    assert read_transcript(path) == "no transcript"
    path.write_bytes("d\xe9j\xe0".encode("latin-1"))
    assert read_transcript(path) == "transcript not UTF-8"
    path.unlink()
    path.mkdir()
    assert read_transcript(path) == "transcript not readable"


def test_an_alignment_gives_words_and_their_times(tmp_path: Path) -> None:
    path = tmp_path / "a.align"
    path.write_text("0 25000 sil\n25000 37500 bin\n37500 50000 blue\n50000 75000 sil\n")
    assert read_transcript(path, 3.0) == Transcript("bin blue", ((1.0, 1.5), (1.5, 2.0)), 3.0)
    path.write_text("0 25000 sil\n")
    assert read_transcript(path) == "empty transcript"
    path.write_text("one two\n")
    assert read_transcript(path) == "transcript not readable"
