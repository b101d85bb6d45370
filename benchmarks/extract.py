"""Cost of extraction on real clips: against a sensible script, by processes, and from a full cache.

The script that ours is compared with is warm, has one text encoder that it feeds sentence by
sentence without padding, librosa's own functions, and the same FaceMesh route frame by frame, with
MediaPipe's own tracking and one face at most. Ours writes its cache, too. Start-up (loading models
in each worker) is printed apart.

    MSA_DATA=<folder> MSA_ASSETS=<folder> python benchmarks/extract.py

needs the 24 clips of GRID in <MSA_DATA>/grid.
"""

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from msa_lightning.config import CONF
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.datasets.media_folder import MediaFolder
from msa_lightning.extractors.assets import MINILM, find
from msa_lightning.extractors.bert import Encoder
from msa_lightning.extractors.contract import Span
from msa_lightning.extractors.extraction import Extraction
from msa_lightning.extractors.facemesh import FaceMesh, facemesh65
from msa_lightning.extractors.landmarks import choose
from msa_lightning.extractors.librosa import LibrosaFeatures
from msa_lightning.extractors.workers import Workers

MINILM_TEXT = "extractor/text=minilm"


def options(name: str) -> dict[str, Any]:
    """What the configuration of an extractor says."""
    with initialize_config_dir(CONF, version_base="1.3"):
        node: Any = compose("extract", ["source=media_folder", "source.folder=x", MINILM_TEXT])
    return {k: v for k, v in OmegaConf.to_container(node.extractor[name]).items() if k[0] != "_"}


FACE, TEXT = options("visual"), options("text") | {"device": "cpu"}


class Script:
    """What one would write by hand: one process, one clip after the other."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.torch = torch
        folder = find(MINILM).path
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, manifest: Manifest) -> None:
        for clip in manifest.clips:
            assert clip.visual
            assert clip.text
            self.visual(clip.visual.path)
            self.audio(clip.visual.path)
            self.text(clip.text.text)

    def visual(self, path: Path) -> np.ndarray:
        """The same route as ours; a landmarker for each clip, because tracking has a memory."""
        choice = choose("auto")
        detect, close = (_tasks if choice.route == "tasks" else _legacy)(choice.weights.path)
        rows = []
        with av.open(str(path)) as file:
            for number, frame in enumerate(file.decode(video=0)):
                if number == FACE["max_frames"]:
                    break
                image = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                points = detect(image, number * 40)
                if points is not None:
                    rows.append(points * (image.shape[1], image.shape[0], image.shape[1]))
        close()
        return facemesh65(np.stack(rows), (234, 454), "image").mean(0)

    def audio(self, path: Path) -> np.ndarray:
        """Librosa's functions, one by one."""
        import librosa

        resampler = av.AudioResampler("fltp", "mono", 22050)
        with av.open(str(path)) as file:
            frames = [f for frame in file.decode(audio=0) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
        y = np.concatenate([frame.to_ndarray()[0] for frame in frames])[: 3 * 22050]
        rows = [
            librosa.feature.mfcc(y=y, sr=22050, n_mfcc=13),
            librosa.feature.chroma_stft(y=y, sr=22050),
            librosa.feature.spectral_centroid(y=y, sr=22050),
            librosa.feature.spectral_rolloff(y=y, sr=22050),
            librosa.feature.zero_crossing_rate(y),
        ]
        tempo = librosa.feature.tempo(y=y, sr=22050)
        return np.append(np.concatenate(rows).mean(1), tempo)

    def text(self, sentence: str, padded: bool = False) -> Any:
        """One sentence; the paper pads it to 512 tokens."""
        how: dict[str, Any] = {"padding": "max_length", "max_length": 512} if padded else {}
        tokens = self.tokenizer(sentence, return_tensors="pt", truncation=True, **how)
        with self.torch.inference_mode():
            states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        return (states * mask).sum(1) / mask.sum(1)


def _tasks(weights: Path) -> tuple[Callable[..., np.ndarray | None], Callable[[], None]]:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    landmarker = vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(weights)),
            running_mode=vision.RunningMode.VIDEO,
            num_faces=1,
        )
    )

    def detect(image: np.ndarray, time_ms: int) -> np.ndarray | None:
        picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, image)
        faces = landmarker.detect_for_video(picture, time_ms).face_landmarks
        return np.array([(p.x, p.y, p.z) for p in faces[0]]) if faces else None

    return detect, landmarker.close


def _legacy(weights: Path) -> tuple[Callable[..., np.ndarray | None], Callable[[], None]]:
    from mediapipe.solutions.face_mesh import FaceMesh as Mesh

    mesh = Mesh(max_num_faces=1, refine_landmarks=True)

    def detect(image: np.ndarray, _: int) -> np.ndarray | None:
        faces = mesh.process(image).multi_face_landmarks
        return np.array([(p.x, p.y, p.z) for p in faces[0].landmark]) if faces else None

    return detect, mesh.close


def extraction(cache: str, modalities: list[str], workers: int) -> Extraction:
    extractors = {
        "text": Encoder(**TEXT),
        "audio": LibrosaFeatures(size=74, max_s=3.0),
        "visual": FaceMesh(**FACE),
    }
    return Extraction(
        extractors=extractors,
        modalities=modalities,
        cache=cache,
        workers=workers,
        max_failed=0.0,
        timeout_s=600,
        retry=False,
    )


