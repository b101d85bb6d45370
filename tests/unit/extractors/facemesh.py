"""FaceMesh on a photographed face, here and in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.transform import resize

from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors.assets import Asset, find
from msa_lightning.extractors.contract import RawClip, Span
from msa_lightning.extractors.facemesh import FaceMesh
from tests.data.make_media import write_media

SIDE = 256  # of a picture
OPTIONS = {
    "features": ["facemesh65"],
    "max_frames": 100,
    "rate_hz": None,
    "face_width": [234, 454],
    "origin": "image",
    "max_faces": 4,
    "route": "auto",
    "model": None,
}


def make(**changes) -> FaceMesh:
    return FaceMesh(**OPTIONS | changes)


def weights(asset: Asset) -> Path:
    """Pretrained weights, or a skip with the reason."""
    try:
        return find(asset).path
    except DataNotFoundError:
        pytest.skip(f"{asset.file} is not on this machine; msa-doctor fetch=true")


def face(side: int = SIDE) -> np.ndarray:
    """A photographed face, (side, side, 3) uint8."""
    return scaled(astronaut()[:256, 96:352], side)


def scaled(picture: np.ndarray, side: int) -> np.ndarray:
    return (resize(picture, (side, side), anti_aliasing=True) * 255).round().astype(np.uint8)


def clip(path: Path, pictures: list[np.ndarray], **span) -> RawClip:
    write_media(path, pictures, fps=10)
    return RawClip("v_0", "v", visual=Span(path, **span))


ALONE = """
import json, sys
from pathlib import Path
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import RawClip, Span
from msa_lightning.extractors.facemesh import FaceMesh
options = json.loads(sys.argv[1])
extractor = FaceMesh(**options)
extractor.columns, extractor.identity
loaded = sorted({"torch", "mediapipe", "av", "cv2", "transformers"} & sys.modules.keys())
clip = RawClip("v_0", "v", visual=Span(Path(sys.argv[2])))
found, again = extractor.extract(clip), extractor.extract(clip)
other = {"tasks": "legacy", "legacy": "tasks"}[found.facts["route"]]
try:
    FaceMesh(**options | {"route": other}).extract(clip)
    refused = ""
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
same = bool((found.values == again.values).all())
print(json.dumps([loaded, found.values.tolist(), dict(found.facts), same, refused]))
"""


def alone(moving: RawClip, route: str) -> tuple[np.ndarray, dict, str]:
    """Extract in a process of its own: features, facts, and what the other route says there."""
    arguments = [json.dumps(OPTIONS | {"route": route}), str(moving.visual.path)]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded, values, facts, same, refused = json.loads(done.stdout)
    assert loaded == []
    assert same
    return np.array(values), facts, refused
