"""From computational sequences to a clip file: every rule against a naive reference."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msa_lightning.datasets import csd
from msa_lightning.datasets import csd_source as module
from msa_lightning.datasets.aggregate import overlapping
from msa_lightning.datasets.hdf5 import read_features, read_table
from msa_lightning.errors import ConfigError, DataError
from tests.data.make_data import DIMS, FILES, csd_corpus, csd_source

ROOT = Path(__file__).parents[3]


def naive_overlap(frames: np.ndarray, clip: np.ndarray) -> list[int]:
    """Rows of the frames that overlap a clip, in order of time."""
    a, b = clip
    rows = [i for i, (s, e) in enumerate(frames) if (s < b and e > a) or (s == e and a <= s < b)]
    return sorted(rows, key=lambda i: (frames[i][0], frames[i][1]))


def naive_mean(frames: np.ndarray) -> np.ndarray:
    columns = [column[np.isfinite(column)].astype(float) for column in frames.T]
    return np.array([c.mean() if len(c) else np.nan for c in columns])


def clips_of(path: Path, modality: str) -> list[np.ndarray]:
    values, lengths = read_features(path, modality, np.arange(len(read_table(path).ids)))
    return np.split(values, np.cumsum(lengths)[:-1])


def assert_as_naive(path: Path, corpus) -> None:
    """Compare a prepared file with the corpus it was made from."""
    table = read_table(path)
    for modality in table.dims:
        for i, found in enumerate(clips_of(path, modality)):
            features, times = corpus.sequences[modality].get(
                table.videos[i], (np.empty((0, DIMS[modality])), np.empty((0, 2)))
            )
            rows = naive_overlap(times, table.intervals[i])
            assert table.frames[modality][i] == len(rows)
            expected = features[rows]
            if table.aggregate == "mean":
                expected = naive_mean(expected)[None] if rows else expected
                np.testing.assert_allclose(found, expected, rtol=1e-6)
            else:
                np.testing.assert_array_equal(found, np.where(np.isinf(expected), np.nan, expected))


instants = st.integers(0, 12).map(lambda i: i / 4)
intervals = st.lists(
    st.tuples(instants, st.sampled_from([0, 0.25, 1.0])).map(lambda p: (p[0], p[0] + p[1])),
    min_size=1,
    max_size=12,
).map(np.array)


@given(intervals, intervals, st.booleans())
def test_overlap_is_that_of_the_naive_rule(frames, clips, ordered):
    frames = frames[np.lexsort(frames.T[::-1])] if ordered else frames
    for clip, runs in zip(clips, overlapping(frames, clips), strict=True):
        rows = [i for start, stop in runs for i in range(start, stop)]
        assert sorted(rows) == sorted(naive_overlap(frames, clip))
        times = frames[rows]
        assert (np.lexsort(times.T[::-1]) == np.arange(len(rows))).all() or not ordered
        assert (np.diff(times[:, 0]) >= 0).all()


@pytest.mark.parametrize("aggregate", ["mean", "sequence"])
@pytest.mark.parametrize("block", [1, 64, 2**25], ids=lambda size: f"blocks of {size} B")
def test_clips_are_those_of_the_naive_rule(tmp_path, monkeypatch, aggregate, block):
    monkeypatch.setattr(csd, "BLOCK_BYTES", block)
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    corpus = csd_corpus()
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5", aggregate=aggregate).prepare()
    assert_as_naive(path, corpus)
    assert path.name == ("a.h5" if aggregate == "mean" else "a_sequence.h5")


@pytest.mark.parametrize("aggregate", ["mean", "sequence"])
def test_frames_may_be_in_any_order(tmp_path, aggregate):
    corpus, rng = csd_corpus(), np.random.default_rng(1)
    for data in corpus.sequences.values():
        for video, (features, times) in data.items():
            order = rng.permutation(len(times))
            data[video] = features[order], times[order]
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5", aggregate=aggregate).prepare()
    assert_as_naive(path, corpus)


@pytest.mark.parametrize("aggregate", ["mean", "sequence"])
def test_nan_and_infinities_are_counted_and_left_out(tmp_path, aggregate):
    corpus = csd_corpus()
    video = "vid_00"
    _, (clip, *_) = corpus.labels[video]
    features, times = corpus.sequences["audio"][video]
    rows = naive_overlap(times, clip)
    features[rows, 0] = np.nan  # never measured in this clip
    features[rows[0], 1] = np.inf
    features[rows[1], 1] = -np.inf
    features[rows[2], 2] = -np.inf
    outside = set(range(len(times))) - {
        r for c in corpus.labels[video][1] for r in naive_overlap(times, c)
    }
    features[sorted(outside), 2] = np.nan  # in no clip: does not count
    for data in corpus.sequences["visual"].values():
        data[0][:, 3] = 7
        data[0][:, 4] = np.nan
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5", aggregate=aggregate).prepare()
    assert_as_naive(path, corpus)
    assert not np.isinf(np.concatenate(clips_of(path, "audio"))).any()
    audit = json.loads(path.with_suffix(".audit.json").read_text())["modalities"]
    assert (audit["audio"]["nan"], audit["audio"]["inf"]) == (len(rows), 3)
    assert audit["audio"]["columns_with_nan"] == [0]
    assert audit["audio"]["columns_with_inf"] == [1, 2]
    assert audit["visual"]["constant_columns"] == [3]
    assert audit["visual"]["never_measured_columns"] == [4]
    assert audit["visual"]["nan"] == audit["visual"]["frames"]
    assert audit["text"]["constant_columns"] == []


@pytest.mark.parametrize("aggregate", ["mean", "sequence"])
def test_features_and_labels_may_be_filed_by_segment(tmp_path, aggregate):
    """As the SDK does after aligning to labels: <video>[<n>], with the frames of that clip."""
    corpus = csd_corpus()
    by_video = csd_source(
        corpus.write(tmp_path / "v"), tmp_path / "v.h5", aggregate=aggregate
    ).prepare()
    for data in corpus.sequences.values():
        for video, (features, times) in list(data.items()):
            for n, clip in enumerate(corpus.labels[video][1]):
                rows = naive_overlap(times, clip)
                data[f"{video}[{n}]"] = features[rows], times[rows]
            del data[video]
    features_by_segment = csd_source(
        corpus.write(tmp_path / "s"), tmp_path / "s.h5", aggregate=aggregate
    ).prepare()
    for video, (values, times) in list(corpus.labels.items()):
        for n in reversed(range(len(times))):
            corpus.labels[f"{video}[{n}]"] = values[n : n + 1], times[n : n + 1]
        del corpus.labels[video]
    all_by_segment = csd_source(
        corpus.write(tmp_path / "a"), tmp_path / "a.h5", aggregate=aggregate
    ).prepare()
    digests = {read_table(path).digest for path in (by_video, features_by_segment, all_by_segment)}
    assert len(digests) == 1


def test_clips_are_ordered_by_number_not_by_text(tmp_path):
    corpus = csd_corpus(clips=12)
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5", first_clip=1).prepare()
    assert read_table(path).ids[:12].tolist() == [f"-vid_01_{n}" for n in range(1, 13)]
    assert_as_naive(path, corpus)


def test_the_audit_names_what_is_missing(tmp_path):
    corpus = csd_corpus()
    del corpus.sequences["audio"]["vid_00"]
    corpus.folds["standard_test_fold"].append("unlabelled")
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5").prepare()
    audit = json.loads(path.with_suffix(".audit.json").read_text())
    assert {s: (v["clips"], v["videos"]) for s, v in audit["splits"].items()} == {
        "train": (9, 3),
        "valid": (3, 1),
        "test": (3, 1),
        "none": (3, 1),
        "all": (18, 6),
    }
    assert audit["splits"]["train"]["missing_rate"] == {"text": 0, "audio": 1 / 3, "visual": 0}
    assert audit["modalities"]["audio"]["missing_clips"] == 3
    assert audit["labels_in_no_fold"] == {"clips": 3, "videos": ["-vid_05"]}
    assert audit["fold_videos_without_labels"] == {"train": [], "valid": [], "test": ["unlabelled"]}
    labels = np.concatenate(
        [corpus.labels[v][0][:, 0] for v in corpus.folds["standard_train_fold"]]
    )
    found = audit["splits"]["train"]["labels"]["sentiment"]
    np.testing.assert_allclose(
        [found["mean"], found["sd"]], [labels.mean(), labels.std(ddof=1)], 1e-5
    )
    assert audit["digest"] == read_table(path).digest
    assert_as_naive(path, corpus)


def test_the_audit_fits_into_80_columns(tmp_path, capsys):
    csd_source(csd_corpus().write(tmp_path), tmp_path / "a.h5").prepare()
    printed = capsys.readouterr().out
    assert "constant columns" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_an_audit_of_many_videos_fits_into_the_file(tmp_path):
    corpus = csd_corpus()
    corpus.folds["standard_train_fold"] += [f"{i:011d}" for i in range(20_000)]
    path = csd_source(corpus.write(tmp_path), tmp_path / "a.h5").prepare()
    with h5py.File(path) as file:
        audit = json.loads(file.attrs["audit"])
    assert len(audit["fold_videos_without_labels"]["train"]) == 20_000


def test_what_is_up_to_date_stays_and_what_changed_is_written_anew(tmp_path):
    folder = csd_corpus().write(tmp_path)
    path = csd_source(folder, tmp_path / "a.h5").prepare()
    first = path.stat().st_mtime_ns
    assert csd_source(folder, path).prepare().stat().st_mtime_ns == first
    csd_source(folder, path, first_clip=5).prepare()
    assert read_table(path).ids[0] == "-vid_01_5"
    csd_corpus(seed=1).write(tmp_path)
    digest = read_table(path).digest
    csd_source(folder, path, first_clip=5).prepare()
    assert read_table(path).digest != digest


def test_the_digest_is_that_of_the_content(tmp_path):
    digests = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        folder = csd_corpus(seed=seed).write(tmp_path / name)
        digests.append(read_table(csd_source(folder, tmp_path / f"{name}.h5").prepare()).digest)
    assert digests[0] == digests[1] != digests[2]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from msa_lightning.datasets import csd_source as module
    from tests.data.make_data import csd_source

    _, folder, aggregate, function, calls = sys.argv
    folder, calls = Path(folder), int(calls)
    module.VIDEOS_PER_PART = 2
    owner = module.shutil if function == "rmtree" else module
    original = getattr(owner, function)

    def kill_at_call(*args, **kwargs):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, function, kill_at_call)
    csd_source(folder, folder / "a.h5", aggregate=aggregate).prepare()
"""


