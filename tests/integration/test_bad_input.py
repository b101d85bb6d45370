"""What is wrong with the input is said in one message, with exit code 2, and nothing is left."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from msa_lightning.train import main


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.path=absent.h5"], "absent.h5: not found; make it with msa-prepare"),
        (["model=tfn", "modalities=text"], "TFN needs text, audio and visual"),
        (["model=nets"], "model"),
        (["data.dims.audio=5"], "demo.h5: features/audio has 74 columns, data.dims.audio is 5"),
        (["~data.dims.audio"], "modalities asks for audio, but data.dims has no audio"),
        (["data.targets.sentiment.range=[0,1]"], "expected a number in [0, 1]"),
        (["+data.targets.arousal={range:[0,1]}"], "no target 'arousal'"),
        (["data.normaliser=minmax"], "data.normaliser: 'minmax' is not Literal"),
        (["trainer.max_epochs=many"], "trainer.max_epochs: 'many' is not"),
        (["optimizer.lr=fast"], "optimizer.lr: 'fast' is not"),
        (["objective.monitor=accuracy"], "objective.monitor: 'accuracy' is not among the metrics"),
        (["model.fusion_input=both"], "model.fusion_input: 'both' is not"),
        (["selection=valid"], "selection: 'valid' is neither validation nor none"),
        (["data.batch_size=0"], "data.batch_size"),
        (["objective=multi_task"], "objective.targets.emotions: no loss term is of it"),
        (
            ["objective=multi_task", "loss=multi_task", "~data.targets.emotions"],
            "data.targets has sentiment, not emotions",
        ),
        (["trainer=gpu", "trainer.devices=64"], "pytorch_lightning.Trainer: "),
        (["init_from=nowhere"], "nowhere: no config.yaml in it"),
        (["data=mosi_utterance", "data.path=absent.npz"], "absent.npz: no such file"),
    ],
)
def test_bad_input(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    code, stderr = _run(["data=demo", *overrides], prepared, tmp_path, monkeypatch, capsys)
    assert message in stderr
    if overrides != ["model=nets"]:  # that one is Hydra's
        assert code == 2
        assert stderr.startswith("error: ")
        assert "Traceback" not in stderr
    assert not list(tmp_path.glob("runs/[!.]*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f["split"].__setitem__(f["split"].asstr()[()] == "valid", "none"), "'valid'"),
        (lambda f: f["targets/sentiment"].__setitem__((0, 0), np.nan), "is [nan], expected"),
        (lambda f: f["targets/sentiment"].__setitem__((0, 0), 4), "is [4.0], expected"),
        (lambda f: f["features"].__delitem__("visual"), "visual"),
    ],
    ids=["empty split", "NaN label", "label out of range", "absent modality"],
)
def test_bad_file(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: object,
    message: str,
) -> None:
    copy = tmp_path / "demo.h5"
    copy.write_bytes((prepared / "demo.h5").read_bytes())
    with h5py.File(copy, "r+") as file:
        file["split"][0] = "train"
        damage(file)  # type: ignore[operator]
    code, stderr = _run(["data=demo"], tmp_path, tmp_path, monkeypatch, capsys)
    assert code == 2
    assert "demo.h5" in stderr
    assert message in stderr
    assert not list(tmp_path.glob("runs/[!.]*"))


def test_truncated_file(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "demo.h5").write_bytes((prepared / "demo.h5").read_bytes()[:20_000])
    code, stderr = _run(["data=demo"], tmp_path, tmp_path, monkeypatch, capsys)
    assert code == 2
    assert "demo.h5" in stderr
    assert "Traceback" not in stderr


def _run(
    overrides: list[str],
    prepared: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[object, str]:
    """Run msa-train in this process; its exit code and what it printed to stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MSA_PREPARED", str(prepared))
    monkeypatch.setattr(sys, "argv", ["msa-train", *overrides])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err
