"""Preparing a corpus against reading it: time as a ratio, and resident memory.

Writes a set of .csd files in the sizes of MOSEI (713 columns at 30 Hz, 74 at 100 Hz, 300 for each
word), then measures in turn, each in a fresh process and without start-up and imports:

* read: a sequential h5py read of every dataset of the files,
* prepare: what ``msa-prepare source=mosei_csd`` does, from the same files to the finished one.

Warm: the files are in the page cache. Cold: they are dropped from it before each measurement.

    python benchmarks/prepare.py                 the claim: cold <= 2, warm <= 6, memory <= 1 GB
    python benchmarks/prepare.py --gb .2 --videos 300 --repetitions 2
"""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from msa_lightning.datasets.csd import write_sequence
from msa_lightning.datasets.csd_source import CsdSource
from msa_lightning.datasets.labels import FOLDS, LabelColumns

LIMITS = {"cold": 2.0, "warm": 6.0}
MEMORY_LIMIT_GB = 1.0
CLIPS = 7  # of a video, as in MOSEI
STREAMS = {"text": (300, 2.7), "audio": (74, 100.0), "visual": (713, 30.0)}  # columns, rows in 1 s


def generate(folder: Path, gigabytes: float, videos: int) -> None:
    """Write the corpus: contiguous float32 features, float64 times, as in the SDK's files."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(2**22, dtype=np.float32)
    bytes_a_second = sum(rate * (4 * columns + 16) for columns, rate in STREAMS.values())
    seconds = 1e9 * gigabytes / videos / bytes_a_second
    names = [f"video_{i:05d}" for i in range(videos)]
    for modality, (columns, rate) in STREAMS.items():
        times = np.arange(np.ceil(seconds * rate)) / rate
        intervals = np.stack([times, times + 1 / rate], axis=1)
        size = len(times) * columns
        rows = {
            name: (np.resize(np.roll(noise, -i), size).reshape(-1, columns), intervals)
            for i, name in enumerate(names[:50])  # repeated: what matters is how much there is
        }
        write_sequence(
            folder / f"{modality}.csd",
            modality,
            {n: rows[names[i % 50]] for i, n in enumerate(names)},
        )
    edges = np.linspace(0, seconds, CLIPS + 1)
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)
    labels = {name: (rng.uniform(0, 3, (CLIPS, 7)).astype(np.float32), intervals) for name in names}
    write_sequence(folder / "labels.csd", "All Labels", labels)
    parts = np.array_split(np.array(names), 3)
    folds = {fold: part.tolist() for fold, part in zip(FOLDS.values(), parts, strict=True)}
    (folder / "folds.json").write_text(json.dumps(folds))


def read(folder: Path) -> None:
    """Read every dataset of the four files."""
    for path in sorted(folder.glob("*.csd")):
        with h5py.File(path, "r") as file:
            (root,) = file.values()
            for video in root["data"].values():
                video["features"][()]
                video["intervals"][()]


def prepare(folder: Path) -> None:
    """Prepare the corpus, from nothing."""
    source = CsdSource(
        corpus="benchmark",
        folder=str(folder),
        features={m: f"{m}.csd" for m in STREAMS},
        dims={m: columns for m, (columns, _) in STREAMS.items()},
        labels="labels.csd",
        targets={
            "sentiment": LabelColumns(["sentiment"], -3, 3),
            "emotions": LabelColumns(
                ["happy", "sad", "anger", "surprise", "disgust", "fear"], 0, 3
            ),
        },
        first_clip=0,
        folds=str(folder / "folds.json"),
        aggregate="mean",
        output=str(folder / "out" / "benchmark.h5"),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        source.prepare()


def measure(what: str, folder: Path, *, cold: bool) -> tuple[float, float]:
    """Run one of the two in a fresh process; return seconds and peak resident GB."""
    (folder / "out" / "benchmark.h5").unlink(missing_ok=True)
    for path in folder.glob("*.csd") if cold else ():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    command = [sys.executable, __file__, "--run", what, "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = json.loads(answer)
    return seconds, memory


def run(what: str, folder: Path) -> None:
    start = time.perf_counter()
    {"read": read, "prepare": prepare}[what](folder)
    seconds = time.perf_counter() - start
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([seconds, int(peak[1]) * 1024 / 1e9 if peak else float("nan")]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=2.1)
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--run", choices=["read", "prepare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run, args.folder)
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        generate(folder, args.gb, args.videos)
        os.sync()  # pages that are not written yet cannot be dropped
        size = sum(path.stat().st_size for path in folder.glob("*.csd"))
        print(f"{size / 1e9:.2f} GB, {args.videos:,} videos, {CLIPS * args.videos:,} clips")
        peak, failed = 0.0, False
        for state, limit in LIMITS.items():
            measure("read", folder, cold=False)  # so that the first warm repetition is warm
            ratios = []
            for _ in range(args.repetitions):
                reading, _memory = measure("read", folder, cold=state == "cold")
                preparing, memory = measure("prepare", folder, cold=state == "cold")
                ratios.append(preparing / reading)
                peak = max(peak, memory)
                print(
                    f"{state}: read {reading:5.2f} s, prepare {preparing:5.2f} s, {ratios[-1]:.2f}x"
                )
            failed |= max(ratios) > limit
            print(f"{state}: worst {max(ratios):.2f}x, limit {limit:g}x")
        failed |= peak > MEMORY_LIMIT_GB
        print(f"resident: at most {peak:.2f} GB, limit {MEMORY_LIMIT_GB:g} GB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
