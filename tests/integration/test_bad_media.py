"""Every kind of bad media through the real extractors: a masked modality and a reason, no more."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.transform import resize

from msa_lightning.datasets.media_folder import MediaFolder
from msa_lightning.errors import DataNotFoundError
from tests.data.make_media import tone, write_media
from tests.data.make_raw import make_vectors
from tests.integration.raw import make_extraction

FACE = (resize(astronaut()[:256, 96:352], (192, 192)) * 255).round().astype(np.uint8)
SMALL = (resize(astronaut()[:256, 96:352], (128, 128)) * 255).round().astype(np.uint8)
SPEECH = tone(1.0, rate_hz=22050)

GOOD: dict[str, str] = {}
EXPECTED = {  # what is masked, and why; everything else is usable
    "whole": GOOD,
    "zero_byte": {"audio": "empty file", "visual": "empty file"},
    "truncated": {"audio": "not decodable", "visual": "not decodable"},
    "garbage": {"audio": "not decodable", "visual": "not decodable"},
    "no_audio": {"audio": "no audio stream"},
    "no_video": {"visual": "no video stream"},
    "silent": {"audio": "silent"},
    "short": {"audio": "too short"},
    "no_face": {"visual": "no face"},
    "two_faces": GOOD,
    "rotated": GOOD,
    "variable_rate": GOOD,
    "large": GOOD,
    "no_transcript": {"text": "no transcript"},
    "empty_transcript": {"text": "empty transcript"},
    "latin_transcript": {"text": "transcript not UTF-8"},
    "long_transcript": GOOD,
    "twice": {"visual": "duplicate id", "audio": "duplicate id"},
}


SECOND_RUN = """
import sys
from pathlib import Path
from msa_lightning.datasets.media_folder import MediaFolder
from tests.integration.raw import make_extraction

extraction = make_extraction(*{arguments})
extraction.workers = None
counts = extraction.run(MediaFolder(folder="{media}").manifest())
assert sum(c.extracted for c in counts.values()) == 0, counts
loaded = {{"av", "cv2", "torch", "transformers", "mediapipe", "librosa"}} & sys.modules.keys()
assert not loaded, loaded
import multiprocessing
assert not multiprocessing.active_children()
"""


def frames(picture: np.ndarray = FACE, n: int = 10) -> Iterator[np.ndarray]:
    return (np.roll(picture, i, axis=1) for i in range(n))


def make_clips(folder: Path) -> None:
    def mp4(name: str, pictures: object, sound: object = SPEECH, **options: object) -> Path:
        path = folder / f"{name}.mp4"
        return write_media(path, pictures, sound, fps=10, rate_hz=22050, **options)  # type: ignore[arg-type]

    for name in EXPECTED:
        (folder / f"{name}.txt").write_text("it was great")
    whole = mp4("whole", frames()).read_bytes()
    (folder / "zero_byte.mp4").touch()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    mp4("no_audio", frames(), None)
    write_media(folder / "no_video.wav", None, SPEECH, rate_hz=22050)
    mp4("silent", frames(), 0 * SPEECH)
    mp4("short", frames(n=1), SPEECH[: 22050 // 20])
    mp4("no_face", [np.full_like(FACE, 90)] * 5)
    pair = np.zeros((192, 384, 3), np.uint8)
    pair[:, :192], pair[:128, 192:320] = FACE, SMALL
    mp4("two_faces", frames(pair, 5))
    mp4("rotated", [np.rot90(f, -1) for f in frames()], rotation=90)
    mp4("variable_rate", frames(), times=[0.0, 0.05, 0.2, 0.25, 0.4, 0.5, 0.55, 0.7, 0.8, 0.9])
    mp4("large", [np.kron(FACE, np.ones((11, 20, 1), np.uint8))] * 2)
    mp4("no_transcript", frames())
    (folder / "no_transcript.txt").unlink()
    mp4("empty_transcript", frames())
    (folder / "empty_transcript.txt").write_text(" \n")
    mp4("latin_transcript", frames())
    (folder / "latin_transcript.txt").write_bytes("déjà vu".encode("latin-1"))
    mp4("long_transcript", frames())
    (folder / "long_transcript.txt").write_text("it was great " * 1700)
    mp4("twice", frames())
    write_media(folder / "twice.avi", frames(), SPEECH, fps=10, rate_hz=22050)


@pytest.mark.parametrize("text", ["word_vectors", pytest.param("minilm", marks=pytest.mark.slow)])
def test_bad_media_are_masked_with_their_reason(tmp_path: Path, text: str) -> None:
    media = tmp_path / "media"
    media.mkdir()
    make_clips(media)
    make_vectors(tmp_path)
    try:
        extraction = make_extraction(str(tmp_path), str(tmp_path / "cache"), text)
        caches = extraction.caches()
    except DataNotFoundError as error:
        pytest.skip(str(error))
    manifest = MediaFolder(folder=str(media)).manifest()
    extraction.run(manifest)
    caches = extraction.caches()
    found = {}
    for clip in manifest.clips:
        found[clip.id] = {}
        for m, cache in caches.items():
            entry = cache.find(clip) if getattr(clip, m) else None
            reason = entry.reason if entry else clip.missing[m]
            if reason:
                found[clip.id][m] = reason
            elif entry:
                vector, values = (cache.read([entry], n)[clip.id] for n in ("vector", "values"))
                assert np.isfinite(values).all()
                assert np.abs(vector).max() > 0, "zeros"
    assert found == EXPECTED

    # Once more, in a fresh process: everything is cached, nothing is decoded, no model is loaded.
    code = SECOND_RUN.format(arguments=(str(tmp_path), str(tmp_path / "cache"), text), media=media)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    facts = {c.id: e.facts for c in manifest.clips if c.visual and (e := caches["visual"].find(c))}
    assert facts["two_faces"]["frames_with_several_faces"] == facts["two_faces"]["frames"] == 5
    assert facts["whole"]["frames_with_face"] == 10
    assert facts["rotated"]["frames_with_face"] == facts["large"]["frames_with_face"] * 5 == 10
