"""Splits by video: what is cut from one video never lies on two sides."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")


def random_70_15_15(videos: Iterable[str], seed: int) -> NDArray[np.str_]:
    """Split of each clip from its video id: 70 % of the videos train, 15 % valid, 15 % test.

    The transfer paper's proportions. Videos are ordered by a hash of seed and id, so that neither
    the order of the clips nor other videos' names matter, except where the cuts fall.

    Args:
        videos: Video id of each of N clips.
        seed: Of the split, apart from the seed of training.

    Returns:
        (N,) of ``train``, ``valid``, ``test``.
    """
    videos = list(videos)
    order = sorted(set(videos), key=lambda v: hashlib.sha256(f"{seed}:{v}".encode()).digest())
    cuts = round(0.7 * len(order)), round(0.85 * len(order))
    rank = {video: i for i, video in enumerate(order)}
    return np.array([SPLITS[sum(rank[v] >= cut for cut in cuts)] for v in videos])
