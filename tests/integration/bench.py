"""A tiny corpus of raw media on which every phase of a transfer runs in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from msa_lightning.adapt import adapt
from msa_lightning.adapters.spaces import choose_data
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.train import train
from msa_lightning.transfer import transfer
from tests.data.make_raw import WORDS, make_raw
from tests.integration.configure import configure

JOBS: dict[str, Callable[..., Any]] = {"train": train, "adapt": adapt, "transfer": transfer}
TARGETS = ("targets=8", "draws=8")
Weights = dict[str, torch.Tensor]


class Bench:
    """A tiny corpus, a base run on it, and a source: the same clips through other extractors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = make_raw(folder / "raw")
        lines = [f"{w} {y} 1 {y * y} 0.5 {-y}\n" for w, y in WORDS.items()]
        (self.corpus / "other.txt").write_text("it 1 0 0 0 0\nwas 0 1 0 1 0\n" + "".join(lines))
        self.base = folder / "base"
        base = ("extractor/audio=librosa29", f"extractor.text.path={self.corpus}/vectors.txt")
        base += ("model.hidden=8", "model.dropout=0", "model.attention_dropout=0")
        base += ("trainer.max_epochs=20", "optimizer.lr=0.01", "selection=none")
        self.call("train", self.base, *base, "modalities=text_audio")
        self.valid_and_test = {f"v{v}_{n}" for v in (6, 7, 8, 9) for n in (1, 2)}

    def options(self, run: Path) -> list[str]:
        chosen = ["data=mosi", "extractor/text=word_vectors", "extractor/audio=librosa74"]
        chosen += [f"extractor.text.path={self.corpus}/other.txt", "data.batch_size=4"]
        chosen += [f"data.source.folder={self.corpus}", "data.source.labels=labels.csv"]
        chosen += ["data.source.folds=folds.json", "data.extraction.workers=0"]
        chosen += [f"paths.{name}={self.folder / name}" for name in ("prepared", "cache")]
        fixed = [f"paths.run={run}", "trainer.max_epochs=2", "+trainer.enable_progress_bar=false"]
        return [*chosen, *fixed, "~callbacks.progress"]

    def call(self, job: str, run: Path, *overrides: str) -> LoadedRun:
        cfg = configure(job, *self.options(run), *overrides)
        with run_context(choose_data(cfg) if job == "adapt" else cfg) as started:
            JOBS[job](started)
        return load_run(run)

    def adapt(self, run: Path, *overrides: str, modality: str = "text") -> LoadedRun:
        fixed = (f"adapter={modality}", "adapter.hidden=[8]", f"base={self.base}", *TARGETS)
        return self.call("adapt", run, *fixed, *overrides)

    def transfer(self, run: Path, *overrides: str) -> LoadedRun:
        small = [f"networks.{m}.adapter.hidden=[8]" for m in ("text", "audio")]
        fixed = (*small, "modalities=text_audio", f"base={self.base}", *TARGETS)
        return self.call("transfer", run, *fixed, *overrides)


class Watch(Callback):
    """Keeps the last module that was trained."""

    module: Any = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Watch.module = pl_module


WATCH = "+callbacks.watch._target_=tests.integration.bench.Watch"


def weights(run: Path) -> Weights:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]  # type: ignore[no-any-return]


def assert_equal(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
