"""Console behaviour: exit codes, messages, sweeps."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Command

QUICK = ("data=demo", "trainer.max_epochs=2", "model.hidden=32")


def test_importing_a_command_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, msa_lightning.{0}; "
        "print(sorted({{'torch', 'pytorch_lightning', 'h5py', 'pandas'}} & sys.modules.keys()))"
    )
    for name in ("prepare", "train", "evaluate", "report"):
        command = [sys.executable, "-c", code.format(name)]
        assert subprocess.check_output(command, cwd=ROOT, text=True).strip() == "[]"


def test_help(msa: Command) -> None:
    done = msa("train", "--help")
    assert done.returncode == 0
    assert "modalities: audio, audio_visual, text" in done.stdout


def test_misspelt_override_keeps_the_message_and_code_of_hydra(
    msa: Command, tmp_path: Path
) -> None:
    done = msa("train", "dta=demo")
    assert done.returncode == 1
    assert "Could not override 'dta'" in done.stderr
    assert not list(tmp_path.glob("runs/[!.]*"))


@pytest.mark.slow
def test_misspelt_argument_of_a_class(msa: Command, tmp_path: Path) -> None:
    done = msa("train", "data=demo", "+optimizer.lrr=1", "+model.hiden=2")
    assert done.returncode == 2
    assert "optimizer: torch.optim.Adam got an unexpected keyword argument 'lrr'" in done.stderr
    assert "did you mean 'hidden'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/[!.]*"))


@pytest.mark.slow
def test_odd_characters_in_a_path(msa: Command, tmp_path: Path) -> None:
    folder = tmp_path / "a b, [c]=d's"
    assert msa("train", *QUICK, f"paths.run={folder}").returncode == 0
    done = msa("evaluate", f"run={folder}")
    assert done.returncode == 0, done.stderr
    assert "test/mae" in done.stdout
    assert "synthetic" in done.stdout


@pytest.mark.slow
def test_evaluate_without_a_run(msa: Command) -> None:
    done = msa("evaluate", "run=nowhere")
    assert done.returncode == 2
    assert "nowhere: no run there" in done.stderr


@pytest.mark.slow
def test_sweep_goes_on_after_a_failed_job(msa: Command, tmp_path: Path) -> None:
    quick = ("data=demo", "trainer.max_epochs=2", "model=tfn", "model.text_out=4")
    done = msa("train", "-m", *quick, "modalities=text,text_audio_visual")
    assert done.returncode == 2
    assert "TFN needs" in done.stderr
    [run] = tmp_path.glob("runs/demo/*")
    assert (run / "metrics.json").exists()


@pytest.mark.slow
def test_seven_combinations(msa: Command, tmp_path: Path) -> None:
    done = msa("train", "-m", *QUICK, "modalities=glob(*)", "seed=0,1")
    assert done.returncode == 0, done.stderr
    runs = list(tmp_path.glob("runs/demo/*"))
    assert len(runs) == 14
    assert all("=" not in run.name and (run / "metrics.json").exists() for run in runs)
    again = msa("train", "-m", *QUICK, "modalities=glob(*)", "seed=0,1")
    assert again.stdout.count("finished before") == 14


@pytest.mark.slow
def test_every_job_of_a_sweep_is_a_run_of_its_own_for_wandb(msa: Command, tmp_path: Path) -> None:
    offline = ("logger=wandb", "logger.wandb.offline=true")
    done = msa("train", "-m", *QUICK, *offline, "seed=0,1")
    assert done.returncode == 0, done.stderr
    runs = list(tmp_path.glob("runs/demo/*"))
    assert len(runs) == 2
    files = [list(run.glob("wandb/offline-run-*/*.wandb")) for run in runs]
    assert [len(found) for found in files] == [1, 1]
    assert files[0][0].name != files[1][0].name
    assert all((run / "history.csv").exists() for run in runs)


@pytest.mark.slow
def test_tensorboard(msa: Command, tmp_path: Path) -> None:
    assert msa("train", *QUICK, "logger=tensorboard").returncode == 0
    assert list(tmp_path.glob("runs/demo/*/tensorboard/events.out.tfevents.*"))


@pytest.mark.slow
def test_installed_wheel_works_from_any_directory(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True)
    [wheel] = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    script = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import msa_lightning.train as command; "
        f"assert command.__file__.startswith({str(target)!r}); "
        "sys.argv = ['msa-train', '--help']; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    assert "modalities: audio" in done.stdout
