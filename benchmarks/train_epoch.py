"""Cost of an epoch of the base model: ours, a plain PyTorch loop, and Lightning as it comes.

All three train the same network on the same batches in the same order, in float32, with the same
clipping, validation and number of threads. Ours also keeps metrics, gradient norms, history,
checkpoints and random state; the plain loop does nothing that it need not do. A repetition
alternates them every epoch, twelve times: a slow moment of the machine meets all of them.

    python benchmarks/train_epoch.py
"""

import argparse
import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from stopwatch import Stopwatch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from msa_lightning.batch import Batch
from msa_lightning.config import CONF, instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.loader import BatchSampler, Loader, batch_loader
from msa_lightning.losses import mse_mae, squared_correlation_distance
from msa_lightning.models.base import BaseFusion
from msa_lightning.modules.fusion import FusionModule

DIMS = {"text": 300, "audio": 74, "visual": 713}
TRAIN, VALID, BATCH, EPOCHS, ROUNDS = 16_326, 1_871, 32, 1, 12
PAPER = {"lr": 8e-4, "weight_decay": 0.04}


def clips(n: int, seed: int) -> VectorDataset:
    rng = np.random.default_rng(seed)
    return VectorDataset(
        ids=[f"v_{i}" for i in range(n)],
        features={m: rng.standard_normal((n, d), np.float32) for m, d in DIMS.items()},
        present={m: np.ones(n, bool) for m in DIMS},
        targets={"sentiment": rng.uniform(-3, 3, (n, 1)).astype(np.float32)},
    )


def network() -> BaseFusion:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden": 192, "embed": 96, "heads": 4, "fusion_input": "attended"}
    return BaseFusion(
        dims=DIMS, outputs={"sentiment": 1}, dropout=0.7, attention_dropout=0.8, **sizes
    )


def combined(prediction: Tensor, target: Tensor) -> Tensor:
    rank = squared_correlation_distance(prediction, target)
    return 0.3 * mse_mae(prediction, target) + 0.7 * rank


def plain(train: VectorDataset, valid: VectorDataset) -> float:
    """The loop one would write by hand."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), fused=True, **PAPER)
    sampler = BatchSampler(len(train), BATCH, seed=0)
    began = time.perf_counter()
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        net.train()
        for indices in sampler:
            rows = torch.tensor(indices)
            features = {m: x[rows] for m, x in train.features.items()}
            masks = {m: x[rows] for m, x in train.masks.items()}
            output = net(Batch(features, masks, {}, ()))
            loss = combined(output.predictions["sentiment"], train.targets["sentiment"][rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        net.eval()
        with torch.no_grad():
            predictions = [
                net(Batch(
                    {m: x[i : i + 1024] for m, x in valid.features.items()},
                    {m: x[i : i + 1024] for m, x in valid.masks.items()}, {}, (),
                )).predictions["sentiment"]
                for i in range(0, len(valid), 1024)
            ]  # fmt: skip
            combined(torch.cat(predictions), valid.targets["sentiment"])
    return time.perf_counter() - began


class Stock(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def _step(self, batch: list[Tensor], name: str) -> Tensor:
        *features, target = batch
        masks = {m: torch.ones(len(target), 1, dtype=torch.bool) for m in DIMS}
        batch_ = Batch(dict(zip(DIMS, features, strict=True)), masks, {}, ())
        prediction = self.net(batch_).predictions["sentiment"]
        loss = combined(prediction, target)
        self.log(f"{name}/loss", loss)
        self.log(f"{name}/mae", (prediction - target).abs().mean())
        return loss

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self._step(batch, "valid")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), **PAPER)


def stock(train: VectorDataset, valid: VectorDataset) -> float:
    """Lightning with its defaults, a log call per step and a stock DataLoader."""

    def loader(data: VectorDataset, **how: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*data.features.values(), *data.targets.values()), **how)

    order = [i for batch in BatchSampler(TRAIN, BATCH, seed=0) for i in batch]
    timer = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            gradient_clip_val=0.5,
            accelerator="cpu",
            callbacks=[timer],
            default_root_dir=folder,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            Stock(),
            loader(train, batch_size=BATCH, sampler=order),
            loader(valid, batch_size=1024),
        )
    return timer.seconds


class InMemory(pl.LightningDataModule):
    """The loaders of our datamodules over generated clips."""

    def __init__(self, train: VectorDataset, valid: VectorDataset) -> None:
        super().__init__()
        self.data = train, valid

    def train_dataloader(self) -> Loader:
        return _loader(self.data[0], BATCH, 0)

    def val_dataloader(self) -> Loader:
        return _loader(self.data[1], 1024, None)


def _loader(dataset: VectorDataset, batch_size: int, seed: int | None) -> Loader:
    return batch_loader(dataset, batch_size, seed, num_workers=0, pin_memory=False)


def ours(train: VectorDataset, valid: VectorDataset) -> float:
    """Module, callbacks, logger and trainer as ``msa-train`` configures them."""
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(CONF, version_base="1.3"):
            run = f"paths.run={folder}"
            cfg = compose("train", ["data=demo", run, f"trainer.max_epochs={EPOCHS}"])
        module = FusionModule(
            net=network(),
            objective=instantiate(cfg.objective),
            optimizer=instantiate(cfg.optimizer),
            scheduler=instantiate(cfg.scheduler),
        )
        timer = Stopwatch()
        trainer = instantiate(
            cfg.trainer,
            callbacks=[timer, *(instantiate(c) for c in cfg.callbacks.values())],
            logger=[instantiate(node) for node in cfg.logger.values()],
        )
        gc.freeze()  # as msa_lightning.run does
        trainer.fit(module, InMemory(train, valid))
        gc.unfreeze()
    return timer.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    repetitions = arguments.repetitions
    torch.set_num_threads(arguments.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    train, valid = clips(TRAIN, 0), clips(VALID, 1)
    contestants: list[Callable[[VectorDataset, VectorDataset], float]] = [plain, ours, stock]
    ratios: list[tuple[float, float]] = []
    for i in range(repetitions + 1):
        seconds = dict.fromkeys((f.__name__ for f in contestants), 0.0)
        for _ in range(ROUNDS if i else 1):
            for f in contestants:
                seconds[f.__name__] += f(train, valid) / EPOCHS / ROUNDS
        if i == 0:
            continue  # warm-up
        ratios.append((seconds["ours"] / seconds["plain"], seconds["ours"] / seconds["stock"]))
        epochs = "  ".join(f"{name} {s:.2f} s" for name, s in seconds.items())
        print(f"{epochs}  ours/plain {ratios[-1][0]:.2f}  ours/stock {ratios[-1][1]:.2f}")
    worst = [max(column) for column in zip(*ratios, strict=True)]
    print(f"worst of {repetitions}: ours/plain {worst[0]:.2f} (limit 1.25), ", end="")
    print(f"ours/stock {worst[1]:.2f} (limit .70), {torch.get_num_threads()} threads")
    raise SystemExit(worst[0] > 1.25 or worst[1] > 0.70)


if __name__ == "__main__":
    main()
