"""Cost of a sweep: 35 jobs in one multirun, over the cores, and as 35 processes.

The jobs are those of ``experiments/mosi_modalities``: seven combinations of modalities with five
seeds each, 40 epochs on MOSI's utterance vectors, one thread each. The multirun and the 35
processes run side by side, each on a core of its own (``taskset``), so that both meet the same
moods of the machine, as long as both run. What a job costs beside its training is the time of a
multirun alone that is not inside the epochs, over that which is: composition, set-up, logging,
checkpoints, scores, and the start of the command.

    MSA_DATA=<folder> python benchmarks/sweep.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

COMBINATIONS = ("text", "audio", "visual", "text_audio", "text_visual", "audio_visual")
COMBINATIONS += ("text_audio_visual",)
SEEDS = range(5)
TRAIN = (sys.executable, "-m", "msa_lightning.train")
EXPERIMENT = "experiment=mosi_modalities"
WATCH = "+callbacks.stopwatch._target_=benchmarks.stopwatch.Stopwatch"


def call(*arguments: str, core: int | None = None) -> float:
    """Seconds of a command, on one core or on all."""
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    bound = () if core is None else ("taskset", "--cpu-list", str(core))
    began = time.perf_counter()
    command = [*bound, *TRAIN, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ) | here)
    return time.perf_counter() - began


def multirun(folder: str, *arguments: str, core: int | None = None) -> float:
    """Seconds of the sweep as one command."""
    seeds = ",".join(map(str, SEEDS))
    sweep = ("-m", EXPERIMENT, "modalities=glob(*)", f"seed={seeds}", f"paths.runs={folder}")
    return call(*sweep, *arguments, core=core)


def processes(folder: str, core: int) -> float:
    """Seconds of the same jobs, one command each."""
    return sum(
        call(EXPERIMENT, f"modalities={m}", f"seed={seed}", f"paths.runs={folder}", core=core)
        for m, seed in product(COMBINATIONS, SEEDS)
    )


def inside_epochs(folder: str) -> float:
    """Seconds that the jobs of a sweep spent in training, by their stopwatches."""
    return sum(float(path.read_text()) for path in Path(folder).rglob("stopwatch.txt"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        with ThreadPoolExecutor() as both:
            cores = sorted(os.sched_getaffinity(0))
            first = both.submit(multirun, a, core=cores[0])
            second = both.submit(processes, b, core=cores[1])
        together, apart = first.result(), second.result()
    print(f"one multirun {together:.0f} s, 35 processes {apart:.0f} s: {apart / together:.2f}")
    with tempfile.TemporaryDirectory() as c, tempfile.TemporaryDirectory() as d:
        one, two = multirun(c, WATCH), multirun(d, WATCH, "hydra/launcher=joblib")
        training = inside_epochs(c)
    beside = (one - training) / training
    print(f"basic launcher {one:.0f} s, joblib {two:.0f} s: {one / two:.2f}")
    print(f"training {training:.0f} s of {one:.0f} s: {beside:.1%} beside it")
    raise SystemExit(apart / together < 1.5 or one / two < 1.6 or beside > 0.2)


if __name__ == "__main__":
    main()