@pytest.mark.parametrize("aggregate", ["mean", "sequence"])
def test_resume_equals_uninterrupted(tmp_path, monkeypatch, aggregate):
    """Killed inside each part, while the parts are put together, and while they are removed."""
    folder = csd_corpus().write(tmp_path)
    expected = csd_source(folder, tmp_path / "b.h5", aggregate=aggregate).prepare()
    moments = [  # function, call of it that kills, parts that are done then: 3 of 2 x 3 calls each
        ("write_video", 4, 0),
        ("write_video", 9, 1),
        ("write_video", 9, 2),
        ("write_table", 1, 3),
        ("_append", 5, 3),
        ("rmtree", 1, 3),
    ]
    for function, call, parts in moments:
        killed = subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(KILLED),
                tmp_path,
                aggregate,
                function,
                str(call),
            ],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        output = expected.with_stem(expected.stem.replace("b", "a"))
        assert output.exists() == (function == "rmtree")
        assert len(list(tmp_path.glob(".a*.parts-*/part-*.h5"))) == parts
    written = []
    write_whole = module.write_whole
    monkeypatch.setattr(
        module,
        "write_whole",
        lambda path, folder: written.append(path) or write_whole(path, folder),
    )
    resumed = csd_source(folder, tmp_path / "a.h5", aggregate=aggregate).prepare()
    assert written == [], "all was done before the last kill"
    assert read_table(resumed).digest == read_table(expected).digest
    assert resumed.read_bytes() == expected.read_bytes()
    assert not list(tmp_path.glob(".*parts*"))


