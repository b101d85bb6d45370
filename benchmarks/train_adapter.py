"""Cost of training one adapter: ours against a plain PyTorch loop that is as careful.

Both train the same network for 30 epochs on the same batches of 1,284 clips (those of MOSI's
training fold) towards the same targets, drawn at random from 1,000; both write, at every epoch, the
loss and a checkpoint from which training could go on. A repetition alternates them four times.

    python benchmarks/train_adapter.py
"""

import argparse
import csv
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from stopwatch import Stopwatch
from torch import Tensor, nn
from torch.nn import functional as F

from msa_lightning.adapters import alignment
from msa_lightning.config import CONF, instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.loader import BatchSampler, batch_loader
from msa_lightning.models.base import BaseFusion
from msa_lightning.modules.adapter import AdapterModule
from msa_lightning.objective import Objective

CLIPS, TARGETS, BATCH, ROUNDS = 1_284, 1_000, 16, 4
SIZES = {"text": (768, 300), "audio": (74, 74), "visual": (65, 713)}
LIMITS = {"text": 1.3, "audio": 1.6, "visual": 1.3}


class Setting:
    """Clips and targets of one modality, and the configuration of its adapter."""

    def __init__(self, modality: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.modality, (self.source, self.target) = modality, SIZES[modality]
        self.clips = VectorDataset(
            ids=[f"v_{i}" for i in range(CLIPS)],
            features={modality: torch.randn(CLIPS, self.source, generator=generator).numpy()},
            present={modality: torch.ones(CLIPS, dtype=torch.bool).numpy()},
            targets={"sentiment": torch.randn(CLIPS, 1, generator=generator).numpy()},
        )
        self.targets = torch.randn(TARGETS, self.target, generator=generator)

    def configure(self, folder: str) -> DictConfig:
        with initialize_config_dir(CONF, version_base="1.3"):
            overrides = ["base=none", f"adapter={self.modality}", f"paths.run={folder}"]
            return compose("adapt", [*overrides, "data=demo"])

    def adapter(self, cfg: DictConfig) -> nn.Module:
        torch.manual_seed(0)
        adapter: nn.Module = instantiate(cfg.adapter, source=self.source, target=self.target)
        return adapter


def plain(setting: Setting, cfg: DictConfig, folder: Path) -> float:
    """The loop one would write by hand."""
    adapter, m = setting.adapter(cfg), setting.modality
    optimizer = torch.optim.Adam(adapter.parameters(), lr=cfg.optimizer.lr, fused=True)
    sampler = BatchSampler(CLIPS, BATCH, seed=0)
    generator = torch.Generator()
    features, mask = setting.clips.features[m], setting.clips.masks[m]
    began = time.perf_counter()
    adapter.train()
    for epoch in range(cfg.trainer.max_epochs):
        sampler.set_epoch(epoch)
        generator.manual_seed(epoch)
        losses: list[Tensor] = []
        for indices in sampler:
            rows = torch.tensor(indices)
            picks = torch.randint(TARGETS, (len(rows),), generator=generator)
            adapted = adapter(features[rows], mask[rows])[:, 0]
            loss = F.mse_loss(adapted, setting.targets[picks])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with (folder / "history.csv").open("a") as file:
            csv.writer(file).writerow([epoch, torch.stack(losses).mean().item()])
        state = {"net": adapter.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state | {"random": torch.get_rng_state()}, folder / "last.tmp")
        (folder / "last.tmp").replace(folder / "last.ckpt")
    return time.perf_counter() - began


def ours(setting: Setting, cfg: DictConfig) -> float:
    """Module, callbacks, logger and trainer as ``msa-adapt`` configures them."""
    generator = torch.Generator()
    pairing = instantiate(
        cfg.pairing,
        targets=setting.targets,
        target_labels=None,
        source_labels=None,
        pairs=None,
        generator=generator,
    )
    sizes: dict[str, Any] = {"hidden": 192, "embed": 96, "heads": 4, "fusion_input": "attended"}
    dims = {setting.modality: setting.target}
    base = BaseFusion(
        dims=dims, outputs={"sentiment": 1}, dropout=0.7, attention_dropout=0.8, **sizes
    )
    objective: Objective = instantiate(compose_objective())
    module = AdapterModule(
        adapter=setting.adapter(cfg),
        modality=setting.modality,
        weights=dict(cfg.alignment),
        distances=alignment.build(cfg.alignment, generator),
        pairing=pairing,
        targets=setting.targets,
        draws=cfg.draws,
        alone=cfg.alone,
        base=base,
        base_dims=dims,
        objective=objective,
        ids=setting.clips.ids,
        optimizer=instantiate(cfg.optimizer),
        generator=generator,
        seed=0,
    )
    timer = Stopwatch()
    trainer = instantiate(
        cfg.trainer,
        callbacks=[timer, *(instantiate(node) for node in cfg.callbacks.values())],
        logger=[instantiate(node) for node in cfg.logger.values()],
    )
    loader = batch_loader(setting.clips, BATCH, 0, num_workers=0, pin_memory=False, group=16)
    trainer.fit(module, loader)
    return timer.seconds


def compose_objective() -> DictConfig:
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", ["data=demo"]).objective  # type: ignore[no-any-return]


def repetition(setting: Setting) -> tuple[float, float]:
    """Seconds of the plain loop, and ours, each trained ROUNDS times."""
    seconds = [0.0, 0.0]
    for _ in range(ROUNDS):
        for i, contestant in enumerate(("plain", "ours")):
            with tempfile.TemporaryDirectory() as folder:
                cfg = setting.configure(folder)
                if contestant == "plain":
                    seconds[i] += plain(setting, cfg, Path(folder)) / ROUNDS
                else:
                    seconds[i] += ours(setting, cfg) / ROUNDS
    return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    exceeded = False
    for modality, limit in LIMITS.items():
        setting, ratios = Setting(modality), []
        for i in range(arguments.repetitions + 1):
            loop, own = repetition(setting)
            if i:  # the first warms up
                ratios.append(own / loop)
                print(f"{modality}: plain {loop:.2f} s  ours {own:.2f} s  {ratios[-1]:.2f}")
        print(f"{modality}: worst of {len(ratios)}: {max(ratios):.2f} (limit {limit})")
        exceeded |= max(ratios) > limit
    raise SystemExit(exceeded)


if __name__ == "__main__":
    main()
