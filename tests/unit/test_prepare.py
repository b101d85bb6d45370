"""msa-prepare as a user calls it: what it writes, what it prints, and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msa_lightning import prepare
from msa_lightning.datasets.hdf5 import read_table
from msa_lightning.datasets.labels import read_folds
from tests.data.make_data import DIMS, FILES, csd_corpus

SMALL_DEMO = [
    "source.make.videos=12",
    "source.make.visual_rate_hz=1",
    "source.make.audio_rate_hz=2",
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Run msa-prepare in a folder of its own; return exit code and what it printed and logged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSA_DATA", raising=False)
    monkeypatch.delenv("MSA_PREPARED", raising=False)

    def run(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["msa-prepare", *overrides])
        code = 0
        try:
            prepare.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        logged = "\n".join(caplog.messages)  # pytest keeps the log to itself
        caplog.clear()
        return code, printed.err + printed.out + logged

    return run


@pytest.fixture
def tiny(tmp_path):
    """Write a tiny corpus to data/mosei; return the overrides that describe it."""

    def tiny(change=lambda corpus: None) -> list[str]:
        corpus = csd_corpus()
        change(corpus)
        corpus.write(tmp_path / "data" / "mosei")
        return [
            "source.labels=labels.csd",
            "source.folds=data/mosei/folds.json",
            *[f"source.features.{m}={file}" for m, file in FILES.items()],
            *[f"source.dims.{m}={dim}" for m, dim in DIMS.items()],
        ]

    return tiny


def test_demo_then_nothing_to_do(run, tmp_path):
    code, printed = run("source=demo", *SMALL_DEMO)
    assert code == 0, printed
    assert "synthetic" in printed
    assert printed.splitlines()[-1].startswith("prepared/demo.h5: ")
    assert printed.splitlines()[-1].endswith("next: msa-train data=demo")
    table = read_table(tmp_path / "prepared" / "demo.h5")
    assert table.dims == {"text": 300, "audio": 74, "visual": 713}
    assert table.synthetic
    before = (tmp_path / "prepared" / "demo.h5").stat().st_mtime_ns

    code, again = run("source=demo", *SMALL_DEMO)
    assert code == 0
    assert "prepared/demo.h5: up to date, nothing to do" in again
    assert (tmp_path / "prepared" / "demo.h5").stat().st_mtime_ns == before

    code, printed = run("source=demo", *SMALL_DEMO, "source.aggregate=sequence")
    assert code == 0, printed
    assert read_table(tmp_path / "prepared" / "demo_sequence.h5").aggregate == "sequence"


def test_mosei(run, tiny, tmp_path):
    code, printed = run("source=mosei_csd", *tiny())
    assert code == 0, printed
    assert printed.splitlines()[-1].endswith("next: msa-train data=mosei")
    table = read_table(tmp_path / "prepared" / "mosei.h5")
    assert len(table.ids) == 18
    assert not table.synthetic
    audit = json.loads((tmp_path / "prepared" / "mosei.audit.json").read_text())
    assert audit["digest"] == table.digest
    assert not any((tmp_path / "prepared").glob(".*"))


def test_files_elsewhere(run, tiny, tmp_path):
    overrides = tiny()
    (tmp_path / "data").rename(tmp_path / "else where")
    elsewhere = ["paths.data='else where'", "source.folds='else where/mosei/folds.json'"]
    code, printed = run(*overrides, *elsewhere, "paths.prepared=out")
    assert code == 0, printed
    assert (tmp_path / "out" / "mosei.h5").is_file()


def truncate(folder: Path) -> None:
    path = folder / FILES["visual"]
    path.write_bytes(path.read_bytes()[:-1000])


BAD_FILES = {
    "missing": (
        lambda folder: (folder / FILES["audio"]).unlink(),
        ["covarep.csd: not found in ", "data/mosei (source.folder)", "paths.data=", "source=demo"],
    ),
    "truncated": (truncate, ["openface.csd: truncated", "get it again"]),
    "not HDF5": (
        lambda folder: (folder / "labels.csd").write_text("no"),
        ["labels.csd: not an HDF5 file", "get it again"],
    ),
}
BAD_CONTENT = {
    "NaN label": (
        lambda corpus: corpus.labels["vid_02"][0].__setitem__((0, 0), np.nan),
        ["labels.csd: All Labels/data/vid_02", "(sentiment) is nan", "from -3 to 3", "correct"],
    ),
    "label out of range": (
        lambda corpus: corpus.labels["vid_02"][0].__setitem__((0, 0), 4),
        ["labels.csd: All Labels/data/vid_02", "(sentiment) is 4", "from -3 to 3", "correct"],
    ),
    "dims": (
        lambda corpus: corpus.sequences.update(text=corpus.sequences["visual"]),
        ["words.csd: text/data/", "found 5 columns", "source.dims.text is 4", "set source.dims"],
    ),
    "an empty split": (
        lambda corpus: corpus.folds.update(standard_test_fold=[]),
        ["folds.json: none of the 0 videos of standard_test_fold is labelled", "source.folds"],
    ),
}


def assert_refused(code: int, printed: str, parts: list[str], folder: Path) -> None:
    assert code == 2, printed
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    for part in parts:
        assert part in printed
    assert not (folder / "prepared").exists()


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_refused(run, tiny, tmp_path, kind):
    spoil, parts = BAD_FILES[kind]
    overrides = tiny()
    spoil(tmp_path / "data" / "mosei")
    assert_refused(*run(*overrides), parts, tmp_path)


@pytest.mark.parametrize("kind", BAD_CONTENT)
def test_bad_content_is_refused(run, tiny, tmp_path, kind):
    spoil, parts = BAD_CONTENT[kind]
    assert_refused(*run(*tiny(spoil)), parts, tmp_path)


def test_the_old_file_stays_when_new_input_is_bad(run, tiny, tmp_path):
    overrides = tiny()
    assert run(*overrides)[0] == 0
    digest = read_table(tmp_path / "prepared" / "mosei.h5").digest
    before = sorted((tmp_path / "prepared").iterdir())
    truncate(tmp_path / "data" / "mosei")
    assert run(*overrides)[0] == 2
    assert read_table(tmp_path / "prepared" / "mosei.h5").digest == digest
    assert sorted((tmp_path / "prepared").iterdir()) == before


def test_wrong_options(run, tmp_path):
    code, printed = run("source=demo", "+source.make.vidoes=20", "+source.agregate=mean")
    assert code == 2
    assert "source.make: msa_lightning.datasets.demo.make_demo got an unexpected" in printed
    assert "did you mean 'aggregate'?" in printed
    assert not (tmp_path / "prepared").exists()


def test_a_misspelt_override_keeps_hydras_message(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "msa_lightning.prepare", "source=demo", "source.sed=1"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(prepare.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "Could not override 'source.sed'" in ended.stderr


def test_help_imports_nothing_heavy():
    script = (
        "import sys, msa_lightning.prepare; print({'h5py', 'torch', 'rich'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(prepare.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == "set()"


def test_the_official_folds_come_with_the_package():
    folds = read_folds("mosei")
    assert {split: len(ids) for split, ids in folds.items()} == {
        "train": 2249,
        "valid": 300,
        "test": 678,
    }
    assert len({video for ids in folds.values() for video in ids}) == 3227
