"""Which target vectors a batch of source clips is to be mapped to.

All pairings take the same keyword-only arguments, whether they need them or not, so that a
configuration can name any of them:

- ``targets`` (N, D): vectors of the base run's training clips, as the base model sees them.
- ``target_labels`` (N, K): their labels, or None.
- ``source_labels`` (M, K): labels of the source clips, or None.
- ``pairs`` (M, D): each source clip in the target space; a row of NaN where it has no counterpart;
  or None.
- ``generator``: every random choice comes from it.

``pairing(indices, adapted)`` takes the source clips (B,) of a batch, as rows of ``source_labels``
and ``pairs``, and their adapted vectors (B, D). It returns targets (B, D) on the device and in the
precision of ``adapted``, without a gradient. A row of NaN says that a clip has no target.
"""

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from msa_lightning.errors import ConfigError

_DECIMALS = 5  # of a label distance; beyond them lies the rounding of float32


class Random:
    """A new random target for each clip in each batch, as in the transfer paper (section 3.6.2).

    The adapter of least squared error is then the constant E[target]: it forgets its input.
    """

    def __init__(
        self,
        *,
        targets: Tensor,
        target_labels: Tensor | None,
        source_labels: Tensor | None,
        pairs: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        self.targets, self.generator = targets, generator

    def __call__(self, indices: Tensor, adapted: Tensor) -> Tensor:
        """Draw with replacement; ``indices`` do not matter."""
        size, g = len(self.targets), self.generator
        picks = torch.randint(size, indices.shape, generator=g, device=g.device)
        return self.targets[picks.to(self.targets.device)].to(adapted)


class Centroid:
    """The centroid of the targets that is nearest to the adapted vector as it is now.

    Args:
        centroids: Clusters of the targets (k-means, k-means++ initialisation).

    Raises:
        ConfigError: If there are fewer different targets than clusters.
    """

    def __init__(
        self,
        *,
        targets: Tensor,
        target_labels: Tensor | None,
        source_labels: Tensor | None,
        pairs: Tensor | None,
        generator: torch.Generator,
        centroids: int,
    ) -> None:
        if (found := len(torch.unique(targets, dim=0))) < centroids:
            raise ConfigError(
                f"pairing.centroids is {centroids}, but there are {found} different target vectors;"
                " set a smaller pairing.centroids or sample more targets"
            )
        seed = torch.randint(2**31, (), generator=generator, device=generator.device).item()
        points = targets.double().cpu().numpy()
        means, _ = kmeans2(points, centroids, iter=50, minit="++", seed=int(seed))
        self.centroids = torch.as_tensor(means, dtype=targets.dtype, device=targets.device)

    def __call__(self, indices: Tensor, adapted: Tensor) -> Tensor:
        """Nearest in Euclidean distance; ``indices`` do not matter."""
        here = adapted.detach().to(self.centroids)
        return self.centroids[torch.cdist(here, self.centroids).argmin(1)].to(adapted)


class LabelMatched:
    """A random one of the targets whose labels are nearest to the clip's.

    Labels at the same distance are equally likely to be among the neighbours, anew in each batch.

    Args:
        neighbours: How many targets a clip is drawn from.

    Raises:
        ConfigError: If labels are missing, are not alike, or there are too few targets.
    """

    def __init__(
        self,
        *,
        targets: Tensor,
        target_labels: Tensor | None,
        source_labels: Tensor | None,
        pairs: Tensor | None,
        generator: torch.Generator,
        neighbours: int,
    ) -> None:
        labels = _labels("source", source_labels), _labels("target", target_labels)
        if labels[0].shape[1] != labels[1].shape[1]:
            raise ConfigError(
                f"pairing=label_matched: source clips have {labels[0].shape[1]} labels each, target"
                f" clips {labels[1].shape[1]}; choose a source and a base run with the same target"
            )
        if not 1 <= neighbours <= len(targets):
            raise ConfigError(
                f"pairing.neighbours is {neighbours}; expected 1 to {len(targets)}, the number of"
                " sampled targets"
            )
        self.targets, self.neighbours, self.generator = targets, neighbours, generator
        different, self.kinds = torch.unique(labels[0], dim=0, return_inverse=True)
        distance = torch.cdist(different, labels[1], compute_mode="donot_use_mm_for_euclid_dist")
        # one row per different source label, (U, N); its rounding must not break ties
        self.distance, self.order = distance.round(decimals=_DECIMALS).sort(1)

    def __call__(self, indices: Tensor, adapted: Tensor) -> Tensor:
        """Draw a rank among the neighbours, then any of the targets that share its distance."""
        g, b = self.generator, (len(indices), 1)
        kinds = self.kinds[indices.to(self.kinds.device)]
        ranks = torch.randint(self.neighbours, b, generator=g, device=g.device).to(kinds.device)
        chance = torch.rand(b, generator=g, device=g.device).to(kinds.device)
        distance = self.distance[kinds]  # (B, N), ascending
        drawn = distance.gather(1, ranks)
        first = torch.searchsorted(distance, drawn)
        ties = torch.searchsorted(distance, drawn, right=True) - first
        picks = self.order[kinds].gather(1, first + (chance * ties).long()).squeeze(1)
        return self.targets[picks.to(self.targets.device)].to(adapted)


class Paired:
    """The same clip in the target space; a clip without a counterpart gets a row of NaN.

    Raises:
        ConfigError: If no clip has a counterpart.
    """

    def __init__(
        self,
        *,
        targets: Tensor,
        target_labels: Tensor | None,
        source_labels: Tensor | None,
        pairs: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        if pairs is None or pairs.isnan().any(1).all():
            raise ConfigError(
                "pairing=paired needs source clips that went through the target space's extractor"
                " too, and there are none; choose another pairing: random, centroid, label_matched"
            )
        self.pairs = pairs

    def __call__(self, indices: Tensor, adapted: Tensor) -> Tensor:
        """Look the clips up."""
        return self.pairs[indices.to(self.pairs.device)].to(adapted)


def _labels(side: str, labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ConfigError(
            f"pairing=label_matched needs the labels of {side} clips, and there are none; choose"
            " another pairing: random and centroid need no labels"
        )
    if unlabelled := int(labels.isnan().any(1).sum()):
        raise ConfigError(
            f"pairing=label_matched: {unlabelled} of {len(labels)} {side} clips are unlabelled;"
            " leave them out (transductive=true brings them in) or choose another pairing: random"
            " and centroid need no labels"
        )
    return labels
