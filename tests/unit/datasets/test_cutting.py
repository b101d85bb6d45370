import logging
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msa_lightning.datasets.cutting import BESIDE_S, MARGIN_S, _stretches, cut
from msa_lightning.datasets.transcripts import read_subtitles
from msa_lightning.errors import ConfigError
from msa_lightning.extractors import speech
from msa_lightning.extractors.contract import RawClip, Span, Transcript
from msa_lightning.extractors.media import frames
from msa_lightning.extractors.speech import hears_speech
from tests.data.make_media import numbered, tone, write_media
from tests.unit.extractors.test_speech import talk

needs_vad = pytest.mark.skipif(not hears_speech(), reason="needs the extra vad")


def film(path: Path, seconds: float) -> RawClip:
    """A clip of pictures and a tone, without words."""
    write_media(
        path, numbered(round(10 * seconds)), tone(seconds, rate_hz=8000), fps=10, rate_hz=8000
    )
    return RawClip(path.stem, path.stem, audio=Span(path), visual=Span(path))


def with_words(clip: RawClip, *words: tuple[str, float, float]) -> RawClip:
    text = Transcript(" ".join(w for w, *_ in words), tuple((a, b) for _, a, b in words))
    return RawClip(clip.id, clip.video, text, clip.audio, clip.visual)


def intervals(clips: list[RawClip]) -> list[tuple[float, float]]:
    return [(clip.audio.start_s, clip.audio.end_s) for clip in clips]


def test_what_is_short_stays_whole(tmp_path):
    clip = film(tmp_path / "a.mp4", 2)
    for how in ("auto", "none", "windows", "speech"):
        assert cut(clip, how=how, max_clip_s=3, window_s=1) == [clip]
    assert cut(clip, how="none", max_clip_s=1, window_s=1) == [clip]


@pytest.mark.parametrize(
    ("seconds", "edges"),
    [(6.0, [0, 2, 4, 6]), (6.9, [0, 2, 4, 6.9]), (7.1, [0, 2, 4, 6, 7.1]), (2.6, [0, 2.6])],
)
def test_windows_follow_one_another_and_a_short_rest_joins_the_last(tmp_path, seconds, edges):
    path = write_media(tmp_path / "a.wav", sound=tone(seconds))
    clips = cut(RawClip("a", "a", audio=Span(path)), how="windows", max_clip_s=2.5, window_s=2)
    np.testing.assert_allclose(intervals(clips), list(pairwise(edges)))


def test_new_clips_are_parts_of_the_file_in_order(tmp_path):
    clip = film(tmp_path / "-a_b.mp4", 4.5)
    clips = cut(clip, how="windows", max_clip_s=2, window_s=1.5)
    assert [c.id for c in clips] == ["-a_b_1", "-a_b_2", "-a_b_3"]
    assert {c.video for c in clips} == {"-a_b"}
    assert all(c.audio == c.visual for c in clips)
    assert [sum(1 for _ in frames(c.visual)) for c in clips] == [15, 15, 15]
    assert clips[1].missing == {"text": "no transcript"}


def test_reasons_of_what_was_missing_stay(tmp_path):
    path = write_media(tmp_path / "a.wav", sound=tone(4))
    missing = {"text": "transcript not UTF-8", "visual": "no video stream"}
    clips = cut(
        RawClip("a", "a", audio=Span(path), missing=missing),
        how="windows",
        max_clip_s=2,
        window_s=2,
    )
    assert [c.missing for c in clips] == [missing, missing]


def test_words_belong_where_their_middle_lies(tmp_path):
    clip = with_words(
        film(tmp_path / "a.mp4", 6),
        ("one", 0.5, 1.0),
        ("two", 1.8, 2.1),  # begins in the first clip, and its middle is there
        ("three", 1.9, 2.3),
        ("four", 5.8, 6.4),  # beyond the end of the file
    )
    first, second, third = cut(clip, how="windows", max_clip_s=2, window_s=2)
    assert first.text.text == "one two"
    np.testing.assert_allclose(first.text.words, [(0.5, 1.0), (1.8, 2.0)])
    assert second.text.text == "three"
    np.testing.assert_allclose(second.text.words, [(0.0, 0.3)])
    assert third.text.text == "four"
    np.testing.assert_allclose(third.text.words, [(1.8, 2.0)], atol=0.05)
    assert [c.text.duration_s for c in (first, second)] == [2, 2]


