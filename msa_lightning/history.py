"""``history.csv``: one row per epoch, kept over interruptions."""

import csv
import math
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
        row, new = self._rows.setdefault(epoch, {}), dict(metrics)
        del new["epoch"]
        if new.items() <= row.items():  # Lightning logs again what ExactResume has logged
            return
        row |= new
        columns = dict.fromkeys(name for row in self._rows.values() for name in row)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("w", newline="") as file:  # pandas would take a tenth of a short epoch
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["epoch", *columns])
            for number, values in sorted(self._rows.items()):
                cells = [values.get(name, math.nan) for name in columns]
                writer.writerow([number, *("" if math.isnan(x) else x for x in cells)])
        temporary.replace(self.path)
