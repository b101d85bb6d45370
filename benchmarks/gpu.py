"""What a GPU is worth: clips per second in training against the CPU, and where the clips lie.

The base model and TFN are trained on 16,326 clips of 713 + 74 + 300 numbers by what ``msa-train``
configures. Then the base model's steps alone are fed in three ways: by a stock DataLoader with two
processes, by our loader, both through page-locked memory and copied without waiting, and from
clips that lie in the GPU's memory.

    python benchmarks/gpu.py
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from stopwatch import Stopwatch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from train_epoch import BATCH, DIMS, PAPER, TRAIN, VALID, clips, combined, network

from msa_lightning.batch import Batch
from msa_lightning.config import CONF, instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.loader import BatchSampler, Loader, batch_loader
from msa_lightning.modules.fusion import FusionModule

EPOCHS = 3


class Pinned(pl.LightningDataModule):
    """The loaders of our datamodules over generated clips, page-locked where there is a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.train, self.valid = clips(TRAIN, 0), clips(VALID, 1)

    def train_dataloader(self) -> Loader:
        return batch_loader(self.train, BATCH, 0, num_workers=0, pin_memory=True)

    def val_dataloader(self) -> Loader:
        return batch_loader(self.valid, 1024, None, num_workers=0, pin_memory=True)


def train(*overrides: str, data: Pinned) -> float:
    """Clips per second of one run, without its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(CONF, version_base="1.3"):
            fixed = ["data=mosei", f"paths.run={folder}", f"trainer.max_epochs={EPOCHS}"]
            cfg = compose("train", [*fixed, *overrides])
        objective, timer = instantiate(cfg.objective), Epochs()
        module = FusionModule(
            net=instantiate(cfg.model, dims=DIMS, outputs=objective.outputs),
            objective=objective,
            optimizer=instantiate(cfg.optimizer),
            scheduler=instantiate(cfg.scheduler),
        )
        if cfg.compile:
            module.net.compile()
        last = instantiate(cfg.callbacks.last)
        trainer = instantiate(
            cfg.trainer, callbacks=[timer, last], logger=False, enable_progress_bar=False
        )
        trainer.fit(module, data)
    return len(data.train) / min(timer.each[1:])


class Epochs(Stopwatch):
    """Seconds of each epoch, until the GPU has done it."""

    def on_train_start(self, *arguments: object) -> None:
        super().on_train_start(*arguments)  # type: ignore[arg-type]
        self.each: list[float] = []

    def on_train_epoch_end(self, *arguments: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        super().on_train_epoch_end(*arguments)  # type: ignore[arg-type]
        self.each.append(self.inside - sum(self.each))


def stock(dataset: VectorDataset, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """A DataLoader as one would write it."""
    tensors = TensorDataset(*dataset.features.values(), *dataset.targets.values())
    pinned = device.type == "cuda"
    loader = DataLoader(tensors, batch_size, shuffle=True, num_workers=2, pin_memory=pinned)
    for *features, target in loader:
        masks = {m: torch.ones(len(target), 1, dtype=torch.bool) for m in DIMS}
        batch = Batch(dict(zip(DIMS, features, strict=True)), masks, {"sentiment": target}, ())
        yield batch.to(device)


def loader(dataset: VectorDataset, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Ours."""
    for batch in batch_loader(dataset, batch_size, 0, num_workers=0, pin_memory=True):
        yield batch.to(device)


def resident(dataset: VectorDataset, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Clips that lie where they are needed; copied there once, which is not counted."""
    groups = (dataset.features, dataset.masks, dataset.targets)
    features, masks, targets = ({n: x.to(device) for n, x in group.items()} for group in groups)
    yield Batch({}, {}, {}, ())  # from here on the time counts
    for indices in BatchSampler(len(dataset), batch_size, seed=0):
        rows = torch.tensor(indices, device=device)
        take = ({n: x[rows] for n, x in group.items()} for group in (features, masks, targets))
        yield Batch(*take, ())


def feed(batches: Iterator[Batch], device: torch.device) -> float:
    """Clips per second of plain training steps."""
    net = network().to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), fused=True, **PAPER)
    began, number = time.perf_counter(), 0
    for batch in batches:
        if not batch.targets:
            began = time.perf_counter()
            continue
        target: Tensor = batch.targets["sentiment"]
        loss = combined(net(batch).predictions["sentiment"], target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        number += len(target)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return number / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu only to try the script out")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use here; nothing was measured")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = Pinned()
    ways: dict[str, list[str]] = {"cpu": ["trainer=cpu"]}
    if device.type == "cuda":
        ways |= {"gpu": ["trainer=gpu"], "bf16": ["trainer=gpu", "trainer.precision=bf16-mixed"]}
        ways |= {"compiled": ["trainer=gpu", "compile=true"]}
    for model in ("base", "tfn"):
        speeds = {name: train(f"model={model}", *how, data=data) for name, how in ways.items()}
        told = "  ".join(f"{n} {s:,.0f} ({s / speeds['cpu']:.2f})" for n, s in speeds.items())
        print(f"{model}, clips a second (against the cpu): {told}")
    for batch_size in (32, 512):
        speeds = {}
        for way in (stock, loader, resident):
            feed(way(data.train, batch_size, device), device)  # warm-up
            speeds[way.__name__] = feed(way(data.train, batch_size, device), device)
        told = "  ".join(f"{n} {s:,.0f} ({s / speeds['stock']:.2f})" for n, s in speeds.items())
        print(f"batches of {batch_size}, clips a second (against the stock loader): {told}")


if __name__ == "__main__":
    main()
