import csv
import json
import sys
import wave
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from msa_lightning.datasets import demo_clips, demo_face, demo_voice
from msa_lightning.datasets.demo_clips import DemoClip, draw_clips
from msa_lightning.datasets.demo_media import make_demo_media
from msa_lightning.datasets.labels import FOLDS, read_folds
from msa_lightning.datasets.mosi_raw import MosiRaw
from msa_lightning.errors import ConfigError, DataNotFoundError
from msa_lightning.extractors.assets import FACE_LANDMARKER, MINILM, find
from msa_lightning.extractors.bert import Encoder
from msa_lightning.extractors.facemesh import FaceMesh
from msa_lightning.extractors.librosa import LibrosaFeatures

pytest.importorskip("espeakng_loader", reason="needs the extra demo to speak")
pytest.importorskip("skimage", reason="needs the extra demo to show a face")

DEFAULT = {"seed": 0, "videos": 24, "clips_per_video": 5}
SMALL = {"seed": 0, "videos": 6, "clips_per_video": 1}


def need(*assets) -> None:
    for asset in assets:
        try:
            find(asset)
        except DataNotFoundError:
            pytest.skip(f"needs {asset.file}, in MSA_ASSETS or by msa-doctor fetch=true")


def face_mesh() -> FaceMesh:
    return FaceMesh(
        features=["facemesh65"],
        max_frames=100,
        rate_hz=None,
        face_width=[234, 454],
        origin="image",
        max_faces=2,
        route="tasks",
        model=None,
    )


