"""Inside a SLURM job: nothing but SLURM ends it, so that SLURM starts it again.

SLURM starts a job once more that it has stopped itself, but not one that has ended. At SIGTERM,
which announces that the job is preempted, Lightning ends training with exit code 0, and the job
counts as completed. At USR1 it saves a checkpoint that all devices have to write together, while
each of them is somewhere else in its step. There is nothing to save: ``last.ckpt`` holds the last
complete epoch.
"""

import logging
import os
import signal
import subprocess

log = logging.getLogger("msa_lightning")


def leave_ending_to_slurm() -> None:
    """Go on after SIGTERM, and requeue the job at USR1, which can be ordered before a time limit.

    Lightning leaves a handler of USR1 alone that it finds, but not one of SIGTERM: call this once
    more when training begins. In a job of submitit, which has a signal of its own for the time
    limit, USR1 works too.
    """
    if "SLURM_PROCID" not in os.environ:
        return
    signal.signal(signal.SIGTERM, _go_on)
    signal.signal(signal.SIGUSR1, _requeue)


def _go_on(*_: object) -> None:
    log.info("SIGTERM: going on until SLURM stops this job")


def _requeue(*_: object) -> None:
    if os.environ["SLURM_PROCID"] != "0":
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # of one job in the array the id is that of them all
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    log.info("USR1: requeueing job %s", job)
    code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
    if code:
        log.warning("job %s was not requeued: scontrol ended with code %s", job, code)
