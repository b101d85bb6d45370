"""Finding raw clips in the layouts of their owners; no media file is opened here."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from msa_lightning.datasets.csd import write_sequence
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.datasets.mosi_raw import MosiRaw
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.contract import Span, Transcript
from tests.data.make_data import real_data

VIDEOS = ["-a_1", "b", "c"]  # train, valid, test


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media")


def original(folder: Path, *, cut: str = "Segmented") -> Path:
    """Two clips for each video, in the layout of the original release, labels as csd."""
    rows = {v: (np.array([[-1.0], [2.0]]), np.array([[0.5, 1.5], [2.0, 4.0]])) for v in VIDEOS}
    folder.mkdir(parents=True)
    write_sequence(folder / "labels.csd", "Opinion Segment Labels", rows)
    for video in VIDEOS:
        names = [f"{video}_1", f"{video}_2"] if cut == "Segmented" else [video]
        for name in names:
            touch(folder / "Raw/Video" / cut / f"{name}.mp4")
            touch(folder / "Raw/Audio/WAV_16000" / cut / f"{name}.wav")
        text = folder / "Raw/Transcript/Segmented" / f"{video}.annotprocessed"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("1_DELIM_IT WAS BAD\n2_DELIM_IT WAS GOOD_DELIM_\n")
    write_folds(folder)
    return folder


def write_folds(folder: Path) -> None:
    names = [f"standard_{split}_fold" for split in ("train", "valid", "test")]
    folds = {name: [video] for name, video in zip(names, VIDEOS, strict=True)}
    (folder / "folds.json").write_text(json.dumps(folds))


def mmsa(folder: Path, rows: list[dict[str, object]] | None = None) -> Path:
    """The same clips in the layout of MMSA."""
    if rows is None:
        splits = zip(VIDEOS, ("train", "valid", "test"), strict=True)
        rows = [
            {"video_id": v, "clip_id": n, "text": "NA", "label": y, "mode": split}
            for v, split in splits
            for n, y in (("0002", 2), ("0010", -1))
        ]
    for row in rows:
        touch(folder / "Raw" / str(row["video_id"]) / f"{row['clip_id']}.mp4")
    with (folder / "label.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def read(folder: Path, **changes: object) -> Manifest:
    labels = "label.csv" if (folder / "label.csv").exists() else "labels.csd"
    folds = "labels" if labels == "label.csv" else "folds.json"
    arguments = {"corpus": "tiny", "folder": str(folder), "labels": labels, "folds": folds}
    return MosiRaw(**arguments | changes).manifest()


def test_segmented_clips_of_the_original_release(tmp_path: Path) -> None:
    manifest = read(original(tmp_path / "m"))
    assert [c.id for c in manifest.clips] == [f"{v}_{n}" for v in VIDEOS for n in (1, 2)]
    clip = manifest.clips[0]
    assert clip.visual == Span(tmp_path / "m/Raw/Video/Segmented/-a_1_1.mp4")
    assert clip.audio == Span(tmp_path / "m/Raw/Audio/WAV_16000/Segmented/-a_1_1.wav")
    assert clip.text == Transcript("IT WAS BAD", None, 1.0)
    assert manifest.clips[1].text == Transcript("IT WAS GOOD_DELIM_", None, 2.0)
    assert manifest.splits.tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert manifest.targets["sentiment"].ravel().tolist() == [-1, 2] * 3
    assert manifest.unmatched == {}


def test_full_videos_are_cut_by_the_intervals_of_the_labels(tmp_path: Path) -> None:
    clips = read(original(tmp_path / "m", cut="Full")).clips
    assert clips[1].visual == Span(tmp_path / "m/Raw/Video/Full/-a_1.mp4", 2.0, 4.0)
    assert clips[1].audio == Span(tmp_path / "m/Raw/Audio/WAV_16000/Full/-a_1.wav", 2.0, 4.0)


def test_without_wavs_the_sound_is_the_videos(tmp_path: Path) -> None:
    folder = original(tmp_path / "m")
    for wav in (folder / "Raw/Audio/WAV_16000/Segmented").iterdir():
        wav.unlink()
    clip = read(folder).clips[0]
    assert clip.audio == clip.visual is not None


def test_layout_of_mmsa_keeps_words_that_look_like_missing_values(tmp_path: Path) -> None:
    manifest = read(mmsa(tmp_path / "m"))
    clip = manifest.clips[0]
    assert clip.id == "-a_1_0002"
    assert clip.visual == clip.audio == Span(tmp_path / "m/Raw/-a_1/0002.mp4")
    assert clip.text == Transcript("NA", None, None)
    assert manifest.targets["sentiment"].ravel().tolist()[:2] == [2, -1]


def test_ids_match_exactly_and_what_is_left_over_is_listed(tmp_path: Path) -> None:
    folder = original(tmp_path / "m")
    (folder / "Raw/Video/Segmented/b_1.mp4").rename(folder / "Raw/Video/Segmented/b_11.mp4")
    (folder / "Raw/Transcript/Segmented/x.annotprocessed").write_text("3_DELIM_HM\n")
    manifest = read(folder)
    clip = next(c for c in manifest.clips if c.id == "b_1")
    assert clip.visual is None
    assert clip.missing == {"visual": "no file"}
    assert manifest.unmatched == {
        "video files without a label": ["b_11"],
        "transcripts without a label": ["x_3"],
    }


def test_two_files_of_one_id_mask_it(tmp_path: Path) -> None:
    folder = original(tmp_path / "m")
    touch(folder / "Raw/Video/Segmented/b_1.avi")
    clip = next(c for c in read(folder).clips if c.id == "b_1")
    assert clip.missing == {"visual": "duplicate id"}


def test_a_transcript_in_another_encoding_masks_its_video(tmp_path: Path) -> None:
    folder = original(tmp_path / "m")
    path = folder / "Raw/Transcript/Segmented/b.annotprocessed"
    path.write_bytes("1_DELIM_DÉJÀ VU\n".encode("latin-1"))
    reasons = {c.id: c.missing.get("text") for c in read(folder).clips}
    assert reasons["b_1"] == reasons["b_2"] == "transcript not UTF-8"
    assert reasons["c_1"] is None


@pytest.mark.parametrize(
    ("line", "reason"), [("", "no transcript"), ("1_DELIM_ \n", "empty transcript")]
)
def test_a_missing_or_empty_transcript_is_masked(tmp_path: Path, line: str, reason: str) -> None:
    folder = original(tmp_path / "m")
    (folder / "Raw/Transcript/Segmented/b.annotprocessed").write_text(line)
    clip = next(c for c in read(folder).clips if c.id == "b_1")
    assert clip.missing == {"text": reason}


def test_names_that_lead_outside_the_folder_are_masked(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    touch(secret / "1.mp4")
    rows = [
        {"video_id": v, "clip_id": 1, "text": "so", "label": 0, "mode": split}
        for v, split in (("a", "train"), ("b", "valid"), ("c", "test"))
    ]
    folder = mmsa(tmp_path / "m", rows)
    with (folder / "label.csv").open("a") as file:
        file.write("../../secret,1,so,0,test\n")
    clip = next(c for c in read(folder).clips if "secret" in c.id)
    assert "/" not in clip.id
    assert clip.visual is clip.audio is None
    assert clip.missing["visual"] == "outside data folder"


def test_a_clip_without_a_fold_is_in_no_split(tmp_path: Path) -> None:
    folder = original(tmp_path / "m")
    manifest = read(folder, folds="folds.json")
    assert "none" not in manifest.splits
    folds = json.loads((folder / "folds.json").read_text())
    rows = {"d": (np.array([[0.0]]), np.array([[0.0, 1.0]]))}
    for video in VIDEOS:
        rows[video] = (np.array([[0.0]]), np.array([[0.0, 1.0]]))
    write_sequence(folder / "labels.csd", "Opinion Segment Labels", rows)
    (folder / "folds.json").write_text(json.dumps(folds))
    manifest = read(folder)
    assert manifest.splits.tolist()[-1] == "none"
    assert manifest.unmatched["labels in no fold"] == ["d_1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b,0002,so,1,valid", "twice"),
        ("b,0003,so,x,valid", "line 8, label is 'x', expected a number from -3 to 3"),
        ("b,0003,so,,valid", "label is ''"),
        ("b,0003,so,3.5,valid", "label is '3.5'"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, line: str, message: str) -> None:
    folder = mmsa(tmp_path / "m")
    with (folder / "label.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        read(folder)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"labels\.csd"):
        read(tmp_path / "absent")
    folder = original(tmp_path / "m", cut="Full")
    with pytest.raises(DataNotFoundError, match="media is segmented"):
        read(folder, media="segmented")
    with pytest.raises(ConfigError, match="auto, segmented or full"):
        read(folder, media="half")


def test_whole_videos_need_intervals(tmp_path: Path) -> None:
    folder = original(tmp_path / "m", cut="Full")
    text = "video_id,clip_id,label,mode\n-a_1,1,0,train\nb,1,0,valid\nc,1,0,test\n"
    (folder / "label.csv").write_text(text)
    with pytest.raises(DataError, match="no start and end"):
        read(folder)


@pytest.mark.realdata
def test_genuine_labels_and_official_folds_give_the_published_counts(tmp_path: Path) -> None:
    folder = real_data("mosi")
    for labels in ("CMU_MOSI_Opinion_Labels.csd", "mosi_labels.csv"):
        touch(tmp_path / "m/Raw/Video/Full/2iD-tVS8NPw.mp4")
        manifest = read(tmp_path / "m", labels=str(folder / labels), folds="mosi")
        names, counts = np.unique(manifest.splits, return_counts=True)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
            "train": 1284,
            "valid": 229,
            "test": 686,
        }
        spans = [clip.visual for clip in manifest.clips if clip.visual]
        assert spans
        assert all(span.path.stem == "2iD-tVS8NPw" for span in spans)