def test_a_clip_in_which_nothing_is_said_has_an_empty_transcript(tmp_path):
    clip = with_words(film(tmp_path / "a.mp4", 4), ("late", 3.0, 3.5))
    first, second = cut(clip, how="windows", max_clip_s=2, window_s=2)
    assert (first.text, first.missing) == (None, {"text": "empty transcript"})
    assert (second.text.text, second.missing) == ("late", {})


def test_words_without_times_are_in_no_clip_and_a_warning_says_how_to_mend_it(tmp_path, caplog):
    clip = film(tmp_path / "a.mp4", 4)
    clip = RawClip("a", "a", Transcript("so much was said"), clip.audio, clip.visual)
    clips = cut(clip, how="windows", max_clip_s=2, window_s=2)
    assert [(c.text, c.missing) for c in clips] == [(None, {"text": "no transcript"})] * 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ".srt" in record.message
    assert "asr=true" in record.message


def test_words_without_times_stay_with_an_only_clip(tmp_path, caplog):
    path = write_media(tmp_path / "a.wav", sound=tone(2.7))
    clip = RawClip("a", "a", Transcript("so much"), Span(path))
    (only,) = cut(clip, how="windows", max_clip_s=2.5, window_s=2)
    assert (only.id, only.text) == ("a_1", Transcript("so much", None, pytest.approx(2.7)))
    assert not caplog.records


def test_a_part_of_a_file_is_cut_within_its_bounds(tmp_path):
    path = write_media(tmp_path / "a.wav", sound=tone(10))
    clip = RawClip("a_0", "a", audio=Span(path, 3.0, 7.0))
    clips = cut(clip, how="windows", max_clip_s=2, window_s=2)
    assert intervals(clips) == [(3, 5), (5, 7)]


def test_the_longer_of_sound_and_pictures_is_covered(tmp_path):
    sound = write_media(tmp_path / "a.wav", sound=tone(6))
    pictures = write_media(tmp_path / "a.mp4", numbered(40), fps=10)
    clip = RawClip("a", "a", audio=Span(sound), visual=Span(pictures))
    assert len(cut(clip, how="windows", max_clip_s=2, window_s=2)) == 3


