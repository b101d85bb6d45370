"""Signals inside a SLURM job; a script stands for scontrol (a real one: tests/smoke)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from msa_lightning.slurm import leave_ending_to_slurm


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The environment of a job; what it asks of scontrol is in the file."""
    asked = tmp_path / "asked"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)}
    yield asked
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_usr1_requeues_the_job(job: Path) -> None:
    leave_ending_to_slurm()
    signal.raise_signal(signal.SIGUSR1)
    assert job.read_text() == "requeue 17\n"


def test_usr1_requeues_one_job_of_an_array(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    leave_ending_to_slurm()
    signal.raise_signal(signal.SIGUSR1)
    assert job.read_text() == "requeue 17_3\n"


def test_one_process_of_a_job_requeues_it(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    leave_ending_to_slurm()
    signal.raise_signal(signal.SIGUSR1)
    assert not job.exists()


def test_sigterm_does_not_end_the_job(job: Path) -> None:
    leave_ending_to_slurm()
    signal.raise_signal(signal.SIGTERM)
    assert not job.exists()


def test_outside_of_slurm_signals_are_as_they_were(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_PROCID")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    leave_ending_to_slurm()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before
