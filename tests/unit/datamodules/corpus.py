"""A tiny prepared corpus, to be changed before it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msa_lightning.batch import Batch
from msa_lightning.datamodules.mosei import MoseiDataModule
from msa_lightning.datasets.hdf5 import ClipTable, FeatureWriter, write_table, write_whole

DIMS = {"text": 3, "audio": 2, "visual": 4}
EMOTIONS = ["happy", "sad", "anger", "surprise", "disgust", "fear"]


Load = Callable[..., MoseiDataModule]


@dataclass
class Corpus:
    """Twelve videos, one of them in no fold; change it, then write it."""

    videos: np.ndarray
    ids: np.ndarray
    splits: np.ndarray
    targets: dict[str, np.ndarray]
    rows: dict[str, list[np.ndarray]]
    frames: dict[str, np.ndarray]
    aggregate: str

    def write(self, path: Path) -> None:
        with write_whole(path, path.parent) as file:
            digests = {}
            for m, rows in self.rows.items():
                sequence = self.aggregate == "sequence"
                group = file.create_group(f"features/{m}")
                writer = FeatureWriter(group, rows[0].shape[1], times=sequence)
                for values in rows:
                    writer.add(values, np.zeros((len(values), 2)) if sequence else None)
                writer.end_clips([len(x) for x in rows], self.frames[m].tolist())
                digests[m] = writer.close()
            table = ClipTable(
                path=path,
                corpus="tiny",
                aggregate=self.aggregate,
                synthetic=True,
                digest="",
                ids=self.ids,
                videos=self.videos,
                splits=self.splits,
                intervals=np.zeros((len(self.ids), 2)),
                targets=self.targets,
                columns={"sentiment": ["sentiment"], "emotions": EMOTIONS},
                dims={},
                frames={},
            )
            write_table(file, table, digests, {}, {})

    def at(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.splits == split)

    def drop(self, m: str, clips: list[int]) -> None:
        for i in clips:
            self.rows[m][i] = self.rows[m][i][:0]
            self.frames[m][i] = 0


def make_corpus(aggregate: str = "mean") -> Corpus:
    rng = np.random.default_rng(0)
    fold = ["train", "valid", "train", "test", "train", "none", *["train"] * 3, "valid", "test"]
    numbers = [(v, n) for v in range(12) for n in range(1 + v % 3)]
    videos = np.array([f"{'-' if v % 4 == 0 else 'v'}{v:02}" for v, _ in numbers])
    order = np.argsort(videos, kind="stable")
    n = len(numbers)
    lengths = {m: rng.integers(1, 6, n) if aggregate == "sequence" else [1] * n for m in DIMS}
    rows = {
        m: [rng.normal(i, 2, (t, d)).astype(np.float32) for i, t in enumerate(lengths[m])]
        for m, d in DIMS.items()
    }
    corpus = Corpus(
        videos=videos[order],
        ids=np.array([f"{videos[i]}_{numbers[i][1]}" for i in order]),
        splits=np.array([[*fold, "train"][numbers[i][0]] for i in order]),
        targets={
            "sentiment": rng.uniform(-3, 3, (n, 1)).astype(np.float32),
            "emotions": rng.uniform(0, 3, (n, 6)).astype(np.float32),
        },
        rows=rows,
        frames={m: rng.integers(1, 40, n) for m in DIMS},
        aggregate=aggregate,
    )
    corpus.drop("audio", [0, 4])
    corpus.drop("visual", [1])
    if aggregate == "sequence":
        corpus.frames = {m: np.array([len(r) for r in rows[m]]) for m in DIMS}
    return corpus


def whole(datamodule: MoseiDataModule, split: str) -> Batch:
    dataset = datamodule.dataset(split)
    return dataset[list(range(len(dataset)))]