def test_a_file_that_cannot_be_read_is_left_to_its_extractor(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film" * 99)
    for name in ("a.mp4", "gone.mp4"):
        clip = RawClip("a", "a", audio=Span(tmp_path / name), visual=Span(tmp_path / name))
        assert cut(clip, how="auto", max_clip_s=2, window_s=2) == [clip]
    clip = RawClip("a", "a", missing={"audio": "no file", "visual": "no file"})
    assert cut(clip, how="windows", max_clip_s=2, window_s=2) == [clip]


def test_a_recording_that_does_not_declare_its_length_stays_whole_with_a_warning(tmp_path, caplog):
    recorded, live = write_media(tmp_path / "a.mkv", sound=tone(4)), tmp_path / "live.mkv"
    with av.open(str(recorded)) as source, av.open(str(live), "w", options={"live": "1"}) as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    clip = RawClip("a", "a", audio=Span(live))
    assert cut(clip, how="windows", max_clip_s=2, window_s=2) == [clip]
    assert "does not declare its length" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "word"}, "cut: 'word' is not one of auto, none, windows, speech"),
        ({"window_s": 0.0}, "longer than 0"),
        ({"window_s": 30.0}, "window_s is 30 and max_clip_s is 20"),
    ],
)
def test_wrong_options_are_explained(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        cut(RawClip("a", "a"), **{"how": "auto", "max_clip_s": 20.0, "window_s": 8.0} | options)


@needs_vad
@pytest.mark.parametrize("how", ["auto", "speech"])
def test_speech_is_cut_in_its_longest_pauses(tmp_path, how):
    said = talk(tmp_path / "a.wav", [1.0, 4.8, 11.0, 20.0], 26)  # of about 3 s each
    clip = RawClip("a", "a", audio=Span(tmp_path / "a.wav"))
    clip = with_words(clip, *((f"n{i}", *times) for i, times in enumerate(said)))
    clips = cut(clip, how=how, max_clip_s=10, window_s=8)
    expected = [(said[0][0], said[1][1]), said[2], said[3]]
    np.testing.assert_allclose(intervals(clips), expected, atol=MARGIN_S + 0.15)
    assert all(
        a <= start and end <= b
        for (a, b), (start, end) in zip(intervals(clips), expected, strict=True)
    )
    assert [c.text.text for c in clips] == ["n0 n1", "n2", "n3"]
    assert clips[2].text.words[0][0] == pytest.approx(said[3][0] - clips[2].audio.start_s)


@needs_vad
def test_a_stretch_without_a_pause_is_split_evenly(tmp_path):
    ((start, end),) = talk(tmp_path / "a.wav", [1.0], 6)
    clips = cut(
        RawClip("a", "a", audio=Span(tmp_path / "a.wav")),
        how="speech",
        max_clip_s=2.0,
        window_s=2.0,
    )
    (begin, middle), (same, until) = intervals(clips)
    assert middle == same
    assert middle - begin == pytest.approx(until - middle)
    assert begin <= start < end <= until


@given(
    st.lists(st.floats(0.01, 12), min_size=2, max_size=40),
    st.floats(0, 3),
    st.floats(1, 10),
    st.floats(0.1, 1),
)
def test_stretches_hold_all_that_is_spoken_and_do_not_overlap(steps, rest_s, max_clip_s, share):
    edges = np.cumsum(steps[: len(steps) // 2 * 2])
    voices = [(float(a), float(b)) for a, b in edges.reshape(-1, 2)]
    length_s = voices[-1][1] + rest_s
    found = np.array(_stretches(voices, length_s, max_clip_s, share * max_clip_s))
    assert found.min() >= 0
    assert found.max() <= length_s
    assert (found[:, 1] - found[:, 0] <= max_clip_s + 1e-9).all()
    assert (found[1:, 0] >= found[:-1, 1] - 1e-9).all()
    covered = [
        np.clip(np.minimum(b, found[:, 1]) - np.maximum(a, found[:, 0]), 0, None).sum()
        for a, b in voices
    ]
    np.testing.assert_allclose(covered, [b - a for a, b in voices])


@needs_vad
def test_words_beside_speech_go_to_the_nearest_clip_those_far_away_to_none(tmp_path, caplog):
    said = talk(tmp_path / "a.wav", [1.0, 20.0], 26)
    beside = said[0][1] + MARGIN_S + 0.6 * BESIDE_S
    clip = with_words(
        RawClip("a", "a", audio=Span(tmp_path / "a.wav")),
        ("near", beside, beside + 0.1),
        ("far", 10.0, 10.5),
        ("second", 21.0, 21.5),
    )
    clips = cut(clip, how="speech", max_clip_s=8, window_s=8)
    assert [c.text.text for c in clips] == ["near", "second"]
    length = clips[0].audio.end_s - clips[0].audio.start_s
    assert np.max(clips[0].text.words) == pytest.approx(length)
    assert "1 of 3 words" in caplog.text


@needs_vad
@pytest.mark.parametrize("sound", [True, False])
def test_a_file_in_which_nobody_speaks_is_cut_into_windows(tmp_path, caplog, sound):
    path = tmp_path / "a.mp4"
    write_media(path, numbered(60), tone(6) if sound else None, fps=10)
    clip = RawClip("a", "a", audio=Span(path), visual=Span(path))
    assert len(cut(clip, how="speech", max_clip_s=2, window_s=2)) == 3
    assert ("nobody speaks" if sound else "no audio stream") in caplog.text


def test_without_the_extra_auto_cuts_into_windows_and_speech_names_the_remedy(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    speech._silero.cache_clear()
    clip = film(tmp_path / "a.mp4", 4)
    assert len(cut(clip, how="auto", max_clip_s=2, window_s=2)) == 2
    with pytest.raises(ConfigError, match="cut=windows"):
        cut(clip, how="speech", max_clip_s=2, window_s=2)


SRT = """1
00:00:01,000 --> 00:00:03,000
<i>Well,</i> I <font color="#fff">loved</font>

2
00:01:00,500 --> 00:01:01,500 X1:40 X2:600
{\\an8}tom &amp; jerry
a < b

"""

VTT = """WEBVTT - a film

NOTE said by nobody

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.000 align:start position:0%
<v Ann>Well, <b>I</b> loved</v>

01:00:00.500 --> 01:00:01.500
it&nbsp;all
"""

ROLLING = """WEBVTT
Kind: captions

00:00:00.000 --> 00:00:02.000 align:start position:0%
~
so<00:00:00.500><c> we</c><00:00:01.000><c> waited</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
so we waited
~

00:00:02.010 --> 00:00:04.010 align:start position:0%
so we waited
no<00:00:03.010><c> no</c>
""".replace("~", " ")  # a line of one space


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_words_are_spread_over_their_cue_by_characters(tmp_path, ending, newline):
    text = "\ufeff" + {".srt": SRT, ".vtt": VTT}[ending].replace("\n", newline)
    found = read_subtitles(written(tmp_path / f"a{ending}", text), 4000.0)
    assert (
        found.text
        == {
            ".srt": "Well, I loved tom & jerry a < b",
            ".vtt": "Well, I loved it all",
        }[ending]
    )
    # 5 + 1 + 5 characters in 2 s
    times = [(1, 1 + 10 / 11), (1 + 10 / 11, 1 + 12 / 11), (1 + 12 / 11, 3)]
    np.testing.assert_allclose(found.words[:3], times)
    start, end = {".srt": (60.5, 61.5), ".vtt": (3600.5, 3601.5)}[ending]
    assert (found.words[3][0], found.words[-1][1]) == (start, end)
    assert len(found.words) == len(found.text.split())
    assert found.duration_s == 4000.0


def test_a_line_that_rolls_up_is_said_once_at_the_times_inside_it(tmp_path):
    found = read_subtitles(written(tmp_path / "a.vtt", ROLLING))
    assert found.text == "so we waited no no"
    times = [(0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.01, 3.01), (3.01, 4.01)]
    np.testing.assert_allclose(found.words, times)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("00:02,000 --> 00:03,000\nNo.\n", "No. No."),
        ("00:09,000 --> 00:10,000\nNo.\nYes\n", "No. No. Yes"),
    ],
)
def test_a_line_that_is_said_twice_counts_twice(tmp_path, second, said):
    text = f"1\n00:01,000 --> 00:02,000\nNo.\n\n2\n{second}"
    assert read_subtitles(written(tmp_path / "a.srt", text)).text == said


def test_a_line_of_white_space_ends_a_cue_of_srt(tmp_path):
    text = "1\n00:00:01,000 --> 00:00:02,000\nYes\n \n2\n00:00:02,000 --> 00:00:03,000\nNo\n"
    assert read_subtitles(written(tmp_path / "a.srt", text)).text == "Yes No"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no transcript"),
        (b"", "empty transcript"),
        (b"WEBVTT\n", "empty transcript"),
        (b"00:01.000 --> 00:02.000\n<i></i>\n", "empty transcript"),
        (b"just some words\n", "transcript not readable"),
        ("00:01.000 --> 00:02.000\ncaf\xe9\n".encode("latin-1"), "transcript not UTF-8"),
    ],
)
def test_subtitles_that_say_nothing_give_their_reason(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.vtt").write_bytes(content)
    assert read_subtitles(tmp_path / "a.vtt") == reason


def test_a_long_file_with_subtitles_has_them_in_its_clips(tmp_path):
    path = write_media(tmp_path / "a.wav", sound=tone(6))
    text = read_subtitles(
        written(tmp_path / "a.srt", "00:00:00,500 --> 00:00:03,500\naaa bbb ccc\n")
    )
    clips = cut(RawClip("a", "a", text, Span(path)), how="windows", max_clip_s=2, window_s=2)
    assert [c.text and c.text.text for c in clips] == ["aaa", "bbb ccc", None]
