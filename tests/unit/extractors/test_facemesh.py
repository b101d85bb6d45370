"""The 65 features by hand, and faces in made clips by each of MediaPipe's interfaces."""

import json

import numpy as np
import pytest
from skimage.transform import rotate

from msa_lightning.extractors import facemesh as module
from msa_lightning.extractors.assets import FACE_LANDMARKER, MEDIAPIPE_LEGACY
from msa_lightning.extractors.contract import RawClip, Span, Unusable
from msa_lightning.extractors.facemesh import FACEMESH65, facemesh65
from msa_lightning.extractors.landmarks import detector, pose
from tests.unit.extractors.facemesh import SIDE, clip, face, make, scaled


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures in a row, on black, each in the upper left of its place."""
    row = np.zeros((SIDE, SIDE * len(pictures), 3), np.uint8)
    for i, picture in enumerate(pictures):
        row[: len(picture), i * SIDE : i * SIDE + picture.shape[1]] = picture
    return row


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


def mesh(**points) -> np.ndarray:
    """Landmarks (1, 468, 3), all 0 but those given as p12=(x, y, z)."""
    landmarks = np.zeros((1, 468, 3))
    for name, xyz in points.items():
        landmarks[0, int(name[1:])] = xyz
    return landmarks


BY_HAND = {
    "p234": (-5, 0, 0),
    "p454": (1, 0, 8),  # 10 from the other: the unit of length
    "p61": (20, 50, 0),
    "p291": (50, 90, 0),
    "p13": (30, 40, 0),
    "p14": (30, 40, 12),
    "p33": (10, 20, 20),
    "p133": (10, 20, 50),
    "p362": (0, 0, 0),
    "p263": (0, 60, 80),
    "p21": (0, 30, 0),
    "p55": (0, 60, 0),
    "p107": (7, 90, 0),
    "p251": (0, 15, 9),
    "p285": (0, 30, 0),
    "p336": (0, 45, 0),
    "p12": (3, 0, 4),
    "p64": (0, 0, -70),
}


def test_the_65_features_by_hand():
    expected = dict.fromkeys(FACEMESH65, 0.0) | {
        "mouth_width": 5,
        "mouth_height": 1.2,
        "mouth_left_y": 5,
        "mouth_right_y": 9,
        "mouth_angle": np.arctan(4 / 3),
        "eye_left_width": 3,
        "eye_right_width": 10,
        "eye_distance": np.sqrt(1**2 + 4**2 + 6**2),
        "brow_left_y": 6,
        "brow_right_y": 3,
        "eye_symmetry": 7 / 13,
        "mouth_symmetry": 4,
        "norm_12": 0.5,
        "norm_13": 5,
        "norm_14": np.sqrt(3**2 + 4**2 + 1.2**2),
        "norm_21": 3,
        "norm_33": 3,
        "norm_55": 6,
        "norm_61": np.sqrt(2**2 + 5**2),
        "norm_64": 7,
    }
    found = facemesh65(mesh(**BY_HAND), (234, 454), "image")
    assert found.shape == (1, 65)
    assert dict(zip(FACEMESH65, found[0], strict=True)) == pytest.approx(expected)


def test_the_papers_face_width_is_an_option():
    landmarks = mesh(**BY_HAND, p16=(0, 20, 0))
    found = facemesh65(landmarks, (0, 16), "image")[0]
    assert found[FACEMESH65.index("mouth_width")] == pytest.approx(50 / 20)


def test_features_do_not_depend_on_the_size_of_the_picture_nor_from_the_nose_on_the_place():
    landmarks = np.random.default_rng(0).normal(size=(3, 478, 3))
    shift = np.array([100, -30, 5])
    for origin, moved in (("image", landmarks * 7), ("nose", landmarks * 7 + shift)):
        same = (facemesh65(points, (234, 454), origin) for points in (landmarks, moved))
        np.testing.assert_allclose(*same)
    place = facemesh65(landmarks + shift, (234, 454), "image")
    change = np.abs(place - facemesh65(landmarks, (234, 454), "image")).max(axis=0)
    stay = {"mouth_width", "mouth_height", "mouth_angle", "eye_left_width", "eye_right_width"}
    stay |= {"eye_distance", "eye_symmetry", "mouth_symmetry"}
    assert {name for name, d in zip(FACEMESH65, change, strict=True) if d < 1e-9} == stay


def test_pose_is_read_from_a_rotation():
    yaw, pitch, roll = np.radians([20, -30, 40])
    c, s = np.cos, np.sin
    about_y = [[c(yaw), 0, s(yaw)], [0, 1, 0], [-s(yaw), 0, c(yaw)]]
    about_x = [[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]]
    about_z = [[c(roll), -s(roll), 0], [s(roll), c(roll), 0], [0, 0, 1]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(about_y) @ about_x @ about_z
    matrix[:3, 3] = 1, 2, -50
    np.testing.assert_allclose(pose(matrix), [20, -30, 40, 1, 2, -50])


def test_one_row_for_each_frame_with_its_time(route, moving):
    found = make().extract(moving)
    assert found.values.shape == (8, 65)
    assert found.values.dtype == found.vector.dtype == np.float32
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.times[:, 0], np.arange(8) / 10, atol=1e-6)
    np.testing.assert_allclose(found.times[:, 1], np.arange(1, 9) / 10, atol=1e-6)
    np.testing.assert_allclose(found.vector, found.values.mean(axis=0), rtol=1e-5)
    assert found.facts == {
        "frames": 8,
        "frames_with_face": 8,
        "face_share": 1.0,
        "frames_with_several_faces": 0,
        "route": route.route,
    }
    mouth = found.values[:, FACEMESH65.index("mouth_width")]
    assert mouth.std() < 0.02  # it wanders, it does not smile


def test_a_clip_does_not_depend_on_those_before_it(route, tmp_path, moving):
    other = clip(tmp_path / "other.mp4", [beside(face(224), face(160))] * 3)
    extractor = make()
    first = extractor.extract(moving)
    extractor.extract(other)
    np.testing.assert_array_equal(first.values, extractor.extract(moving).values)
    alone = extractor.extract(RawClip("v_1", "v", visual=Span(moving.visual.path, 0.35, 0.55)))
    np.testing.assert_array_equal(first.values[4:6], alone.values)


def test_frames_without_a_face_are_left_out_and_counted(route, tmp_path):
    found = make().extract(clip(tmp_path / "c.mp4", [noise(), face(), BLACK, face(), face()]))
    assert found.values.shape == (3, 65)
    np.testing.assert_allclose(found.times[:, 0], [0.1, 0.3, 0.4], atol=1e-6)
    assert (found.facts["frames"], found.facts["frames_with_face"]) == (5, 3)
    assert found.facts["face_share"] == 0.6


def test_no_face_is_a_reason(route, tmp_path):
    with pytest.raises(Unusable, match=r"no face \(in 3 frames\)"):
        make().extract(clip(tmp_path / "c.mp4", [noise()] * 3))


def test_a_missing_video_keeps_its_reason():
    with pytest.raises(Unusable, match="no video stream"):
        make().extract(RawClip("v_0", "v", missing={"visual": "no video stream"}))


@pytest.mark.parametrize("large_first", [True, False])
def test_the_largest_of_several_faces_is_taken_and_they_are_counted(route, tmp_path, large_first):
    large, small = face(), face(180)
    both = [large, small] if large_first else [small, large]
    alone = [large, BLACK] if large_first else [BLACK, large]
    several = make().extract(clip(tmp_path / "a.mp4", [beside(*both)] * 2 + [beside(*alone)]))
    single = make().extract(clip(tmp_path / "b.mp4", [beside(*alone)] * 3))
    assert several.facts["frames_with_several_faces"] == 2
    assert single.facts["frames_with_several_faces"] == 0
    np.testing.assert_allclose(several.vector, single.vector, atol=0.1)


def test_takes_the_first_frames_or_some_of_each_second(route, moving):
    every = make().extract(moving)
    first = make(max_frames=3).extract(moving)
    np.testing.assert_array_equal(first.values, every.values[:3])
    some = make(rate_hz=5.0)
    assert some.rate_hz == 5
    np.testing.assert_array_equal(some.extract(moving).values, every.values[::2])


def test_one_pass_gives_all_features(tasks, moving, monkeypatch):
    passes = []

    def counting(*arguments, **options):
        detect = detector(*arguments, **options)
        return lambda image: passes.append(1) or detect(image)

    monkeypatch.setattr(module, "detector", counting)
    parts = ["blendshapes", "facemesh65", "pose"]
    together = make(features=parts)
    found = together.extract(moving)
    assert len(passes) == 8
    assert found.values.shape == (8, len(together.columns)) == (8, 52 + 65 + 6)
    for part in parts:
        single = make(features=[part])
        columns = [together.columns.index(name) for name in single.columns]
        np.testing.assert_array_equal(found.values[:, columns], single.extract(moving).values)


def test_scores_are_shares_and_the_pose_follows_the_head(tasks, tmp_path):
    turned = (rotate(face(), 15, mode="edge") * 255).astype(np.uint8)  # counter-clockwise
    pictures = [face(), turned, face()[:, ::-1], beside(BLACK, scaled(face(), 128))[:, 128:384]]
    extractor = make(features=["blendshapes", "pose"])
    found = extractor.extract(clip(tmp_path / "c.mp4", pictures))
    scores, angles = found.values[:, :52], found.values[:, 52:]
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    smile = extractor.columns.index("mouthSmileLeft")
    assert (scores[:, smile] > 0.5).all()  # the portrait does
    yaw, _, roll, x, _, z = angles.T
    assert roll[1] - roll[0] == pytest.approx(15, abs=4)
    assert roll[2] == pytest.approx(-roll[0], abs=3)  # mirrored
    assert yaw[2] == pytest.approx(-yaw[0], abs=3)
    assert z[3] < 1.5 * z[0] < 0  # half the size: twice as far
    assert x[3] > x[0]


def test_rows_that_do_not_follow_one_another_are_read_rightly(route):
    detect = detector(route.route, route.weights.path, max_faces=1, expressions=False)
    odd = face()[:, :251]
    assert not odd.flags.c_contiguous
    for picture in (odd, face()[:, ::-1], np.asfortranarray(face())):
        (found,) = detect(picture)
        (expected,) = detect(np.ascontiguousarray(picture))
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)


def test_landmarks_are_pixels_of_any_shape_of_picture(route):
    detect = detector(route.route, route.weights.path, max_faces=1, expressions=False)
    (square,) = detect(face())
    (wide,) = detect(beside(face(), BLACK)[:, :384])
    np.testing.assert_allclose(square.landmarks[:, :2], wide.landmarks[:, :2], atol=6)
    pupils = square.landmarks[[468, 473], :2]
    np.testing.assert_allclose(pupils, [[106, 102], [151, 102]], atol=3)  # seen in the picture


CHANGES = {
    "features": ["facemesh65", "pose"],
    "max_frames": None,
    "rate_hz": 5.0,
    "face_width": [0, 16],
    "origin": "nose",
    "max_faces": 1,
}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_is_part_of_the_identity(option):
    plain, changed = make(route="tasks"), make(route="tasks", **{option: CHANGES[option]})
    assert json.dumps(plain.identity) != json.dumps(changed.identity)


def test_identity_tells_the_route_and_the_weights(tmp_path):
    assert make(route="tasks").identity["route"] == "tasks"
    assert make(route="tasks").identity["weights"] == FACE_LANDMARKER.sha256
    assert make(route="legacy").identity["weights"] == MEDIAPIPE_LEGACY.sha256
    own = tmp_path / "own.task"
    own.write_bytes(b"other weights")
    assert make(model=str(own)).identity["weights"] not in ("", FACE_LANDMARKER.sha256)
