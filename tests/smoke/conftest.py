"""Commands as a user gives them: each in a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``demo.h5``, made by the command."""
    folder = tmp_path_factory.mktemp("prepared")
    done = call("prepare", "source=demo", "source.make.videos=30", cwd=folder, prepared=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def msa(prepared: Path, tmp_path: Path) -> Command:
    """Run a command in ``tmp_path``: ``msa("train", "data=demo")``."""
    return lambda *arguments: call(*arguments, cwd=tmp_path, prepared=prepared)


def call(
    name: str, *arguments: str, cwd: Path, prepared: Path
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"msa_lightning.{name}", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(prepared), text=True, capture_output=True, timeout=900
    )


def environment(prepared: Path) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1"}
    return os.environ | threads | {"MSA_PREPARED": str(prepared), "PYTHONPATH": str(ROOT)}
