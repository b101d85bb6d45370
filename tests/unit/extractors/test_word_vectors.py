import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from msa_lightning.config import CONF
from msa_lightning.errors import DataError, DataNotFoundError
from msa_lightning.extractors import word_vectors
from msa_lightning.extractors.assets import GLOVE_6B_50D
from msa_lightning.extractors.contract import Features, RawClip, Transcript, Unusable
from msa_lightning.extractors.transcripts import word_times
from msa_lightning.extractors.word_vectors import WordVectors

WORDS = ["the", "movie", "was", "good", "do", "n't", "it", "'s", "Good", "naïve", "u.s", "."]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)
VECTOR = dict(zip(WORDS, VECTORS, strict=True))


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "msa_lightning" / "word_vectors"


def lines(words=WORDS, vectors=VECTORS, end="\n") -> str:
    rows = zip(words, vectors.tolist(), strict=True)
    return "".join(f"{word} {' '.join(map(repr, row))}{end}" for word, row in rows)


def as_glove(path: Path) -> None:
    path.write_text(lines(), encoding="utf-8")


def as_glove_840b(path: Path) -> None:
    """The common-crawl file has words with spaces, and one that other readers take for a line."""
    words, vectors = ["at name@domain.com", "\x85", ". .", *WORDS], np.ones((3, 4))
    text = lines(words, np.concatenate([vectors, VECTORS]))
    path.write_text(lines(["a"], vectors[:1]) + text, encoding="utf-8", newline="")


def as_windows_text(path: Path) -> None:
    path.write_text(lines(end=" \r\n") + "\r\n", encoding="utf-8", newline="")


def as_word2vec_text(path: Path) -> None:
    path.write_text(f"{len(WORDS)} 4\n{lines(end=' ' + chr(10))}", encoding="utf-8")


def as_word2vec_binary(path: Path, between: bytes = b"\n") -> None:
    rows = (w.encode() + b" " + v.tobytes() + between for w, v in VECTOR.items())
    path.write_bytes(b"%d 4\n" % len(WORDS) + b"".join(rows))


def as_gensim_binary(path: Path) -> None:
    as_word2vec_binary(path, b"")


def as_npz(path: Path) -> None:
    np.savez(path, words=np.array(WORDS), vectors=VECTORS.astype(np.float64))


FORMATS = {
    "glove.txt": as_glove,
    "glove.840B.txt": as_glove_840b,
    "windows.txt": as_windows_text,
    "word2vec.vec": as_word2vec_text,
    "word2vec.bin": as_word2vec_binary,
    "gensim.bin": as_gensim_binary,
    "vectors.npz": as_npz,
}


def extractor(path: Path, *, lowercase: bool = True) -> WordVectors:
    return WordVectors(path=str(path), lowercase=lowercase, name="glove")


@pytest.fixture
def glove(tmp_path) -> WordVectors:
    as_glove(tmp_path / "glove.txt")
    return extractor(tmp_path / "glove.txt")


def said(text: str, words=None, duration_s=None) -> RawClip:
    return RawClip("v_0", "v", text=Transcript(text, words, duration_s))


def vectors_of(features: Features) -> list[str]:
    """The words whose vectors they are."""
    found = [np.flatnonzero((row == VECTORS).all(axis=1)) for row in features.values]
    return [WORDS[int(rows[0])] for rows in found]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_vectors(tmp_path, monkeypatch, name):
    monkeypatch.setattr(word_vectors, "_BLOCK", 5)  # several blocks, the last not full
    FORMATS[name](tmp_path / name)
    glove = extractor(tmp_path / name, lowercase=False)
    assert len(glove.columns) == 4
    features = glove.extract(said(" ".join(WORDS[:4] + WORDS[8:11])))
    np.testing.assert_array_equal(features.values, VECTORS[[0, 1, 2, 3, 8, 9, 10]])
    assert features.values.dtype == features.vector.dtype == np.float32
    np.testing.assert_allclose(features.vector, features.values.mean(axis=0), rtol=1e-6)


