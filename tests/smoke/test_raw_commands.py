"""msa-extract and msa-predict as a user gives them."""

from pathlib import Path

import pandas as pd
import pytest

from tests.data.make_media import tone, write_media
from tests.data.make_raw import make_raw
from tests.smoke.conftest import Command


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw") / "my corpus, [a=b]")


def chosen(corpus: Path) -> list[str]:
    text = ["extractor/text=word_vectors", f"extractor.text.path={corpus}/vectors.txt"]
    return [*text, "extractor/audio=librosa29", "modalities=text_audio"]


def source(corpus: Path, key: str = "source") -> list[str]:
    names = {"folder": str(corpus), "labels": "labels.csv", "folds": "folds.json"}
    return [f"{key}.{name}={value}" for name, value in names.items()]


@pytest.mark.slow
def test_extract_train_and_predict_with_odd_paths(
    msa: Command, corpus: Path, tmp_path: Path
) -> None:
    extract = ["extract", "source=mosi_raw", *chosen(corpus), *source(corpus)]
    first = msa(*extract, "extraction.max_failed=0.1")
    assert first.returncode == 0, first.stderr
    assert "1 silent (v0_1)" in " ".join(first.stdout.replace("│", " ").split())
    listed = pd.read_csv(tmp_path / "cache" / "mosi.unusable.csv")
    assert set(listed["id"]) == {"v0_1", "v1_1"}

    stopped = msa(*extract, "extraction.max_failed=0")
    assert stopped.returncode == 1
    assert "error: text: 1 of 20 clips cannot be used" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    data = ["data=mosi", *chosen(corpus), *source(corpus, "data.source"), "data.batch_size=4"]
    limit = "data.extraction.max_failed=0.1"
    trained = msa("train", *data, limit, "trainer.max_epochs=1", "paths.run=a run, [x=1]")
    assert trained.returncode == 0, trained.stderr

    videos = tmp_path / "in, [1=2]"
    write_media(videos / "a $_$ b.wav", sound=tone(3.0))
    text = "text=it's great, [really]"
    cut = ["cut=windows", "max_clip_s=1.5", "window_s=1"]
    predicted = msa("predict", "run=a run, [x=1]", f"input={videos}/a $_$ b.wav", text)
    assert predicted.returncode == 0, predicted.stderr
    predicted = msa("predict", "run=a run, [x=1]", f"input={videos}", *cut)
    assert predicted.returncode == 0, predicted.stderr
    scores = pd.read_csv(tmp_path / "predictions" / videos.name / "scores.csv")
    assert scores["id"].tolist() == [f"a $_$ b_{n}" for n in (1, 2, 3)]
    assert scores["missing_text"].tolist() == ["no transcript"] * 3

    corpus.rename(corpus.with_name("gone"))  # a prediction needs nothing of the training corpus
    try:
        vectors = f"{corpus.with_name('gone')}/vectors.txt"
        (corpus.parent / corpus.name).mkdir()
        (corpus / "vectors.txt").write_bytes(Path(vectors).read_bytes())
        again = msa("predict", "run=a run, [x=1]", f"input={videos}", *cut)
        assert again.returncode == 0, again.stderr
    finally:
        (corpus / "vectors.txt").unlink()
        corpus.rmdir()
        corpus.with_name("gone").rename(corpus)


@pytest.mark.slow
def test_jobs_of_the_joblib_launcher_extract_in_processes(
    msa: Command, corpus: Path, tmp_path: Path
) -> None:
    data = ["data=mosi", *chosen(corpus), *source(corpus, "data.source"), "data.batch_size=4"]
    data += ["data.extraction.max_failed=0.1", "data.extraction.workers=1"]
    done = msa("train", "-m", *data, "seed=0,1", "trainer.max_epochs=1", "hydra/launcher=joblib")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/mosi/*/metrics.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "source=mosi_raw", "source.folder=no [where]"], "no such file"),
        (["extract", "source=media_folder", "source.folder=no, where"], "no such file or folder"),
        (["extract", "source=media_folder"], "source.folder: missing"),
        pytest.param(["predict", "run=no", "input=x.mp4"], "no run", marks=pytest.mark.slow),
        pytest.param(["predict", "input=x.mp4"], "run: missing", marks=pytest.mark.slow),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    msa: Command, corpus: Path, arguments: list[str], message: str
) -> None:
    extra = chosen(corpus) if arguments[0] == "extract" else []
    done = msa(*arguments, *extra)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shard_or_a_preview_may_look_like_a_number(msa: Command, corpus: Path) -> None:
    extract = ["extract", "source=mosi_raw", *chosen(corpus), *source(corpus)]
    shard = msa(*extract, "shard=0")
    assert (shard.returncode, "shard: '0' is not i/n" in shard.stderr) == (2, True)
    preview = msa(*extract, "preview=100178_1")
    assert (preview.returncode, "no clip 100178_1" in preview.stderr) == (2, True)
