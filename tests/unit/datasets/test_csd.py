import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from msa_lightning.datasets import csd
from msa_lightning.datasets.csd import ComputationalSequence, split_key, write_sequence
from msa_lightning.datasets.labels import LabelColumns, read_labels
from msa_lightning.errors import DataError, DataNotFoundError
from tests.data.make_data import real_data

LABELS = "CMU_MOSI_Opinion_Labels.csd"
WORDS = "CMU_MOSI_ModifiedTimestampedWords.csd"


def one_video(path: Path, features=None, intervals=None, **options) -> Path:
    """A sequence with one video, written with plain h5py."""
    features = np.ones((3, 2), np.float32) if features is None else features
    times = np.arange(len(features), dtype=float)
    intervals = np.stack([times, times + 1], axis=1) if intervals is None else intervals
    with h5py.File(path, "w") as file:
        file.create_dataset("seq/data/v/features", data=features, **options)
        file.create_dataset("seq/data/v/intervals", data=intervals)
    return path


def read_all(path: Path, key: str = "v") -> np.ndarray:
    with ComputationalSequence(path) as sequence:
        rows = sequence.rows(key)
        return np.concatenate(list(rows.read(0, len(rows))))


def test_reads_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    data = {
        key: (rng.normal(size=(n, 3)).astype(np.float32), np.sort(rng.random((n, 2)), axis=1))
        for n, key in enumerate(["-a_b", "v[0]", "v[10]", "with space", "ünï"])
    }
    write_sequence(tmp_path / "a.csd", "some name", data)
    with ComputationalSequence(tmp_path / "a.csd") as sequence:
        assert sequence.name == "some name"
        assert sequence.keys == data.keys()
        for key, (features, intervals) in data.items():
            rows = sequence.rows(key)
            np.testing.assert_array_equal(rows.intervals, intervals)
            pieces = list(rows.read(0, len(rows)))
            np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *pieces]), features)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("abc", ("abc", None)),
        ("-a_b[12]", ("-a_b", 12)),
        ("a[1][2]", ("a[1]", 2)),
        ("[3]", ("[3]", None)),
        ("a[x]", ("a[x]", None)),
    ],
)
def test_splits_segment_keys(key, parts):
    assert split_key(key) == parts


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (7, 1)}, {"compression": "gzip", "chunks": True}]
)
def test_reads_any_range_in_blocks(tmp_path, monkeypatch, options):
    monkeypatch.setattr(csd, "BLOCK_BYTES", 5 * 2 * 4)
    features = np.arange(200, dtype=np.float32).reshape(100, 2)
    path = one_video(tmp_path / "a.csd", features, **options)
    with ComputationalSequence(path) as sequence:
        rows = sequence.rows("v")
        for start, stop in [(0, 100), (3, 4), (98, 100), (13, 57), (0, 1), (5, 5)]:
            pieces = [piece.copy() for piece in rows.read(start, stop)]
            found = np.concatenate([np.empty((0, 2)), *pieces])
            np.testing.assert_array_equal(found, features[start:stop])
            assert "chunks" in options or max(map(len, pieces), default=0) <= 5


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "i4", "u1"])
def test_numbers_of_any_type_become_float32(tmp_path, dtype):
    features = np.array([[1, 2], [3, 4]], dtype)
    found = read_all(one_video(tmp_path / "a.csd", features))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features.astype(np.float32))


def test_numbers_beyond_float32_become_infinite(tmp_path):
    found = read_all(one_video(tmp_path / "a.csd", np.array([[1e300, -1e300, np.nan, 1.0]])))
    np.testing.assert_array_equal(found, [[np.inf, -np.inf, np.nan, 1]])


@pytest.mark.parametrize("dtype", ["S5", h5py.string_dtype()])
def test_words_stay_bytes(tmp_path, dtype):
    path = tmp_path / "a.csd"
    one_video(path, np.array([[b"oh"], [b"sp"]], dtype=dtype))
    with ComputationalSequence(path) as sequence:
        assert sequence.rows("v").words
    assert read_all(path).ravel().tolist() == [b"oh", b"sp"]


def junk(file: h5py.File) -> None:
    group = file.create_group("seq/metadata")
    group.create_dataset("dataset name", data=np.void(b"\xff\xfe\x00junk"))
    group.create_dataset("contact", data=[b"\xff\xfe"], dtype=h5py.string_dtype("ascii"))
    group.create_dataset("md5", data=np.arange(4))
    group.create_dataset("empty", data=h5py.Empty("f"))
    group.create_group("uuid")
    group["dangling"] = h5py.SoftLink("/nowhere")


@pytest.mark.parametrize(
    "metadata",
    [lambda file: None, junk, lambda file: file.create_dataset("seq/metadata", data=3)],
    ids=["missing", "junk", "not a group"],
)
def test_metadata_does_not_matter(tmp_path, metadata):
    path = one_video(tmp_path / "a.csd")
    with h5py.File(path, "a") as file:
        metadata(file)
    with ComputationalSequence(path) as sequence:
        assert isinstance(sequence.metadata, dict)
        assert not sequence.synthetic
    assert read_all(path).shape == (3, 2)


