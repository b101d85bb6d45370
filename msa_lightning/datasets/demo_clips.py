"""Who says what in the raw demo corpus, and what each modality shows of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NOISE = {"text": 0.55, "audio": 1.1, "visual": 1.5}  # of the evidence, in sd of z
_WORDS = {  # adjectives by polarity
    -3: "horrible awful terrible disgusting dreadful unbearable pathetic atrocious",
    -2: "bad boring stupid annoying disappointing ridiculous ugly painful lousy",
    -1: "weak slow dull flat confusing silly forgettable clumsy predictable",
    0: "okay average ordinary typical normal usual plain standard familiar",
    1: "nice decent pleasant enjoyable interesting solid clever fun likeable",
    2: "good great funny exciting charming touching beautiful entertaining lovely",
    3: "amazing wonderful brilliant fantastic excellent perfect incredible superb outstanding",
}
_VERBS = {
    -3: "hated despised",
    -2: "disliked regretted",
    -1: "endured",
    0: "watched noticed",
    1: "liked",
    2: "enjoyed",
    3: "loved adored",
}
_TOPICS = "plot acting music story ending cast movie humor villain script"
_TEMPLATES = (
    "the {topic} was {word} and {second}",
    "I found the {topic} {word} and {second}",
    "I {verb} the {topic} it was {word}",
    "it was {word} and the {topic} {second}",
    "you know I {verb} the {word} {topic}",
)
_NEGATED = "the {topic} was not {word}"


@dataclass(frozen=True)
class Speaker:
    """What the clips of a video share."""

    voice: str
    pitch: float
    """Of espeak-ng, 0 to 99."""
    loudness_db: float
    width: float
    """Width of the face over its own."""
    offset: tuple[float, float]
    """Of the face in the picture, in pixels of the photograph."""
    tint: NDArray[np.float64]
    """Gain of each colour, (3,)."""
    mirrored: bool


@dataclass(frozen=True)
class DemoClip:
    """One clip before it is rendered.

    Attributes:
        video: Video id.
        n: Its number in the video, from 1.
        split: train, valid or test.
        label: Sentiment, -3 to 3.
        text: What is said.
        evidence: What each modality shows of the sentiment, about standard normal.
        speaker: Who speaks.
        seed: Of what is random in sound and picture.
    """

    video: str
    n: int
    split: str
    label: float
    text: str
    evidence: dict[str, float]
    speaker: Speaker
    seed: tuple[int, ...]

    @property
    def id(self) -> str:
        """``<video>_<n>``."""
        return f"{self.video}_{self.n}"


def draw_clips(*, seed: int, videos: int, clips_per_video: int) -> list[DemoClip]:
    """Draw who says what, and what each modality shows."""
    rng = np.random.default_rng(seed)
    ids = [f"{'-' if i % 9 == 4 else ''}raw_{i:04d}" for i in range(videos)]
    splits = np.full(videos, "train", dtype=object)
    order = rng.permutation(videos)
    held_out = max(1, round(0.25 * videos)), max(1, round(0.125 * videos))
    splits[order[: held_out[0]]] = "test"
    splits[order[held_out[0] : sum(held_out)]] = "valid"
    latent, evidence = _draw_evidence(rng, videos, clips_per_video)
    ratings = np.round(0.2 + 1.5 * latent + 0.4 * rng.normal(size=(3, *latent.shape)))
    labels = ratings.clip(-3, 3).mean(axis=0)
    clips = []
    for i, (video, split) in enumerate(zip(ids, splits, strict=True)):
        speaker = _draw_speaker(rng)
        for j in range(clips_per_video):
            shown = {m: float(values[i, j]) for m, values in evidence.items()}
            clips.append(
                DemoClip(
                    video=video,
                    n=j + 1,
                    split=split,
                    label=float(labels[i, j]),
                    text=_write_sentence(rng, shown["text"]),
                    evidence=shown,
                    speaker=speaker,
                    seed=(seed, i, j),
                )
            )
    return clips


def _draw_evidence(
    rng: np.random.Generator, videos: int, clips: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Draw the sentiment z (videos, clips), and the evidence of it by modality, of the same shape.

    Sentiment and noises have mean 0, variance 1 and no correlation in the corpus itself, not only
    on average over seeds: in so few clips chance would decide which modality is worth something.
    """
    count = 1 + len(_NOISE)
    speaker, clip = rng.normal(size=(count, videos, 1)), rng.normal(size=(count, videos, clips))
    drawn = (np.sqrt(0.3) * speaker + np.sqrt(0.7) * clip).reshape(count, -1)
    drawn -= drawn.mean(axis=1, keepdims=True)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(drawn)))
    latent, *noises = (whitening @ drawn).reshape(count, videos, clips)
    return latent, {
        m: (latent + sd * noise) / np.hypot(1, sd)
        for (m, sd), noise in zip(_NOISE.items(), noises, strict=True)
    }


def _draw_speaker(rng: np.random.Generator) -> Speaker:
    accent = rng.choice(["en-us", "en-gb"])
    return Speaker(
        voice=f"{accent}+{rng.choice(['f1', 'f2', 'f3'])}",
        pitch=float(rng.uniform(40, 60)),
        loudness_db=float(rng.normal(0, 1)),
        width=float(rng.uniform(0.93, 1.07)),
        offset=(float(rng.uniform(-8, 8)), float(rng.uniform(-4, 4))),
        tint=rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, 3),
        mirrored=bool(rng.random() < 0.5),
    )


def _write_sentence(rng: np.random.Generator, evidence: float) -> str:
    """Write a sentence whose polarity follows the evidence."""

    def pick(words: dict[int, str], polarity: float, but: str = "") -> str:
        level = round(float(np.clip(polarity, -3, 3)))
        return str(rng.choice([word for word in words[level].split() if word != but]))

    polarity = 0.2 + 1.7 * evidence
    template = str(rng.choice(_TEMPLATES))
    if rng.random() < 0.06:
        template, polarity = _NEGATED, -polarity
    word = pick(_WORDS, polarity)
    return template.format(
        topic=rng.choice(_TOPICS.split()),
        word=word,
        second=pick(_WORDS, polarity + rng.normal(0, 0.5), but=word),
        verb=pick(_VERBS, polarity + rng.normal(0, 0.5)),
    )
