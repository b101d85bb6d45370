"""Jobs of a sweep that failed: each leaves a note, and the sweep lists them when it ends.

Hydra itself reports the first failed job only, and none of an adaptive search.
"""

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from msa_lightning.errors import USER_ERRORS, JobError

_NOTE = "failed.json"
_begun: list["Sweep"] = []


class FailedJobError(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message without a traceback.

    Unlike the error that it stands for, it can be sent to another process whatever that one holds.
    """


@dataclass(frozen=True)
class Failed:
    """What a job leaves behind that did not come to its end.

    Attributes:
        job: Its number in the sweep.
        overrides: What it was asked for.
        reason: Why.
        code: Exit code that it stands for; 2 if the user's input is at fault.
        run: Its run, ``<experiment>/<name>``; empty where that is not known beforehand.
    """

    job: int
    overrides: list[str]
    reason: str
    code: int
    run: str = ""

    def write(self, folder: Path) -> None:
        """Leave the note in the folder that Hydra keeps for the job."""
        temporary = folder / f".{uuid4().hex}.tmp"  # a job may be several processes
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(folder / _NOTE)


class Sweep(Callback):
    """Remember where the jobs of the sweep that this process begins leave their notes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the sweep's folder, and the overrides as they were given."""
        self.path = Path(config.hydra.sweep.dir)
        self.overrides = list(config.hydra.overrides.task)
        _begun.append(self)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let go of a job's configuration, which Hydra would keep until the sweep's end."""
        job_return.cfg = job_return.hydra_cfg = None


def under_way() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.get().mode is RunMode.MULTIRUN


def run(main: Callable[[DictConfig], Any], cfg: DictConfig, name: str) -> Any:
    """Run a job of a sweep, with a note in its folder until it has ended well.

    Args:
        main: The job.
        cfg: Its configuration.
        name: Of its run, if that is known beforehand.

    Returns:
        What the job returns, but None for NaN: Optuna's sweeper breaks off at NaN, and takes None
        for a trial without a result.

    Raises:
        FailedJobError: If the job fails; Hydra carries on with the others.
    """
    hydra = HydraConfig.get()
    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    reason = "no result: killed, or still running"
    note = Failed(hydra.job.num, overrides, reason, code=1, run=name)
    first = os.environ.get("SLURM_PROCID", "0") == "0"  # of the processes of a job on a cluster
    if first:
        note.write(folder)
    try:
        value = main(cfg)
    except Exception as error:
        if isinstance(error, (*USER_ERRORS, JobError)):
            reason = str(error)
            print(f"error: {reason}", file=sys.stderr)
        else:
            reason = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        code = 2 if isinstance(error, USER_ERRORS) else 1
        if not _failed(folder, note):  # of several processes, the first to fail knows why
            replace(note, reason=reason, code=code).write(folder)
        raise FailedJobError(reason) from None
    if first and not _failed(folder, note):
        (folder / _NOTE).unlink(missing_ok=True)
    return None if isinstance(value, float) and math.isnan(value) else value


def _failed(folder: Path, begun: Failed) -> bool:
    """Whether a process of the job has left word that it failed."""
    path = folder / _NOTE
    return path.is_file() and json.loads(path.read_text())["reason"] != begun.reason


def unfinished(runs: Path) -> dict[Path, str]:
    """Runs that sweeps have asked for below a folder and that have not even begun, and why."""
    notes = sorted(runs.glob(f".hydra/*/*/{_NOTE}"))
    failed = (Failed(**json.loads(note.read_text())) for note in notes)
    wanted = {runs / job.run: job.reason for job in failed if job.run}
    return {run: reason for run, reason in wanted.items() if not run.exists()}


def failed_jobs() -> tuple[list[Failed], str]:
    """The failed jobs of the sweep that this process began, and the list of them for people."""
    if not _begun:
        return [], ""
    sweep = _begun.pop()
    notes = (json.loads(path.read_text()) for path in sweep.path.glob(f"*/{_NOTE}"))
    failed = sorted((Failed(**note) for note in notes), key=lambda f: f.job)
    jobs = len(list(sweep.path.glob("[0-9]*")))
    lines = [f"{len(failed)} of {jobs} jobs failed:"]
    for job in failed:
        own = [override for override in job.overrides if override not in sweep.overrides]
        lines += [f"  #{job.job}  {'  '.join(own)}", indent(job.reason, " " * 6)]
    lines.append("The same command runs them again, and skips what has finished.")
    return failed, "\n".join(lines)
