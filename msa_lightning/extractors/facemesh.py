"""Faces: the 65 features of the transfer paper, expression scores and head pose.

The paper (section 3.3) takes MediaPipe FaceMesh's landmarks of the first 100 frames. What it leaves
open is decided here:

* Coordinates are those of the image in pixels, so that a distance does not depend on its direction.
  MediaPipe's own are fractions of the image's width and height, in which every vertical distance of
  a 16:9 picture is 1.8 times too long.
* Landmarks are points in three dimensions, as the paper has it, and so are distances and norms.
* Heights, and with them the angle of the mouth, are those in the image; y points downwards.
* "Normalized" eye symmetry is the difference of the two widths over their sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import ConfigError
from msa_lightning.extractors.assets import FACE_LANDMARKER, MEDIAPIPE_LEGACY
from msa_lightning.extractors.contract import Features, RawClip, Span, Unusable
from msa_lightning.extractors.landmarks import (
    BLENDSHAPES,
    POSE,
    Choice,
    Detector,
    Face,
    choose,
    detector,
)
from msa_lightning.extractors.media import VERSION as MEDIA_VERSION
from msa_lightning.extractors.media import frames

VERSION = 1

Part = Literal["facemesh65", "blendshapes", "pose"]

FACEMESH65 = (
    *("mouth_width", "mouth_height", "mouth_left_y", "mouth_right_y", "mouth_angle"),
    *("eye_left_width", "eye_right_width", "eye_distance"),
    *("brow_left_y", "brow_right_y"),
    *("eye_symmetry", "mouth_symmetry"),
    *(f"norm_{i}" for i in range(12, 65)),
)
"""Names of the 65 features, in the paper's order; left and right are the paper's, in the image."""

COLUMNS: dict[str, Sequence[str]] = {
    "facemesh65": FACEMESH65,
    "blendshapes": BLENDSHAPES,
    "pose": POSE,
}

NOSE_TIP = 1
LANDMARKS = 468  # that both interfaces number alike; ten more on the irises follow


def facemesh65(
    landmarks: NDArray[np.float64], face_width: tuple[int, int], origin: Literal["image", "nose"]
) -> NDArray[np.float64]:
    """The 65 features of the paper, see the head of this file.

    Args:
        landmarks: In pixels, (T, 468 or more, 3).
        face_width: The two landmarks whose distance is the unit of length, frame by frame.
        origin: Where coordinates begin: the image's upper left corner, as in the paper, so that
            heights and norms tell where the face is; or the tip of the nose.

    Returns:
        (T, 65), in face widths, but for the mouth's angle (radians, 0 is level, positive if its
        corner on the right of the image is lower) and the eyes' symmetry (0 to 1).
    """
    p = landmarks - landmarks[:, [NOSE_TIP]] if origin == "nose" else landmarks
    a, b = face_width
    p = p / np.linalg.norm(p[:, a] - p[:, b], axis=-1)[:, None, None]
    x, y = p[..., 0], p[..., 1]

    def distance(i: int, j: int) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(p[:, i] - p[:, j], axis=-1))

    left_eye, right_eye = distance(33, 133), distance(362, 263)
    named = [
        distance(61, 291),
        distance(13, 14),
        y[:, 61],
        y[:, 291],
        np.arctan2(y[:, 291] - y[:, 61], x[:, 291] - x[:, 61]),
        left_eye,
        right_eye,
        distance(33, 263),
        y[:, [21, 55, 107]].mean(axis=1),
        y[:, [251, 285, 336]].mean(axis=1),
        np.abs(left_eye - right_eye) / (left_eye + right_eye),
        np.abs(y[:, 61] - y[:, 291]),
    ]
    norms = np.linalg.norm(p[:, 12:65], axis=-1)
    return np.concatenate([np.stack(named, axis=1), norms], axis=1)


class FaceMesh:
    """What the largest face of each frame looks like, in one pass of MediaPipe.

    Args:
        features: Which columns, in this order: ``facemesh65``, ``blendshapes`` (52 scores of
            expressions), ``pose`` (of the head).
        max_frames: Look at so many frames from the start; None is all. The paper: 100.
        rate_hz: Look at so many frames per second; None is every frame.
        face_width: Landmarks whose distance is the unit of length. 234 and 454 lie on the cheeks;
            the paper's 0 and 16 both lie on the lips.
        origin: Where coordinates begin, ``image`` as in the paper, or ``nose``, its tip.
        max_faces: Find at most so many in a frame; the largest is taken.
        route: MediaPipe's interface, see :mod:`msa_lightning.extractors.landmarks`.
        model: Its weights, instead of the pinned ones.

    Raises:
        ConfigError: If an option makes no sense.
    """

    modality = "visual"

    def __init__(
        self,
        *,
        features: list[Part],
        max_frames: int | None,
        rate_hz: float | None,
        face_width: Sequence[int],
        origin: Literal["image", "nose"],
        max_faces: int,
        route: Literal["auto", "tasks", "legacy"],
        model: str | None,
    ) -> None:
        if not features or len(set(features)) < len(features) or set(features) - COLUMNS.keys():
            raise ConfigError(f"features: {features}, expected some of {list(get_args(Part))}")
        pair = tuple(face_width)
        if len(set(pair)) != 2 or len(pair) != 2 or not all(0 <= i < LANDMARKS for i in pair):
            raise ConfigError(
                f"face_width: {list(pair)}, expected two landmarks from 0 to {LANDMARKS - 1}"
            )
        for option, value in {"max_frames": max_frames, "rate_hz": rate_hz}.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{option}: {value}, expected more than 0, or null for all")
        if max_faces < 1:
            raise ConfigError(f"max_faces: {max_faces}, expected 1 or more")
        self.name = "_".join(features)
        self.rate_hz = rate_hz
        self.features, self.max_frames, self.max_faces = features, max_frames, max_faces
        self.face_width: tuple[int, int] = (pair[0], pair[1])
        self.origin, self.route, self.model = origin, route, model
        self._check_route(route)

    @property
    def columns(self) -> list[str]:
        """Names of the D columns."""
        return [column for part in self.features for column in COLUMNS[part]]

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Everything that can change the features.

        Raises:
            DataNotFoundError: If the weights are needed to tell, and are not there.
        """
        pinned = {"tasks": FACE_LANDMARKER.sha256, "legacy": MEDIAPIPE_LEGACY.sha256}
        if self.route in pinned and self.model is None:  # a full cache needs no weights
            route, sha256 = self.route, pinned[self.route]
        else:
            route, sha256 = self._choice.route, self._choice.weights.sha256
        return {
            "version": VERSION,
            "media": MEDIA_VERSION,
            "features": self.features,
            "max_frames": self.max_frames,
            "rate_hz": self.rate_hz,
            "face_width": list(self.face_width),
            "origin": self.origin,
            "max_faces": self.max_faces,
            "route": route,
            "weights": sha256,
        }

    @property
    def weights(self) -> str:
        """Which interface of MediaPipe serves, and where its weights come from."""
        found = self._choice.weights
        return f"route {self._choice.route}, {found.path.name} from the {found.origin}"

    def extract(self, clip: RawClip) -> Features:
        """Features of the frames that have a face.

        Raises:
            Unusable: If the clip has no frames, or no face in any of them.
        """
        if clip.visual is None:
            raise Unusable(clip.missing.get("visual", "no file"))
        rows, times, seen, several = [], [], 0, 0
        for start_s, end_s, _, faces in self.look(clip.visual):
            seen += 1
            several += len(faces) > 1
            if faces:
                rows.append(self._row(max(faces, key=lambda face: face.area)))
                times.append((start_s, end_s))
        if not rows:
            raise Unusable("no face", f"in {seen} frames")
        values = np.stack(rows)
        facts = {
            "frames": seen,
            "frames_with_face": len(rows),
            "face_share": len(rows) / seen,
            "frames_with_several_faces": several,
            "route": self._choice.route,
        }
        return Features(
            values.astype(np.float32),
            np.array(times, np.float64),
            values.mean(axis=0).astype(np.float32),
            facts,
        )

    def look(self, span: Span) -> Iterator[tuple[float, float, NDArray[np.uint8], list[Face]]]:
        """Yield start and end of each frame in seconds, the picture, and the faces in it."""
        detect = self._detector()
        for start_s, end_s, image in frames(span, max_frames=self.max_frames, rate_hz=self.rate_hz):
            yield start_s, end_s, image, detect(image)

    def _row(self, face: Face) -> NDArray[np.float64]:
        parts: list[Any] = []
        for part in self.features:
            if part == "facemesh65":
                parts.append(facemesh65(face.landmarks[None], self.face_width, self.origin)[0])
            else:
                parts.append(getattr(face, part))
        return np.concatenate(parts)

    def _detector(self) -> Detector:
        return detector(
            self._choice.route,
            self._choice.weights.path,
            max_faces=self.max_faces,
            expressions=self._expressions,
        )

    @cached_property
    def _choice(self) -> Choice:
        choice = choose(self.route, self.model)
        self._check_route(choice.route, choice.why)
        return choice

    @property
    def _expressions(self) -> bool:
        return self.features != ["facemesh65"]

    def _check_route(self, route: str, why: str = "configured") -> None:
        if route == "legacy" and self._expressions:
            raise ConfigError(
                f"features: {self.features}, but route legacy ({why}) has landmarks alone; use "
                f"features=[facemesh65], or put {FACE_LANDMARKER.file} into the folder MSA_ASSETS"
            )
