"""The feature cache: never stale, never half, the union of its parts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from msa_lightning.datasets.cache import FeatureCache, source_key
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import RawClip, Span, Transcript, Unusable
from tests.data.extractors import Bytes, Words


def clip(folder: Path, name: str, content: bytes = b"0123456789") -> RawClip:
    path = folder / f"{name}.bin"
    path.write_bytes(content)
    return RawClip(name, name, audio=Span(path), text=Transcript("a transcript"))


def fill(root: Path, clips: list[RawClip], **options: float) -> FeatureCache:
    extractor = Bytes(**options)
    cache = FeatureCache(root, extractor)
    cache.write([(c, extractor.extract(c)) for c in clips])
    return cache


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    clips = [clip(tmp_path, "a_1"), clip(tmp_path, "-b_1", b"xyz")]
    fill(tmp_path / "cache", clips)
    cache = FeatureCache(tmp_path / "cache", Bytes())
    cache.refresh()
    for c in clips:
        entry, expected = cache.find(c), Bytes().extract(c)
        assert entry
        assert entry.reason == ""
        assert entry.facts == {"frames": len(expected.values), "steps": len(expected.values)}
        for name in ("values", "times", "vector"):
            found = cache.read([entry], name)[c.id]
            assert found.dtype == getattr(expected, name).dtype
            np.testing.assert_array_equal(found, getattr(expected, name))


def test_a_reason_lies_beside_the_features(tmp_path: Path) -> None:
    broken, cache = clip(tmp_path, "a_1"), FeatureCache(tmp_path / "cache", Bytes())
    cache.write([(broken, Unusable("silent", "peak 0"))])
    entry = cache.find(broken)
    assert entry
    assert (entry.reason, entry.detail) == ("silent", "peak 0")


@pytest.mark.parametrize("change", [{"scale": 2.0}, {"version": 2}])
def test_another_option_or_version_finds_nothing(tmp_path: Path, change: dict[str, float]) -> None:
    c = clip(tmp_path, "a_1")
    fill(tmp_path / "cache", [c])
    other = FeatureCache(tmp_path / "cache", Bytes(**change))
    other.refresh()
    assert other.find(c) is None


def test_changed_media_or_another_interval_finds_nothing(tmp_path: Path) -> None:
    c = clip(tmp_path, "a_1")
    cache = fill(tmp_path / "cache", [c])
    assert c.audio
    cut = dataclasses.replace(c, audio=dataclasses.replace(c.audio, end_s=1.0))
    assert cache.find(cut) is None
    assert cache.find(clip(tmp_path, "a_1", b"9876543210")) is None
    assert cache.find(clip(tmp_path, "a_1", b"0123456789"))  # the same content, written again


def test_text_is_judged_by_words_and_times(tmp_path: Path) -> None:
    a, b = RawClip("a", "a", text=Transcript("so")), RawClip("a", "a", text=Transcript("no"))
    timed = RawClip("a", "a", text=Transcript("so", ((0.0, 1.0),)))
    assert len({source_key(c, Words.modality) for c in (a, b, timed)}) == 3


def test_a_part_cut_short_does_not_count_and_the_rest_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = clip(tmp_path, "a_1"), clip(tmp_path, "b_1", b"other")
    cache = fill(tmp_path / "cache", [a])
    part = next(cache.folder.glob("*.h5"))
    fill(tmp_path / "cache", [b])
    part.write_bytes(part.read_bytes()[:-700])
    again = FeatureCache(tmp_path / "cache", Bytes())
    again.refresh()
    assert again.find(a) is None
    assert again.find(b)
    assert f"{part}: damaged" in caplog.text
    again.write([(a, Bytes().extract(a))])  # extracted again, it takes the place of the damaged one
    assert FeatureCache(tmp_path / "cache", Bytes()).folder == again.folder
    whole = FeatureCache(tmp_path / "cache", Bytes())
    whole.refresh()
    assert whole.find(a)


def test_two_writers_make_one_content(tmp_path: Path) -> None:
    clips = [clip(tmp_path, f"a_{i}", bytes([i + 1] * 9)) for i in range(4)]
    first, second = fill(tmp_path / "c", clips[:2]), fill(tmp_path / "c", clips[2:])
    fill(tmp_path / "c", clips[1:3])  # some of it twice
    first.refresh()
    second.refresh()
    for c in clips:
        expected = Bytes().extract(c)
        for cache in (first, second):
            entry = cache.find(c)
            assert entry
            np.testing.assert_array_equal(cache.read([entry], "values")[c.id], expected.values)


@pytest.mark.parametrize("number", range(6))  # parts are read in the order of their hashes
def test_a_usable_entry_counts_before_a_reason(tmp_path: Path, number: int) -> None:
    c = clip(tmp_path, f"a_{number}")
    cache = FeatureCache(tmp_path / "cache", Bytes())
    cache.write([(c, Unusable("extractor failed"))])
    cache.write([(c, Bytes().extract(c))])
    fresh = FeatureCache(tmp_path / "cache", Bytes())
    for found in (cache, fresh):
        found.refresh()
        entry = found.find(c)
        assert entry
        assert entry.reason == ""


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ConfigError, match=r"paths\.cache: .*cannot be written to"):
        FeatureCache(tmp_path / "cache", Bytes()).make_folder()


def test_a_folder_in_place_of_a_file_is_a_source_like_any_other(tmp_path: Path) -> None:
    clips = [RawClip("a", "a", audio=Span(tmp_path, end)) for end in (0.0, 1.0)]
    assert source_key(clips[0], "audio") != source_key(clips[1], "audio")