def test_punctuation_and_case_do_not_hide_a_word(glove):
    text = '"The movie -- was GOOD?!" . \N{LEFT DOUBLE QUOTATION MARK}Naïve'
    features = glove.extract(said(text))
    assert vectors_of(features) == ["the", "movie", "was", "good", "naïve"]
    assert features.facts == {
        "words": 5,
        "known_words": 5,
        "known_share": 1.0,
        "times": "index",
    }
    as_given = extractor(glove.path, lowercase=False).extract(said("Good good GOOD"))
    assert vectors_of(as_given) == ["Good", "good"]


def test_a_contraction_is_taken_apart_if_it_is_unknown(glove):
    times = ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0))
    text = "don't it\N{RIGHT SINGLE QUOTATION MARK}s what's ain't"
    features = glove.extract(said(text, times))
    assert vectors_of(features) == ["do", "n't", "it", "'s", "'s", "n't"]
    assert features.times[:, 0].tolist() == [0, 0, 1, 1, 2, 3]
    assert features.facts["known_words"] == 4


def test_unknown_words_are_left_out_and_counted(glove):
    features = glove.extract(said("the xyzzy was 😀 good", None, 10.0))
    assert vectors_of(features) == ["the", "was", "good"]
    assert features.facts == {
        "words": 4,  # an emoji is neither letter nor digit
        "known_words": 3,
        "known_share": 0.75,
        "times": "estimated",
    }
    np.testing.assert_allclose(features.times, [[0, 1.875], [5, 6.875], [7.5, 10]])


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (said("xyzzy plugh"), "no known word"),
        (said("-- ?! 😀"), "no known word"),
        (said(" \n"), "empty transcript"),
        (RawClip("v_0", "v"), "no transcript"),
        (RawClip("v_0", "v", missing={"text": "transcript not UTF-8"}), "transcript not UTF-8"),
    ],
)
def test_unusable_transcripts_say_why(glove, clip, reason):
    with pytest.raises(Unusable) as finding:
        glove.extract(clip)
    assert finding.value.reason == reason


def test_word_times_are_given_estimated_or_counted():
    known = Transcript("a bc", ((0.5, 0.7), (0.7, 1.2)), 2.0)
    times, kind = word_times(known)
    assert (times.tolist(), kind) == ([[0.5, 0.7], [0.7, 1.2]], "words")
    times, kind = word_times(Transcript("  a\u3000bc\n", None, 3.0))
    assert (times.tolist(), kind) == ([[0, 1], [1, 3]], "estimated")
    times, kind = word_times(Transcript("a bc"))
    assert (times.tolist(), kind) == ([[0, 1], [1, 2]], "index")
    with pytest.raises(Unusable, match="times of 1 words for 2"):
        word_times(Transcript("a bc", ((0.0, 1.0),)))


def test_the_file_is_read_once(glove, user_cache):
    first = glove.extract(said("good")).vector
    (table,) = user_cache.iterdir()
    written = table.stat().st_mtime_ns
    again = extractor(glove.path)
    np.testing.assert_array_equal(again.extract(said("good")).vector, first)
    assert [(p, p.stat().st_mtime_ns) for p in user_cache.iterdir()] == [(table, written)]


def test_another_content_of_the_file_is_another_table(glove):
    assert glove.extract(said("good")).vector.tolist() == VECTOR["good"].tolist()
    before = glove.identity
    glove.path.write_text(lines(WORDS, -VECTORS), encoding="utf-8")
    changed = extractor(glove.path)
    assert changed.identity != before
    assert changed.extract(said("good")).vector.tolist() == (-VECTOR["good"]).tolist()
    assert extractor(glove.path, lowercase=False).identity != changed.identity
    assert json.loads(json.dumps(before)) == before


def test_the_first_vector_of_a_word_counts(tmp_path):
    (tmp_path / "a.txt").write_text("good 1 2\nbad 3 4\ngood 5 6\n")
    assert extractor(tmp_path / "a.txt").extract(said("good")).vector.tolist() == [1, 2]


