"""``history.csv``: one row per epoch, kept over interruptions."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger


class HistoryLogger(Logger):
    """Write what is logged to a csv file, one row per epoch.

    The file is read when logging begins and rewritten whole at every epoch, so a requeued job goes
    on where it stopped, and an epoch that is run again replaces its row. (Lightning's CSVLogger
    deletes the file when a job starts again.)

    Args:
        path: The csv file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, float]] | None = None

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "history"

    @property
    def version(self) -> str:
        """There is one history per run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of the epoch, and write the file."""
        if self._rows is None:
            self._rows = {}
            if self.path.exists():
                table = pd.read_csv(self.path).set_index("epoch")
                rows = table.to_dict("index")
                self._rows = {
                    int(str(e)): {str(k): v for k, v in r.items()} for e, r in rows.items()
                }
        epoch = int(metrics["epoch"])
        row = self._rows.setdefault(epoch, {})
        row.update({k: v for k, v in metrics.items() if k != "epoch"})
        table = pd.DataFrame.from_dict(self._rows, orient="index").sort_index()
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        table.to_csv(temporary, index_label="epoch")
        temporary.replace(self.path)
