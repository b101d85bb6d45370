"""The face of the raw demo corpus: a photograph, warped so that it follows the evidence."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msa_lightning.datasets.demo_clips import DemoClip

FRAMES_HZ = 12
SIZE = 208, 224  # width and height of the frames
_ZOOM = 1.2  # pixels of a frame per pixel of the photograph
_PATCH = slice(0, 256), slice(96, 352)  # rows and columns of the photograph around the face
_CENTRE = 128, 124  # of the face in the patch, x and y

# Where the face moves at a displacement of 1: x and y in the patch, displacement to the right
# and down, and radius, all in pixels.
_ACTIONS: dict[str, tuple[tuple[float, float, float, float, float], ...]] = {
    "smile": ((105, 140, -4, -6, 11), (150, 141, 4, -6, 11), (127, 153, 0, 3, 9)),
    "brows": ((102, 86, 0, -4, 9), (119, 88, 1, -5, 9), (140, 89, -1, -5, 9), (158, 89, 0, -4, 9)),
    "open": ((127, 156, 0, 7, 12), (125, 176, 0, 7, 16)),
}


def draw_frames(clip: DemoClip, sound: NDArray[np.int16], rate_hz: int) -> NDArray[np.uint8]:
    """Animate the face: frames (F, H, W, 3)."""
    import cv2
    from skimage import data

    rng = np.random.default_rng((*clip.seed, 1))
    count = max(1, round(len(sound) / rate_hz * FRAMES_HZ))
    moves = _moves(rng, clip, count, sound)
    patch, speaker = data.astronaut()[_PATCH], clip.speaker  # type: ignore[no-untyped-call]
    height, width = patch.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    fields = {name: _field(points, grid) for name, points in _ACTIONS.items()}

    frames = np.empty((count, SIZE[1], SIZE[0], 3), np.uint8)
    for i in range(count):
        moved = sum(moves[name][i] * field for name, field in fields.items())
        x, y = cv2.split((grid - moved).astype(np.float32))
        face = cv2.remap(patch, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        angle, zoom = moves["turn"][i], _ZOOM * moves["zoom"][i]
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        pose = np.array([[cos * speaker.width, -sin], [sin * speaker.width, cos]])
        at = np.array(SIZE) / 2 + zoom * np.array([moves["right"][i], moves["down"][i]])
        affine = np.column_stack([pose, at - pose @ _CENTRE])
        frames[i] = cv2.warpAffine(face, affine, SIZE, borderMode=cv2.BORDER_REFLECT)
    frames = (frames * speaker.tint).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames[:, :, ::-1]) if speaker.mirrored else frames


def _moves(
    rng: np.random.Generator, clip: DemoClip, count: int, sound: NDArray[np.int16]
) -> dict[str, NDArray[np.float64]]:
    """Displacement of each action and pose of the head by frame, (F,) each."""
    evidence = np.clip(clip.evidence["visual"], -2.5, 2.5)
    parts = np.array_split(sound.astype(float), count)
    energy = np.sqrt([np.mean(part**2) for part in parts])
    right, down = clip.speaker.offset
    return {
        "smile": -0.55 + 0.42 * evidence + 0.1 * _drift(rng, count),
        "brows": 0.4 * evidence + 0.15 * _drift(rng, count),
        "open": 0.9 * energy / energy.max() - 0.2,
        "turn": 0.03 * _drift(rng, count),
        "zoom": 1 + 0.02 * _drift(rng, count),
        "right": right + 1.5 * _drift(rng, count),
        "down": down + 1.5 * _drift(rng, count),
    }


def _drift(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw a slow movement about 0: a sum of three sines below 1.5 Hz, (F,)."""
    times = np.arange(count) / FRAMES_HZ
    hz, phases = rng.uniform(0.1, 1.5, 3), rng.uniform(0, 2 * np.pi, 3)
    drift: NDArray[np.float64] = np.sin(2 * np.pi * np.outer(times, hz) + phases).sum(axis=1)
    return drift


def _field(points: Sequence[tuple[float, ...]], grid: NDArray[np.float32]) -> NDArray[np.float64]:
    """Displacement of each pixel, (H, W, 2): a sum of Gaussians."""
    field = np.zeros(grid.shape)
    for x, y, right, down, radius in points:
        distance = np.linalg.norm(grid - (x, y), axis=-1, keepdims=True)
        field += np.exp(-0.5 * (distance / radius) ** 2) * (right, down)
    return field
