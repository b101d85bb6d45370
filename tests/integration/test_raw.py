"""Raw media from end to end: train, evaluate, score new files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.datasets.raw_input import read_input
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.evaluate import evaluate
from msa_lightning.predict import predict
from msa_lightning.reporting.predictions import show_predictions, write_predictions
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.train import train
from tests.data.make_media import tone, write_media
from tests.data.make_raw import make_raw
from tests.integration.configure import configure


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("run")
    return train_raw(corpus, folder)


def train_raw(corpus: Path, folder: Path, *overrides: str) -> LoadedRun:
    chosen = ["data=mosi", "extractor/text=word_vectors", "extractor/audio=librosa29"]
    chosen += ["modalities=text_audio", f"extractor.text.path={corpus}/vectors.txt"]
    chosen += [f"data.source.folder={corpus}", "data.source.labels=labels.csv"]
    chosen += ["data.source.folds=folds.json", "data.extraction.workers=0", "data.batch_size=4"]
    paths = [f"paths.{name}={folder / name}" for name in ("prepared", "cache", "run")]
    fixed = ["trainer.max_epochs=2", "~callbacks.progress"]
    with run_context(configure("train", *chosen, *paths, *fixed, *overrides)) as started:
        train(started)
    return load_run(folder / "run")


def read(path: Path, **changes: object) -> object:
    options = {"transcripts": None, "text": None, "asr": False, "asr_model": None}
    options |= {"cut": "none", "max_clip_s": 20.0, "window_s": 8.0}
    return read_input(path, **options | changes)  # type: ignore[arg-type]


def score(run: LoadedRun, manifest: object, cache: Path) -> pd.DataFrame:
    return predict(run, manifest, cache=str(cache), workers=0)  # type: ignore[arg-type]


def test_a_run_on_raw_media_is_evaluated_like_any_other(run: LoadedRun) -> None:
    assert np.isfinite(evaluate(run, device="cpu", again=False)["mae"])
    recorded = run.provenance["data"]
    assert recorded["extractors"]["audio"]["size"] == 29
    assert recorded["synthetic"] is False


def test_a_clip_of_the_corpus_scores_the_same_as_a_file(
    run: LoadedRun, corpus: Path, tmp_path: Path
) -> None:
    evaluate(run, device="cpu", again=False)
    stored = run.predictions.set_index("id")["prediction"]
    wav = corpus / "Raw/Audio/WAV_16000/Segmented/v8_1.wav"
    text = (corpus / "Raw/Transcript/Segmented/v8.annotprocessed").read_text().splitlines()[0]
    scores = score(run, read(wav, text=text.split("_DELIM_")[1]), tmp_path / "cache")
    assert scores["score"].tolist() == pytest.approx([stored["v8_1"]], abs=1e-5)
    assert scores["contribution_text"].notna().all()


def test_what_is_missing_says_why_and_contributes_nothing(run: LoadedRun, tmp_path: Path) -> None:
    write_media(tmp_path / "in/mute.wav", sound=0 * tone(1.0))
    write_media(tmp_path / "in/said.wav", sound=tone(1.0))
    (tmp_path / "in/said.txt").write_text("it was fine")
    write_media(tmp_path / "in/wordless.wav", sound=tone(1.0))
    scores = score(run, read(tmp_path / "in"), tmp_path / "cache").set_index("id")
    assert scores["missing_audio"].to_dict() == {"mute": "silent", "said": "", "wordless": ""}
    assert scores["missing_text"]["wordless"] == "no transcript"
    assert np.isnan(scores["score"]["mute"])
    assert np.isfinite(scores["score"][["said", "wordless"]]).all()
    assert np.isnan(scores["contribution_audio"]["wordless"])  # nothing else is there


def test_a_long_file_gives_a_timeline(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_media(tmp_path / "long.wav", sound=tone(5.0))
    (tmp_path / "long.align").write_text("5000 20000 it\n60000 75000 was\n100000 120000 fine\n")
    manifest = read(tmp_path / "long.wav", cut="windows", max_clip_s=2.0, window_s=2.0)
    scores = score(run, manifest, tmp_path / "cache")
    assert scores["text"].tolist()[:2] == ["it", "was"]
    assert scores["end"].iloc[-1] == pytest.approx(5.0, abs=0.05)
    out = tmp_path / "out"
    write_predictions(scores, run, out)
    show_predictions(scores, run, out)
    assert "long_1" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {"scores.csv", "scores.json", "long.timeline.csv", "long.timeline.png"}
    rows = json.loads((out / "scores.json").read_text())["clips"]
    assert [row["id"] for row in rows] == scores["id"].tolist()
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "scores.csv", keep_default_na=False)[["id", "score"]],
        scores[["id", "score"]],
    )


def test_text_is_for_a_single_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_media(tmp_path / f"{name}.wav", sound=tone(0.5))
    with pytest.raises(ConfigError, match="2 files"):
        read(tmp_path, text="so")
    with pytest.raises(ConfigError, match="true, false or auto"):
        read(tmp_path, asr="maybe")


def test_nothing_to_score_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no such file"):
        read(tmp_path / "absent.mp4")
    (tmp_path / "notes.txt").write_text("no media here")
    with pytest.raises(DataNotFoundError, match="no media file"):
        read(tmp_path)


def test_media_that_changed_since_training_are_refused(corpus: Path, tmp_path: Path) -> None:
    own = make_raw(tmp_path / "own")
    run = train_raw(own, tmp_path)
    wav = own / "Raw/Audio/WAV_16000/Segmented/v8_1.wav"
    write_media(wav, sound=tone(0.7, rate_hz=16000), rate_hz=16000)
    with pytest.raises(DataError, match="content has changed"):
        evaluate(run, device="cpu", again=False)