@contextlib.contextmanager
def warm(manifest: Manifest, modalities: list[str], count: int) -> Any:
    """A pool whose workers have loaded everything: a function that extracts into a new cache."""
    job = extraction("", modalities, count)
    with Workers(job.extractors, count, 600) as workers:

        def run() -> float:
            with tempfile.TemporaryDirectory() as cache, _silence():
                began = time.perf_counter()
                extraction(cache, modalities, count).run(manifest, workers=workers)
                return time.perf_counter() - began

        first = run()
        second = run()  # every worker has met every extractor by now
        print(f"start-up of {count} worker(s): about {first - second:.1f} s", flush=True)
        yield run


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def _silence() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO())


def full_cache(manifest: MediaFolder) -> float:
    """Work of a second run over the work of the first, in this process and without start-up."""
    with tempfile.TemporaryDirectory() as cache, _silence():
        modalities = ["text", "audio", "visual"]
        with tempfile.TemporaryDirectory() as other:  # loads the models
            extraction(other, modalities, 0).run(manifest.manifest())
        again = [
            timed(lambda: extraction(cache, modalities, 0).run(manifest.manifest()))
            for _ in range(2)
        ]
    return again[1] / again[0]


def peak_mb(manifest: Manifest) -> float:
    """Most memory of a process that extracts everything from these clips, in MB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_extract, manifest).result()


def _extract(manifest: Manifest) -> float:
    with tempfile.TemporaryDirectory() as cache, _silence():
        extraction(cache, ["text", "audio", "visual"], 0).run(manifest)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def often(manifest: Manifest, times: int) -> Manifest:
    """The same clips several times, under other names."""
    clips = [replace(c, id=f"{c.id}_{i}") for i in range(times) for c in manifest.clips]
    return replace(manifest, clips=clips)


def from_one_video(manifest: Manifest, folder: Path, times: int) -> Manifest:
    """As many clips of three seconds, cut from one long video: all of them, several times."""
    files = [clip.visual.path for clip in manifest.clips if clip.visual]
    video = folder / "long.mp4"
    with av.open(str(video), "w") as out:
        pictures = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        pictures.width, pictures.height, pictures.pix_fmt = 360, 288, "yuv420p"
        sound = out.add_stream("aac", rate=44100, layout="mono")
        resampler = av.AudioResampler("fltp", "mono", 44100)
        shown = heard = 0
        for path in files * times:
            with av.open(str(path)) as file:
                for frame in file.decode(video=0):
                    frame.pts, frame.time_base = shown, Fraction(1, 25)
                    shown += 1
                    out.mux(pictures.encode(frame))
            with av.open(str(path)) as file:
                for part in file.decode(audio=0):
                    part.pts = None
                    for frame in resampler.resample(part):
                        frame.pts, frame.time_base = heard, Fraction(1, 44100)
                        heard += frame.samples
                        out.mux(sound.encode(frame))
        out.mux(pictures.encode())
        out.mux(sound.encode())
    spans = [Span(video, 3.0 * times * i, 3.0 * times * i + 3.0) for i in range(len(files))]
    clips = [
        replace(clip, visual=span, audio=span)
        for clip, span in zip(manifest.clips, spans, strict=True)
    ]
    return replace(manifest, clips=clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    logging.disable(logging.INFO)
    folder = Path(os.environ["MSA_DATA"]) / "grid"
    source = MediaFolder(folder=str(folder / "video"), transcripts=str(folder / "align"))
    manifest = source.manifest()
    print(f"{len(manifest.clips)} clips, route {choose('auto').route}")
    everything = ["text", "audio", "visual"]

    share = full_cache(source)
    print(f"second run over a full cache: {share:.2%} of the first (limit 1 %)")
    with tempfile.TemporaryDirectory() as scratch:
        memory = {
            f"{len(manifest.clips)} clips": manifest,
            "four times as many": often(manifest, 4),
            "as many, of a video of 5 minutes": from_one_video(manifest, Path(scratch), 4),
        }
        peaks = {name: peak_mb(listed) for name, listed in memory.items()}
    print("peak memory:", ", ".join(f"{name} {mb:.0f} MB" for name, mb in peaks.items()))
    growth = max(peaks.values()) / next(iter(peaks.values()))
    script = Script()
    script(manifest)  # warm
    sentences = [clip.text.text for clip in manifest.clips if clip.text]
    ratios = []
    with warm(manifest, everything, 2) as ours:
        for _ in range(repetitions):
            plain, own = timed(script, manifest), ours()
            padding = timed(lambda: [script.text(s, padded=True) for s in sentences])
            padding -= timed(lambda: [script.text(s) for s in sentences])
            ratios.append((plain / own, (plain + padding) / own))
            print(f"script {plain:.2f} s  ours {own:.2f} s  {ratios[-1][0]:.2f}x", end="  ")
            print(f"(the paper's way {plain + padding:.2f} s, {ratios[-1][1]:.2f}x)")
    worst, paper = min(r for r, _ in ratios), min(r for _, r in ratios)
    scaling = []
    with warm(manifest, ["visual"], 1) as one, warm(manifest, ["visual"], 2) as two:
        for _ in range(repetitions):
            scaling.append(one() / two())
            print(f"visual, two processes over one: {scaling[-1]:.2f}x")
    print(f"worst of {repetitions}: {worst:.2f}x the script (limit 1.6)")
    print(f"{paper:.2f}x the paper's way; two processes {min(scaling):.2f}x one (limit 1.6)")
    print(f"full cache {share:.2%} (limit 1 %); memory grew by {growth - 1:.0%} (limit 5 %)")
    raise SystemExit(worst < 1.6 or min(scaling) < 1.6 or share > 0.01 or growth > 1.05)


if __name__ == "__main__":
    main()