def set_label(corpus, value):
    corpus.labels["vid_02"][0][1, 3] = value


def drop_audio(corpus):
    corpus.sequences["audio"] = {f"other_{v}": d for v, d in corpus.sequences["audio"].items()}


def in_milliseconds(corpus):
    for video, (features, times) in corpus.sequences["audio"].items():
        corpus.sequences["audio"][video] = features, 1000 * times + 1e6


def widen_one_video(corpus):
    times = corpus.sequences["visual"]["vid_04"][1]
    corpus.sequences["visual"]["vid_04"] = np.ones((len(times), 6)), times


BAD = {
    "NaN label": (
        lambda c: set_label(c, np.nan),
        r"labels\.csd: All Labels/data/vid_02/features: row 1, column 3 \(anger\) is nan, "
        r"expected a number from 0 to 3; .*source\.targets\.emotions",
    ),
    "label out of range": (
        lambda c: set_label(c, 3.5),
        r"vid_02/features: row 1, column 3 \(anger\) is 3\.5, expected a number from 0 to 3",
    ),
    "label columns": (
        lambda c: c.labels.update({v: (x[:, :1], t) for v, (x, t) in c.labels.items()}),
        r"labels\.csd: All Labels/data/-vid_01: found 1 columns, expected the 7 of source\.targets",
    ),
    "no labels": (lambda c: c.labels.clear(), r"labels\.csd: All Labels/data has no rows"),
    "modality matches no video": (
        drop_audio,
        r"covarep\.csd: audio/data has none of the 6 labelled videos \(found \['other_.*expected",
    ),
    "modality matches no clip": (
        in_milliseconds,
        r"covarep\.csd: found no frame that overlaps one of the 18 clips.*expected .*in seconds",
    ),
    "dims": (
        lambda c: c.sequences.update(text=c.sequences["audio"]),
        r"words\.csd: text/data/-vid_01/features: found 3 columns, source\.dims\.text is 4; set",
    ),
    "dims of one video": (
        widen_one_video,
        r"openface\.csd: visual/data/vid_04/features: found 6 columns, expected 5",
    ),
    "fold matches no clip": (
        lambda c: c.folds.update(standard_valid_fold=["elsewhere"]),
        r"folds\.json: none of the 1 videos of standard_valid_fold is labelled.*source\.folds",
    ),
    "video in two folds": (
        lambda c: c.folds["standard_test_fold"].append("vid_00"),
        r"folds\.json: video vid_00 is in standard_train_fold and standard_test_fold, expected one",
    ),
    "a fold is missing": (
        lambda c: c.folds.pop("standard_valid_fold"),
        r"folds\.json: expected an object with the lists standard_train_fold",
    ),
}


@pytest.mark.parametrize("change", BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, change):
    make_bad, message = BAD[change]
    corpus = csd_corpus()
    make_bad(corpus)
    folder = corpus.write(tmp_path / "csd")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=message):
        csd_source(folder, tmp_path / "out" / "a.h5").prepare()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregate": "median"}, r"source\.aggregate: found 'median', expected mean or sequence"),
        ({"dims": {"text": 4}}, r"source\.features has .*source\.dims has \['text'\]"),
        ({"features": {"vision": "a"}, "dims": {"vision": 1}}, r"expected .* text, audio, visual"),
    ],
)
def test_bad_options(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        csd_source(tmp_path, tmp_path / "a.h5", **changes)


def test_words_are_not_features(tmp_path):
    corpus = csd_corpus()
    folder = corpus.write(tmp_path)
    with h5py.File(folder / FILES["text"], "a") as file:
        for video in file["text/data"].values():
            del video["features"]
            video["features"] = np.full((len(video["intervals"]), 1), b"word")
    with pytest.raises(DataError, match=r"words\.csd: text/data/-vid_01/features: found words"):
        csd_source(folder, tmp_path / "a.h5").prepare()