def test_a_copy_for_another_process_is_small(glove):
    glove.extract(said("good"))
    copied = pickle.dumps(glove)
    assert len(copied) < 1000
    assert vectors_of(pickle.loads(copied).extract(said("good"))) == ["good"]


def test_describing_itself_imports_nothing_heavy(glove):
    code = (
        "import sys; from msa_lightning.extractors.word_vectors import WordVectors;"
        f"w = WordVectors(path={str(glove.path)!r}, lowercase=True, name='glove');"
        "w.identity; assert len(w.columns) == 4;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


BROKEN = {
    "empty.txt": (b"", "empty"),
    "no_numbers.txt": (b"good\nbad\n", "a word and its numbers"),
    "ragged.txt": (b"good 1 2\nbad 1\n", "lines 1 to 2"),
    "not_a_number.txt": (b"good 1 2\nbad 1 x\n", "lines 1 to 2"),
    "nan.txt": (b"good 1 2\nbad 1 nan\n", "vector 2 is not finite"),
    "pickled.kv": (pickle.dumps({"good": [1.0, 2.0]}), "save_word2vec_format"),
    "packed.txt": (gzip.compress(b"good 1 2\n"), "compressed"),
    "headless.bin": (b"good 1 2\n", "a line 'N D' first"),
    "cut.bin": (b"2 1\ngood \0\0\0\0\nbad \0\0\0", "ends at word 2 of 2"),
    "cut_sooner.bin": (b"2 1\ngood \0\0\0\0\nba", "ends at word 2 of 2"),
    "none.bin": (b"0 4\n", "no words"),
    "not_a_zip.npz": (b"PK nonsense", "arrays 'words'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_explained_and_leaves_nothing(tmp_path, user_cache, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        extractor(tmp_path / name).columns  # noqa: B018
    assert name in str(error.value)
    assert list(user_cache.iterdir()) == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"words": np.array(WORDS)},
        {"words": np.array(WORDS, object), "vectors": VECTORS},  # would need pickle
        {"words": np.array(WORDS[:2]), "vectors": VECTORS},
        {"words": np.array([b"good"]), "vectors": VECTORS[:1]},
        {"words": np.arange(12), "vectors": VECTORS},
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=r"'words'|expected"):
        extractor(tmp_path / "a.npz").columns  # noqa: B018


def test_a_missing_file_says_how_to_give_one(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"extractor\.text\.path=<file>"):
        extractor(tmp_path / "absent.txt").identity  # noqa: B018


def test_config_looks_among_the_data(tmp_path):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(CONF, version_base="1.3"):
        overrides = ["extractor/text=word_vectors", f"paths.data={tmp_path}"]
        cfg = OmegaConf.create(
            OmegaConf.to_container(compose("extract", overrides), resolve=True)["extractor"]["text"]
        )
    assert cfg.path == f"{tmp_path}/glove.840B.300d.txt"
    options = OmegaConf.to_container(cfg)
    assert options.pop("_target_") == "msa_lightning.extractors.word_vectors.WordVectors"
    assert WordVectors(**options).name == "word_vectors"


def test_the_pinned_asset_is_found_by_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "assets" / "glove_6b_50d"
    folder.mkdir(parents=True)
    pd.DataFrame({"index": WORDS}).to_parquet(folder / "glove_6B_index.parquet")
    np.save(folder / "glove_6B_50d_emb.npy", VECTORS)
    files = {path.name: (path.stat().st_size, "") for path in folder.iterdir()}
    stamp = {"sha256": GLOVE_6B_50D.sha256, "files": files}
    (folder / "asset.json").write_text(json.dumps(stamp))
    monkeypatch.setenv("MSA_ASSETS", str(folder.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    vectors = WordVectors(path="glove_6b_50d", lowercase=True, name="glove_6b_50d")
    assert len(vectors.columns) == VECTORS.shape[1]
    for word, vector in zip(WORDS, VECTORS, strict=True):
        [found] = vectors._look_up(word)
        np.testing.assert_array_equal(found, vector)
    assert vectors.identity["file"] == GLOVE_6B_50D.sha256
