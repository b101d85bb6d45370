"""What an interrupted run needs to end like an uninterrupted one."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from msa_lightning.history import HistoryLogger
from msa_lightning.slurm import leave_ending_to_slurm


class ExactResume(Checkpoint):
    """Write ``last.ckpt`` at every epoch's end, and continue from it as if never interrupted.

    Lightning saves no random state, forgets that early stopping had decided to stop, and forgets
    the best score when the folder has been moved. The order of clips needs no saving: it is a
    function of seed and epoch.

    Args:
        path: The checkpoint file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._pending: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls checkpoint callbacks after everything else of the epoch.

        Lightning logs the epoch only after that. A run killed in between would go on with the next
        epoch and have none of this one's metrics in its history; so they are put there first.
        """
        every = trainer.check_val_every_n_epoch or 1
        stale = (trainer.current_epoch + 1) % every != 0  # validation metrics of an earlier epoch
        metrics = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if not (stale and name.startswith("valid/"))
        }
        for logger in trainer.loggers:
            if isinstance(logger, HistoryLogger):
                logger.log_metrics(metrics | {"epoch": trainer.current_epoch})
        trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Random state of every device. Called on all of them; the first one writes it."""
        states: list[Any] = [_capture()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, _capture())
        return {"devices": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts; what comes between may draw numbers."""
        self._pending = state_dict["devices"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the checkpoint callbacks find their files where the run folder is now."""
        now = str(self.path.parent)
        for state in checkpoint["callbacks"].values():
            if before := state.get("dirpath"):
                for name, value in state.items():
                    state[name] = _moved(value, before, now)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this device's random state; stop at once if that was decided before."""
        leave_ending_to_slurm()
        if trainer.global_rank < len(self._pending):
            _restore(self._pending[trainer.global_rank])
        self._pending = []
        for stopping in trainer.early_stopping_callbacks:
            if stopping.wait_count >= stopping.patience:
                trainer.should_stop = True


def _moved(value: Any, before: str, now: str) -> Any:
    if isinstance(value, str) and value.startswith(before):
        return now + value.removeprefix(before)
    if isinstance(value, dict):
        return {_moved(k, before, now): _moved(v, before, now) for k, v in value.items()}
    return value


def _capture() -> dict[str, Any]:
    version, keys, gauss = random.getstate()
    state = {
        "python": [version, torch.tensor(keys), gauss],
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _numpy_state() -> list[Any]:
    """As tensor and plain values, which a checkpoint may hold."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest]


def _restore(state: dict[str, Any]) -> None:
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys.cpu().tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole or not at all.

    Lightning's own goes through the system's temporary folder, from where, on another file system,
    it is copied and not renamed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write beside the final place, flush to disk, rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
