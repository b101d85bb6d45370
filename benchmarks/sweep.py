"""Cost of a sweep: 35 jobs in one multirun, over the cores, and as 35 processes.

The jobs are those of ``experiments/mosi_modalities``: seven combinations of modalities with five
seeds each, 40 epochs on MOSI's utterance vectors. What a job costs beside its training is the time
of the multirun that is not inside the epochs, over that which is: composition, set-up, logging,
checkpoints, scores, and the start of the command.

    MSA_DATA=<folder> python benchmarks/sweep.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

COMBINATIONS = ("text", "audio", "visual", "text_audio", "text_visual", "audio_visual")
COMBINATIONS += ("text_audio_visual",)
SEEDS = range(5)
TRAIN = (sys.executable, "-m", "msa_lightning.train")
EXPERIMENT = "experiment=mosi_modalities"
WATCH = "+callbacks.stopwatch._target_=benchmarks.stopwatch.Stopwatch"


def call(*arguments: str, threads: int | None = None) -> float:
    """Seconds of a command."""
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.perf_counter()
    subprocess.run([*TRAIN, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def multirun(folder: str, *arguments: str) -> float:
    """Seconds of the sweep as one command."""
    seeds = ",".join(map(str, SEEDS))
    sweep = ("-m", EXPERIMENT, "modalities=glob(*)", f"seed={seeds}", f"paths.runs={folder}")
    return call(*sweep, *arguments)


def processes(folder: str) -> float:
    """Seconds of the same jobs, one command each."""
    return sum(
        call(EXPERIMENT, f"modalities={m}", f"seed={seed}", f"paths.runs={folder}")
        for m, seed in product(COMBINATIONS, SEEDS)
    )


def inside_epochs(folder: str) -> float:
    """Seconds that the jobs of a sweep spent in training, by their stopwatches."""
    return sum(float(path.read_text()) for path in Path(folder).rglob("stopwatch.txt"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        together, apart = multirun(a), processes(b)
    with tempfile.TemporaryDirectory() as c, tempfile.TemporaryDirectory() as d:
        launcher = ("hydra/launcher=joblib", WATCH)
        one, two = multirun(c, WATCH), multirun(d, *launcher)
        training = inside_epochs(c)
    beside = (one - training) / training
    print(f"one multirun {together:.0f} s, 35 processes {apart:.0f} s: {apart / together:.2f}")
    print(f"basic launcher {one:.0f} s, joblib {two:.0f} s: {one / two:.2f}")
    print(f"training {training:.0f} s of {one:.0f} s: {beside:.1%} beside it")
    raise SystemExit(apart / together < 1.5 or one / two < 1.6 or beside > 0.2)


if __name__ == "__main__":
    main()
