"""Which runs belong together, and what to call them.

Runs whose settings are equal, but for seeds, are a group. Its name is made of as few settings as
tell the groups apart.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from msa_lightning import MODALITIES

Settings = dict[str, Any]
"""What can change a result, by dotted key."""

_FIRST = ("method", "modalities", "model._target_")  # names are made of these if they can be
_BARE = ("method", "modalities")  # whose values speak for themselves
_SEED_AND_HASH = re.compile(r"-seed\d+-[0-9a-f]{8}")


class Groups:
    """Group runs by everything but the seed.

    Args:
        settings: Of each run.
        seeds: Of each run.

    Attributes:
        names: The group of each run.
        ranks: What to sort runs by, so that groups stand together and in a sensible order.
        settings: What differs: a row per group, a column per key, None where a group has no such.
    """

    def __init__(self, settings: Sequence[Settings], seeds: Sequence[int]) -> None:
        keys = _differing(settings, seeds)
        signatures = [tuple(s.get(key) for key in keys) for s in settings]
        distinct = dict(zip(signatures, settings, strict=True))
        trained = {g: s for g, s in distinct.items() if s.get("method") is None}
        transferred = {g: s for g, s in distinct.items() if g not in trained}
        both = bool(trained and transferred)
        named = _name(trained, keys, []) | _name(transferred, keys, ["method"] if both else [])
        names, seen = {}, Counter[str]()
        for g, (name, _) in named.items():  # two classes may be called the same
            seen[name] += 1
            names[g] = name if seen[name] == 1 else f"{name} ({seen[name]})"
        self.names = [names[g] for g in signatures]
        self.ranks = [(g in transferred, named[g][1]) for g in signatures]
        rows = {names[g]: g for g in distinct}
        self.settings = pd.DataFrame.from_dict(rows, orient="index", columns=keys, dtype=object)


def flat(node: Any, key: str = "") -> Settings:
    """Nested settings by dotted key; another run's folder stands for that run's group."""
    nested = isinstance(node, list) and any(isinstance(child, dict | list) for child in node)
    if isinstance(node, dict) or nested:
        children = node.items() if isinstance(node, dict) else enumerate(node)
        leaves: Settings = {}
        for name, child in children:
            leaves |= flat(child, f"{key}.{name}" if key else str(name))
        return leaves
    if isinstance(node, str):
        node = _SEED_AND_HASH.sub("", node)
    return {key: tuple(node) if isinstance(node, list) else node}


def _differing(settings: Sequence[Settings], seeds: Sequence[int]) -> list[str]:
    """Keys that tell runs apart, beside the seed; those that a name is rather made of first."""

    def preference(key: str) -> tuple[int, int, str]:
        rank = _FIRST.index(key) if key in _FIRST else len(_FIRST)
        return rank, len(_shown(key)), key

    differing = []
    for key in dict.fromkeys(key for s in settings for key in s):
        values = [s.get(key) for s in settings]
        if len(set(values)) > 1 and not (key.endswith("seed") and values == list(seeds)):
            differing.append(key)
    return sorted(differing, key=preference)


def _name(
    groups: dict[tuple[Any, ...], Settings], keys: Sequence[str], lead: list[str]
) -> dict[tuple[Any, ...], tuple[str, list[Any]]]:
    """Name and rank of groups, by signature.

    A setting that more than half of the groups share is left out, unless it is the first.

    Args:
        groups: Their settings by signature.
        keys: What may be named, the best first.
        lead: What has to be named.
    """
    chosen = _telling(list(groups.values()), keys, lead) or ["modalities"]
    usual = {key: _usual([s.get(key) for s in groups.values()]) for key in chosen[1:]}
    named = {}
    for signature, setting in groups.items():
        values = {key: setting.get(key) for key in chosen}
        shown = {k: v for k, v in values.items() if k not in usual or [v] != usual[k]}
        name = ", ".join(_part(key, value) for key, value in shown.items())
        named[signature] = name, [_rank(value) for value in values.values()]
    return named


def _telling(groups: Sequence[Settings], keys: Sequence[str], lead: list[str]) -> list[str]:
    """Few keys that tell all groups apart: always the one that tells most of what is left."""

    def told(chosen: Iterable[str]) -> int:
        return len({tuple(group.get(key) for key in chosen) for group in groups})

    chosen = list(lead)
    while told(chosen) < len(groups):
        chosen.append(max(keys, key=lambda key: told([*chosen, key])))  # the first of equals
    return sorted(chosen, key=list(keys).index)


def _usual(values: Sequence[Any]) -> list[Any]:
    """The value of more than half, if there is one."""
    return [value for value, n in Counter(values).items() if 2 * n > len(values)]


def _part(key: str, value: Any) -> str:
    words = value if isinstance(value, tuple) else ["none" if value is None else value]
    text = "+".join(map(str, words))
    if key.endswith("_target_"):
        text = text.rsplit(".", 1)[-1]
    return text if key in _BARE else f"{_shown(key)}={text}"


def _shown(key: str) -> str:
    return key.removesuffix("._target_")


def _rank(value: Any) -> tuple[int, Any]:
    """Sort numbers by size, modalities by how many and which, the rest by name."""
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, tuple) and set(value) <= set(MODALITIES):
        return 1, (len(value), [MODALITIES.index(m) for m in value])
    return 2, str(value)