def source(folder: Path) -> MosiRaw:
    return MosiRaw(
        corpus="demo_raw",
        folder=str(folder),
        labels="labels.csv",
        folds="standard_folds_video_ids.json",
        synthetic=True,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "demo raw"
    make_demo_media(folder, **SMALL)
    return folder


def showing(clip: DemoClip, **evidence: float) -> DemoClip:
    return replace(clip, evidence=clip.evidence | evidence)


def test_files_are_those_of_the_original_release(small):
    manifest = source(small).manifest()
    assert not manifest.unmatched
    assert sorted(set(manifest.splits)) == ["test", "train", "valid"]
    drawn = {clip.id: clip for clip in draw_clips(**SMALL)}
    assert {clip.id for clip in manifest.clips} == drawn.keys()
    raw = small / "Raw"
    for clip, split, (label,) in zip(
        manifest.clips, manifest.splits, manifest.targets["sentiment"], strict=True
    ):
        expected = drawn[clip.id]
        assert clip.text.text == expected.text.upper()
        assert (split, float(label)) == (expected.split, pytest.approx(expected.label, abs=1e-5))
        assert clip.visual.path == raw / "Video" / "Segmented" / f"{clip.id}.mp4"
        assert clip.audio.path == raw / "Audio" / "WAV_16000" / "Segmented" / f"{clip.id}.wav"
        transcript = raw / "Transcript" / "Segmented" / f"{clip.video}.annotprocessed"
        assert transcript.read_text() == f"1_DELIM_{expected.text.upper()}\n"
    folds = read_folds(str(small / "standard_folds_video_ids.json"))
    assert folds == {
        split: [c.video for c in drawn.values() if c.split == split] for split in FOLDS
    }


def test_media_are_encoded_as_the_real_ones_and_say_that_they_are_synthetic(small):
    with (small / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        length_s = float(row["end"]) - float(row["start"])
        assert 1.2 < length_s < 2.7
        with av.open(str(small / "Raw" / "Video" / "Segmented" / f"{row['id']}.mp4")) as file:
            assert "synthetic" in file.metadata["comment"]
            picture, sound = file.streams.video[0], file.streams.audio[0]
            assert (picture.codec_context.name, picture.codec_context.pix_fmt) == (
                "h264",
                "yuv420p",
            )
            assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", 22050, 1)
            assert picture.average_rate == 12
            assert float(file.duration / av.time_base) == pytest.approx(length_s, abs=0.1)
        with wave.open(
            str(small / "Raw" / "Audio" / "WAV_16000" / "Segmented" / f"{row['id']}.wav")
        ) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            assert file.getnframes() / 16000 == pytest.approx(length_s, abs=0.002)
    assert "synthetic" in (small / "demo_media.json").read_text()


def test_a_seed_gives_the_same_bytes(small, tmp_path):
    make_demo_media(tmp_path / "again", **SMALL)
    assert content(tmp_path / "again") == content(small)


@pytest.mark.slow
def test_another_seed_or_size_replaces_the_corpus(tmp_path):
    make_demo_media(tmp_path, **SMALL | {"videos": 7})
    first = content(tmp_path)
    make_demo_media(tmp_path, **SMALL | {"seed": 1})
    second = content(tmp_path)
    assert not source(tmp_path).manifest().unmatched  # nothing is left of the seventh video
    assert len(second) == len(first) - 3
    assert all(second[name] != first[name] for name in second if "folds" not in name)


@pytest.mark.slow
def test_is_written_once_and_again_where_it_is_not_complete(small):
    before, files = times(small), content(small)
    make_demo_media(small, **SMALL)
    assert times(small) == before
    stamp = small / "demo_media.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"complete": False}))  # as killed
    next(small.rglob("*.mp4")).write_bytes(b"half")
    make_demo_media(small, **SMALL)
    assert content(small) == files
    for name in ("*.wav", "*.annotprocessed", "labels.csv"):
        next(small.rglob(name)).unlink()
        make_demo_media(small, **SMALL)
        assert content(small) == files


def test_another_corpus_is_not_touched(tmp_path):
    (tmp_path / "Raw" / "Video").mkdir(parents=True)
    (tmp_path / "Raw" / "Video" / "real.mp4").write_bytes(b"irreplaceable")
    with pytest.raises(ConfigError, match="holds another corpus"):
        make_demo_media(tmp_path, **SMALL)
    assert list(content(tmp_path)) == ["Raw/Video/real.mp4"]


@pytest.mark.parametrize("wrong", [{"videos": 5}, {"clips_per_video": 0}])
def test_too_few_clips_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="videos must be at least 6"):
        make_demo_media(tmp_path / "demo", **SMALL | wrong)
    assert not (tmp_path / "demo").exists()


def test_without_a_voice_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # what an absent package looks like
    with pytest.raises(DataNotFoundError, match=r"espeakng_loader.*'msa-lightning\[demo\]'"):
        make_demo_media(tmp_path / "demo", **SMALL)
    assert not (tmp_path / "demo").exists()


def test_clips_are_drawn_as_the_corpus_promises():
    clips = draw_clips(**DEFAULT)
    assert [sum(clip.split == split for clip in clips) for split in FOLDS] == [75, 15, 30]
    assert all(len({c.split for c in clips if c.video == v}) == 1 for v in {c.video for c in clips})
    assert any(clip.video.startswith("-") for clip in clips)
    labels = np.array([clip.label for clip in clips])
    np.testing.assert_allclose(3 * labels, np.round(3 * labels), atol=1e-9)
    assert -3 <= labels.min() < -1.5 < 1.5 < labels.max() <= 3
    evidence = np.array([list(clip.evidence.values()) for clip in clips]).T
    text, audio, visual = (np.corrcoef(e, labels)[0, 1] for e in evidence)
    assert text > 0.8
    assert 0.45 < visual < audio < 0.75


def test_words_follow_the_evidence_of_the_text():
    of = {word: p for p, words in demo_clips._WORDS.items() for word in words.split()}
    assert len(of) == len(" ".join(demo_clips._WORDS.values()).split()) >= 60  # none has two
    clips = [clip for clip in draw_clips(**DEFAULT) if " not " not in clip.text]
    scores = [np.mean([of[word] for word in c.text.split() if word in of]) for c in clips]
    assert np.corrcoef(scores, [clip.evidence["text"] for clip in clips])[0, 1] > 0.9


def test_voice_follows_the_evidence_of_the_audio():
    clip = draw_clips(**SMALL)[0]
    low, high = (showing(clip, audio=e) for e in (-2.0, 2.0))
    spoken, rate_hz = demo_voice.speak([low, high])
    assert len(spoken[0]) > 1.1 * len(spoken[1])  # slower
    loud = [
        demo_voice.add_room(c, s, rate_hz).std() for c, s in zip((low, high), spoken, strict=True)
    ]
    assert loud[1] > 3 * loud[0]
    assert pitch_hz(spoken[1], rate_hz) > 1.3 * pitch_hz(spoken[0], rate_hz)


def test_clips_are_short():
    spoken, rate_hz = demo_voice.speak(draw_clips(**DEFAULT))
    lengths_s = np.array([len(samples) for samples in spoken]) / rate_hz
    assert 1 < lengths_s.min() < lengths_s.max() < 2.5


def pitch_hz(samples: np.ndarray, rate_hz: int) -> float:
    """The median over loud frames of the lag at which a frame is most like itself."""
    frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024).astype(float)
    frames = frames[frames.std(axis=1) > 0.5 * samples.std()]
    power = np.abs(np.fft.rfft(frames, 2048)) ** 2
    lags = np.fft.irfft(power)[:, rate_hz // 500 : rate_hz // 70]
    return float(rate_hz / (np.median(lags.argmax(axis=1)) + rate_hz // 500))


def test_face_follows_the_evidence_and_the_sound():
    clip, rate_hz = draw_clips(**SMALL)[0], 22050
    quiet = np.ones(2 * rate_hz, np.int16)
    speech = np.concatenate([quiet, 9000 * quiet])
    sad, glad = (
        demo_face._moves(np.random.default_rng(0), showing(clip, visual=e), 24, speech)
        for e in (-2.0, 2.0)
    )
    assert (glad["smile"] - sad["smile"] > 1).all()
    assert (glad["brows"] - sad["brows"] > 1).all()
    np.testing.assert_array_equal(glad["turn"], sad["turn"])
    assert glad["open"][12:].min() > glad["open"][:12].max() + 0.5
    frowning, smiling = (
        demo_face.draw_frames(showing(clip, visual=e), quiet, rate_hz).astype(int)
        for e in (-2.0, 2.0)
    )
    change = np.abs(smiling - frowning).mean(axis=(0, 3))
    assert change[60:190, 50:160].mean() > 5 * change[:, :20].mean()  # the face, not the background


@pytest.mark.slow
def test_the_face_is_found_in_every_frame_and_its_mouth_follows_the_evidence(small):
    need(FACE_LANDMARKER)
    extractor = face_mesh()
    evidence = {clip.id: clip.evidence["visual"] for clip in draw_clips(**SMALL)}
    widths, shown = [], []
    for clip in source(small).manifest().clips:
        features = extractor.extract(clip)
        assert features.facts["frames_with_face"] == features.facts["frames"]
        assert features.facts["frames_with_several_faces"] == 0
        widths.append(features.vector[0])
        shown.append(evidence[clip.id])
    assert np.corrcoef(widths, shown)[0, 1] > 0.9


def cross_validated_correlation(blocks: list[np.ndarray], y: np.ndarray, videos: list) -> float:
    """Correlation of a ridge regression with the label, on unseen videos."""
    fold = np.unique(videos, return_inverse=True)[1] % 5
    predicted = np.empty(len(y))
    for k in range(5):
        train, test = fold != k, fold == k
        z = [(x - x[train].mean(0)) / (x[train].std(0) + 1e-6) / x.shape[1] ** 0.5 for x in blocks]
        z = np.concatenate(z, axis=1) / len(blocks) ** 0.5
        gram = z[train] @ z[train].T + 0.2 * np.eye(train.sum())
        predicted[test] = z[test] @ z[train].T @ np.linalg.solve(gram, y[train] - y[train].mean())
    return float(np.corrcoef(predicted, y)[0, 1])


@pytest.mark.slow
def test_each_modality_tells_something_and_three_tell_more_than_text(tmp_path):
    need(FACE_LANDMARKER, MINILM)
    make_demo_media(tmp_path, **DEFAULT)
    manifest = source(tmp_path).manifest()
    encoder = Encoder(encoder="minilm", pooling="mean", max_length=512, batch_size=16, device="cpu")
    listener, viewer = LibrosaFeatures(size=29, max_s=3.0), face_mesh()
    text = np.stack([f.vector for f in encoder.extract_batch(manifest.clips)])
    audio = np.stack([listener.extract(clip).vector for clip in manifest.clips])
    visual = np.stack([viewer.extract(clip).vector for clip in manifest.clips])
    labels, videos = manifest.targets["sentiment"][:, 0], [clip.video for clip in manifest.clips]
    t, a, v, three = (
        cross_validated_correlation(blocks, labels, videos)
        for blocks in ([text], [audio], [visual], [text, audio, visual])
    )
    assert 0.55 < t < 0.85
    assert 0.25 < a < 0.65
    assert 0.25 < v < 0.65
    assert three > t