def test_missing_file(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"a\.csd: not found"):
        ComputationalSequence(tmp_path / "a.csd")


def test_not_hdf5(tmp_path):
    (tmp_path / "a.csd").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.csd: not an HDF5 file.*get it again"):
        ComputationalSequence(tmp_path / "a.csd")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated(tmp_path, kept):
    path = one_video(tmp_path / "a.csd", np.ones((1000, 5)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"a\.csd: truncated or damaged.*get it again"):
        ComputationalSequence(path)


def test_damaged_inside(tmp_path):
    path = one_video(tmp_path / "a.csd", np.ones((1000, 5)), compression="gzip")
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["seq/data/v/features"].id.get_chunk_info(0)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.csd: seq/data/v/features: damaged"):
        read_all(path)


@pytest.mark.parametrize(
    "build",
    [
        lambda file: None,
        lambda file: file.create_group("seq"),
        lambda file: file.create_dataset("seq/data", data=[1]),
        lambda file: [file.create_group("a/data"), file.create_group("b/data")],
    ],
    ids=["empty", "no data", "data is no group", "two roots"],
)
def test_not_a_sequence(tmp_path, build):
    with h5py.File(tmp_path / "a.csd", "w") as file:
        build(file)
    with pytest.raises(
        DataError, match=r"a\.csd: found \[.*expected one group with a group 'data'"
    ):
        ComputationalSequence(tmp_path / "a.csd")


@pytest.mark.parametrize(
    ("features", "intervals", "message"),
    [
        (np.ones(3), None, r"v/features: found \(3,\) of float64, expected \(T, D\)"),
        (np.ones((3, 2, 1)), None, r"v/features: found \(3, 2, 1\)"),
        (np.ones((3, 2), complex), None, r"v/features: found .*complex128"),
        (None, np.ones((2, 2)), r"v/intervals: found \(2, 2\).*expected \(3, 2\)"),
        (None, np.ones((3, 3)), r"v/intervals: found \(3, 3\)"),
        (None, np.full((3, 2), b"x"), r"v/intervals: found .*S1"),
        (None, np.array([[0, 1], [1, np.nan], [2, 3]]), r"v/intervals: row 1 is \[1, nan\]"),
        (None, np.array([[0, 1], [1, 2], [2, np.inf]]), r"v/intervals: row 2 is \[2, inf\]"),
        (None, np.array([[1, 0.5], [1, 2], [2, 3]]), r"v/intervals: row 0 is \[1, 0.5\]"),
    ],
)
def test_wrong_rows(tmp_path, features, intervals, message):
    with pytest.raises(DataError, match=r"a\.csd: seq/data/" + message):
        read_all(one_video(tmp_path / "a.csd", features, intervals))


def test_rows_without_intervals(tmp_path):
    with h5py.File(tmp_path / "a.csd", "w") as file:
        file.create_dataset("seq/data/v/features", data=np.ones((3, 2)))
        file.create_group("seq/data/w/features")
        file["seq/data/x"] = h5py.SoftLink("/nowhere")
    for key in ("v", "w", "x"):
        with pytest.raises(DataError, match=rf"a\.csd: seq/data/{key}: expected datasets"):
            read_all(tmp_path / "a.csd", key)


@pytest.mark.realdata
def test_genuine_labels_are_those_of_the_csv():
    folder = real_data("mosi")
    labels = read_labels(
        folder / LABELS, {"sentiment": LabelColumns(["sentiment"], -3, 3)}, first_clip=1
    )
    assert len(labels) == 2199
    assert len(set(labels.videos.tolist())) == 93
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(folder / "mosi_labels.csv", dtype={"id": str}).set_index("id")
    table = table.loc[labels.ids.tolist()]
    np.testing.assert_allclose(labels.targets["sentiment"][:, 0], table["label"], atol=1e-6)
    np.testing.assert_allclose(labels.intervals, table[["start", "end"]], rtol=1e-6)


@pytest.mark.realdata
def test_genuine_words_with_junk_metadata():
    with ComputationalSequence(real_data("mosi") / WORDS) as sequence:
        assert len(sequence.keys) == 93
        rows = sequence.rows("03bSnISJMiM")
        (words,) = rows.read(0, 3)
        assert rows.words
        assert words.ravel().tolist() == [b"oh", b"sp", b"this"]
        assert sequence.metadata["contact"] == "asdfasdfasd"


@pytest.mark.realdata
def test_writes_the_layout_of_genuine_files(tmp_path):
    def layout(path: Path) -> set[str]:
        names: set[str] = set()
        with h5py.File(path) as file:
            (root,) = file.values()
            root.visititems(
                lambda name, node: names.add(
                    f"{re.sub('data/[^/]+', 'data/*', name, count=1)} {type(node).__name__}"
                    if name.startswith("data")
                    else f"{name} {getattr(node, 'shape', '')} {getattr(node, 'dtype', '')}"
                )
            )
        return names

    ours = one_video(tmp_path / "a.csd")
    write_sequence(ours, "seq", {"v": (np.ones((3, 2)), np.ones((3, 2)))})
    assert layout(ours) == layout(real_data("mosi") / LABELS)
