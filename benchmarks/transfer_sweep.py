"""A sweep of transfers, methods and seeds, on two cores against one.

Both run the same part of ``experiments/text_transfer`` from the same base runs and caches, which
are made first; one job at a time with one thread, against one job per core.

    MSA_DATA=<folder> python benchmarks/transfer_sweep.py
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRANSFER = (sys.executable, "-m", "msa_lightning.transfer", "-m", "experiment=text_transfer")


def sweep(runs: Path, methods: str, seeds: str, jobs: int) -> float:
    """Seconds of the sweep."""
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*TRANSFER, f"method={methods}", f"seed={seeds}", f"paths.runs={runs}"]
    if jobs == 1:
        environment["OMP_NUM_THREADS"] = "1"
    else:
        command += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="random,coral,mmd,paired,label_matched,task")
    parser.add_argument("--seeds", default="0,1,2,3")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        sweep(runs, "untrained,paired", arguments.seeds, jobs=2)
        seconds = []
        for jobs in (1, 2):
            shutil.rmtree(runs / "text_transfer")
            seconds.append(sweep(runs, arguments.methods, arguments.seeds, jobs))
    print(f"one core {seconds[0]:.0f} s, two cores {seconds[1]:.0f} s: ", end="")
    print(f"{seconds[0] / seconds[1]:.2f} (limit 1.6)")
    raise SystemExit(seconds[0] / seconds[1] < 1.6)


if __name__ == "__main__":
    main()
