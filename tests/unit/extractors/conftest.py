"""Which weights of FaceMesh this machine has, and a clip of a face."""

from pathlib import Path

import numpy as np
import pytest

from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors.assets import FACE_LANDMARKER
from msa_lightning.extractors.contract import RawClip
from msa_lightning.extractors.landmarks import Choice, choose
from tests.unit.extractors.facemesh import clip, face, weights


@pytest.fixture
def tasks() -> Path:
    return weights(FACE_LANDMARKER)


@pytest.fixture
def route() -> Choice:
    """Whichever interface this machine has; all tests in this process use the same."""
    try:
        return choose("auto")
    except DataNotFoundError:
        pytest.skip("no weights of FaceMesh are on this machine; msa-doctor fetch=true")


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> RawClip:
    """A face that wanders to the right, ten pictures a second."""
    pictures = [np.roll(face(), 4 * i, axis=1) for i in range(8)]
    return clip(tmp_path_factory.mktemp("clips") / "moving.mp4", pictures)
