"""Which of MediaPipe's interfaces is taken, and what options and weights make sense."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from msa_lightning.config import CONF, instantiate
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.assets import FACE_LANDMARKER, MEDIAPIPE_LEGACY, fetch, find
from msa_lightning.extractors.contract import RawClip, Span
from msa_lightning.extractors.landmarks import choose
from tests.data.make_data import real_data
from tests.unit.extractors.facemesh import alone, make, weights


def test_survives_pickling_after_use(route, moving):
    extractor = make()
    found = extractor.extract(moving)
    again = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(again.extract(moving).values, found.values)


WRONG = {
    "features": [[], ["facemesh"], ["pose", "pose"]],
    "face_width": [[0], [3, 3], [0, 468], [-1, 3]],
    "max_frames": [0],
    "rate_hz": [0, -1.0],
    "max_faces": [0],
}


@pytest.mark.parametrize(("option", "value"), [(k, v) for k, vs in WRONG.items() for v in vs])
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        make(**{option: value})


@pytest.mark.parametrize("part", ["blendshapes", "pose"])
def test_the_legacy_route_has_landmarks_alone(part):
    with pytest.raises(ConfigError, match=r"legacy.*landmarks alone"):
        make(features=["facemesh65", part], route="legacy")


def test_without_any_weights_both_routes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataNotFoundError) as error:
        _ = make(route="auto").identity
    for part in (FACE_LANDMARKER.file, FACE_LANDMARKER.sha256, MEDIAPIPE_LEGACY.file, "fetch=true"):
        assert part in str(error.value)


def test_auto_takes_tasks_where_its_weights_are(tasks):
    choice = choose("auto")
    assert choice.route == "tasks"
    assert FACE_LANDMARKER.file in choice.why


def test_weights_that_are_none_are_an_error_of_the_user(tasks, tmp_path, moving):
    garbage = tmp_path / "garbage.task"
    garbage.write_bytes(b"garbage" * 100)
    with pytest.raises(DataError, match=r"garbage\.task: not a face landmarker"):
        make(model=str(garbage)).extract(moving)


@pytest.mark.parametrize("name", sorted(p.stem for p in Path(CONF).glob("extractor/visual/*.yaml")))
def test_every_config_makes_an_extractor(name):
    with initialize_config_dir(CONF, version_base="1.3"):
        extractor = instantiate(compose(f"extractor/visual/{name}").extractor.visual)
    assert extractor.modality == "visual"
    assert len(set(extractor.columns)) == len(extractor.columns)


def test_nothing_is_loaded_before_the_first_clip_and_nothing_is_printed(tasks, moving):
    values, facts, _ = alone(moving, "tasks")
    assert facts["route"] == "tasks"
    np.testing.assert_array_equal(values, make().extract(moving).values)


def check_legacy(moving: RawClip, route: str) -> None:
    values, facts, refused = alone(moving, route)
    assert (facts["route"], facts["frames_with_face"]) == ("legacy", 8)
    if "DataNotFoundError" not in refused:  # the other route has its weights
        assert refused.startswith("ConfigError")
        assert "one route per process" in refused
        difference = np.abs(values - make().extract(moving).values)
        assert difference.mean() < 0.03  # of the face width; rows are for the same landmarks
        assert difference.max() < 0.15


def test_the_legacy_route_finds_the_same_landmarks(moving):
    weights(MEDIAPIPE_LEGACY)
    check_legacy(moving, "legacy")


def test_auto_takes_the_legacy_route_where_only_that_is(moving, monkeypatch, tmp_path):
    folder = weights(MEDIAPIPE_LEGACY)
    cache = tmp_path / "cache" / "msa_lightning"
    cache.mkdir(parents=True)
    (cache / folder.name).symlink_to(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.delenv("MSA_ASSETS", raising=False)
    assert choose("auto").why == f"{FACE_LANDMARKER.file} is not there"
    check_legacy(moving, "auto")
    with pytest.raises(ConfigError, match="landmarks alone"):
        _ = make(route="auto", features=["blendshapes"]).identity


@pytest.mark.slow
def test_the_legacy_route_comes_from_the_package_registry(moving):
    try:
        find(MEDIAPIPE_LEGACY)
    except DataNotFoundError:
        try:
            fetch(MEDIAPIPE_LEGACY)
        except DataNotFoundError as error:
            pytest.skip(str(error))
    check_legacy(moving, "legacy")


@pytest.mark.realdata
def test_finds_the_face_in_every_frame_of_real_clips(route):
    paths = sorted(real_data("grid").rglob("*.mpg"))[:3]
    for path in paths:
        facts = make(max_frames=20).extract(RawClip("v_0", "v", visual=Span(path))).facts
        assert (facts["frames"], facts["face_share"]) == (20, 1.0)


SIGNALS = """
import signal, time
import numpy as np
from msa_lightning.extractors.landmarks import choose, detector

signal.signal(signal.SIGPROF, signal.SIG_DFL)  # not as this test's own process may have left it
detect = detector("tasks", choose("tasks").weights.path, max_faces=1, expressions=False)
detect(np.zeros((64, 64, 3), np.uint8))
signal.signal(signal.SIGPROF, signal.getsignal(signal.SIGPROF))  # as Lightning does after training
began = time.process_time()
while time.process_time() - began < 2:
    detect(np.zeros((64, 64, 3), np.uint8))
"""


def test_a_process_survives_that_signals_are_reset_as_lightning_does(tasks):
    assert subprocess.run([sys.executable, "-c", SIGNALS]).returncode == 0
