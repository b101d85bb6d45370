"""A hash of large files that takes next to no time."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_SAMPLE_BYTES = 2**14  # of a file's head and tail; media and weights keep their tables there


def digest(paths: Iterable[Path]) -> str:
    """Hash of files judged by name, size, first and last 16 KiB."""
    total = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            total.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            total.update(file.read())
    return total.hexdigest()
