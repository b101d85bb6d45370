"""What W&B was told, read back from the files that it writes offline."""

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

OFFLINE = ("logger=wandb", "logger.wandb.offline=true")
BLOCK = 1 << 15


def own_folders(folder: Path) -> dict[str, str]:
    """Environment in which W&B keeps nothing in the home folder, and does not print.

    A command that runs in it has a process of W&B's of its own, and not that of the tests.
    """
    names = ("CACHE", "DATA", "CONFIG")
    own = {f"WANDB_{name}_DIR": str(folder / "wandb" / name) for name in names}
    return own | {"WANDB_SILENT": "true", "WANDB_SERVICE": ""}


def records(path: Path) -> Iterator[Record]:
    """Records of a ``.wandb`` file: protobuf in the frames of a LevelDB log."""
    data, message, at = path.read_bytes(), b"", 7
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # too little is left of the block for a frame
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(message)
            message = b""


class Told:
    """One W&B run."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: dict[int, dict[str, float]] = defaultdict(dict)
        self.artifacts: dict[str, set[str]] = {}
        self.exit_code: int | None = None
        for record in records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    self.run = record.run
                case "config":
                    self.config |= {u.key: json.loads(u.value_json) for u in record.config.update}
                case "summary":
                    self.summary |= {
                        "/".join(u.nested_key) or u.key: json.loads(u.value_json)
                        for u in record.summary.update
                    }
                case "history":
                    row = {
                        "/".join(i.nested_key) or i.key: json.loads(i.value_json)
                        for i in record.history.item
                    }
                    self.history[row["epoch"]] |= row
                case "artifact":
                    contents = record.artifact.manifest.contents
                    self.artifacts[record.artifact.type] = {entry.path for entry in contents}
                case "exit":
                    self.exit_code = record.exit.exit_code


def told(run: Path) -> list[Told]:
    """W&B runs of a run folder, the oldest first."""
    return [whole(path) for path in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def whole(path: Path) -> Told:
    """W&B's service closes a file a moment after ``wandb.finish`` has returned."""
    deadline = time.monotonic() + 10
    while (found := Told(path)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
