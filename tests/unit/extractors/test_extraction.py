"""Running extractors over a manifest: resuming, sharding, dying workers, and when to stop."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_lightning.datasets.manifest import Manifest, raw_clip
from msa_lightning.errors import ConfigError, DataNotFoundError, JobError
from msa_lightning.extractors.contract import Features, RawClip, Span, Transcript
from msa_lightning.extractors.extraction import Extraction
from tests.data.extractors import Bomb, Bytes, Moody, Words


def corpus(folder: Path, names: list[str], *, text: str = "some words") -> Manifest:
    """A file for each clip, its name inside."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for name in names:
        (folder / name).write_bytes(name.encode() * 3)
        clips.append(raw_clip(name, name, audio=Span(folder / name), text=Transcript(text)))
    n = len(clips)
    return Manifest("tiny", False, clips, np.full((n, 2), np.nan), np.full(n, "none"))


def extraction(cache: Path, extractors: dict[str, Any] | None = None, **changes: Any) -> Extraction:
    extractors = extractors or {"audio": Bytes(), "text": Words()}
    options: dict[str, Any] = {
        "workers": 0,
        "max_failed": 0.0,
        "timeout_s": 60.0,
        "retry": False,
        "modalities": list(extractors),
    }
    return Extraction(extractors=extractors, cache=str(cache), **options | changes)


def content(job: Extraction, manifest: Manifest) -> dict[tuple[str, str], bytes | str]:
    """Everything in the cache, by modality and clip."""
    found: dict[tuple[str, str], bytes | str] = {}
    for m, cache in job.caches().items():
        for clip in manifest.clips:
            if (entry := cache.find(clip)) and entry.reason:
                found[m, clip.id] = entry.reason
            elif entry:
                names = ("values", "times", "vector")
                arrays = (cache.read([entry], name)[clip.id] for name in names)
                found[m, clip.id] = b"".join(array.tobytes() for array in arrays)
    return found


def test_a_second_run_finds_everything_and_runs_nothing(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "media", ["a", "b", "c"])
    first = extraction(tmp_path / "cache").run(manifest)
    assert [(c.extracted, c.cached) for c in first.values()] == [(3, 0), (3, 0)]
    bombs = {"audio": Bomb(Bytes()), "text": Bomb(Words())}
    again = extraction(tmp_path / "cache", bombs).run(manifest)
    assert [(c.extracted, c.cached) for c in again.values()] == [(0, 3), (0, 3)]


def test_only_chosen_modalities_are_extracted(tmp_path: Path) -> None:
    job = extraction(tmp_path / "cache", modalities=["audio"])
    assert list(job.run(corpus(tmp_path / "media", ["a"]))) == ["audio"]


def test_batches_are_sorted_by_length(tmp_path: Path) -> None:
    texts = ["a", "a b c d e", "a b", "a b c d", "a b c"]
    clips = [RawClip(str(i), "v", text=Transcript(t)) for i, t in enumerate(texts)]
    manifest = Manifest("tiny", False, clips, np.full((5, 2), np.nan), np.full(5, "none"))
    extraction(tmp_path / "cache", {"text": Words(notes=tmp_path / "notes")}).run(manifest)
    assert (tmp_path / "notes").read_text().split("\n") == ["1 3 4", "2 0", ""]


def test_missing_modalities_count_as_masked_with_their_reason(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "media", ["a", "b", "c"])
    clips = [*manifest.clips[:2], raw_clip("c", "c", audio="no file", text=Transcript("x"))]
    manifest = Manifest("tiny", False, clips, manifest.intervals, manifest.splits)
    counts = extraction(tmp_path / "cache", max_failed=0.5).run(manifest)
    assert counts["audio"].masked == Counter({"no file": 1})
    assert counts["text"].masked == Counter()


def test_too_many_failures_stop_the_job_and_keep_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    names = ["good", *(f"raise_{i}" for i in range(9))]
    manifest = corpus(tmp_path / "media", names)
    job = extraction(tmp_path / "cache", {"audio": Moody()}, max_failed=0.2)
    with pytest.raises(JobError, match=r"audio: 3 of 10 clips cannot be used.*max_failed=0.2"):
        job.run(manifest)
    assert "3 extractor failed" in capsys.readouterr().out
    assert len(content(job, manifest)) == 4  # three with a reason, the good one, and no more


def test_retry_extracts_again_what_failed(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "media", ["raise_1", "b"])
    extraction(tmp_path / "cache", {"audio": Moody()}, max_failed=1).run(manifest)
    stays = extraction(tmp_path / "cache", {"audio": Bytes()}, max_failed=1)
    assert stays.run(manifest)["audio"].masked.total() == 1
    mended = extraction(tmp_path / "cache", {"audio": Bytes()}, retry=True)
    assert mended.run(manifest)["audio"].extracted == 1
    assert extraction(tmp_path / "cache", {"audio": Bytes()}).run(manifest)["audio"].cached == 2


@pytest.mark.slow
def test_a_dying_or_hanging_worker_costs_its_clip(tmp_path: Path) -> None:
    names = ["a", "die_1", "b", "hang_1", "c", "die_2", "d"]
    manifest = corpus(tmp_path / "media", names)
    job = extraction(tmp_path / "c", {"audio": Moody()}, workers=2, max_failed=1, timeout_s=4.0)
    counts = job.run(manifest)["audio"]
    assert counts.extracted == 4
    assert counts.masked == Counter({"worker died": 2, "timed out": 1})


def test_a_batch_whose_worker_dies_loses_one_clip(tmp_path: Path) -> None:
    texts = ["a b", "die", "c d"]
    clips = [RawClip(str(i), "v", text=Transcript(t)) for i, t in enumerate(texts)]
    manifest = Manifest("tiny", False, clips, np.full((3, 2), np.nan), np.full(3, "none"))
    counts = extraction(tmp_path / "c", {"text": Words()}, workers=1, max_failed=1).run(manifest)
    assert counts["text"].extracted == 2
    assert counts["text"].masked == Counter({"worker died": 1})


class Homeless(Bytes):
    """Misses its model."""

    def extract(self, clip: RawClip) -> Features:
        raise DataNotFoundError("model.bin: not found; run msa-doctor fetch=true")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_model_stops_the_job_at_once(tmp_path: Path, workers: int) -> None:
    job = extraction(tmp_path / "c", {"audio": Homeless()}, workers=workers, max_failed=1)
    with pytest.raises(DataNotFoundError, match="msa-doctor"):
        job.run(corpus(tmp_path / "media", ["a", "b"]))


def test_shards_fill_one_cache(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "media", list("abcdefg"))
    for i in range(3):
        extraction(tmp_path / "shards").run(manifest, shard=f"{i}/3")
    whole = extraction(tmp_path / "whole")
    whole.run(manifest)
    assert content(extraction(tmp_path / "shards"), manifest) == content(whole, manifest)


@pytest.mark.parametrize("shard", ["3/3", "-1/3", "1", "a/b", "0/0"])
def test_a_shard_is_i_of_n(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ConfigError, match="shard"):
        extraction(tmp_path / "c").run(corpus(tmp_path / "media", ["a"]), shard=shard)


JOB = """
import sys
from pathlib import Path
from msa_lightning.extractors import extraction
from tests.data.extractors import Moody
from tests.unit.extractors import test_extraction as t
if __name__ == "__main__":
    extraction._PART_CLIPS = 2  # parts come often
    folder, shard = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    manifest = t.corpus(folder / "media", t.SLOW)
    t.extraction(folder / "cache", {"audio": Moody()}, workers=2).run(manifest, shard=shard)
"""
SLOW = [f"slow_{i}" for i in range(14)]


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_with_the_same_content(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
    manifest = corpus(tmp_path / "media", SLOW)
    job = extraction(tmp_path / "cache", {"audio": Moody()})
    rng, seen = np.random.default_rng(0), 0
    for _ in range(3):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and len(content(job, manifest)) <= seen:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        seen = len(content(job, manifest))
    assert seen > 0
    subprocess.run(command, check=True)
    whole = extraction(tmp_path / "whole", {"audio": Bytes()})
    whole.run(manifest)
    assert content(job, manifest) == content(whole, manifest)


@pytest.mark.slow
def test_two_processes_fill_one_cache_at_once(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    manifest = corpus(tmp_path / "media", SLOW)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
    jobs = [subprocess.Popen([*command, f"{i}/2"]) for i in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    job = extraction(tmp_path / "cache", {"audio": Bomb(Bytes())})
    assert job.run(manifest)["audio"].cached == len(SLOW)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    job = extraction(tmp_path / "cache", {"audio": Moody()})
    manifest = corpus(tmp_path / "media", SLOW)
    while process.poll() is None and not content(job, manifest):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        left = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True)
        if not left.stdout:
            break
        time.sleep(0.1)
    assert not left.stdout


@pytest.mark.parametrize("change", [{"workers": -1}, {"max_failed": 2.0}, {"timeout_s": 0}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        extraction(tmp_path, **change)


def test_every_unusable_clip_is_listed_in_a_file(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "media", ["raise_1", "raise_2", "b"])
    extraction(tmp_path / "cache", {"audio": Moody()}, max_failed=1).run(manifest)
    lines = (tmp_path / "cache" / "tiny.unusable.csv").read_text().splitlines()
    assert lines == [
        "modality,id,reason,detail",
        "audio,raise_1,extractor failed,RuntimeError: a defect",
        "audio,raise_2,extractor failed,RuntimeError: a defect",
    ]


THREADS = """
import sys
from pathlib import Path
import numpy  # loaded before the workers, with its own idea of threads
from tests.data.extractors import Threads
from tests.unit.extractors import test_extraction as t
if __name__ == "__main__":
    manifest = t.corpus(Path(sys.argv[1]) / "media", ["a"])
    for workers in (0, 1):
        job = t.extraction(Path(sys.argv[1]) / f"{workers}", {"audio": Threads()}, workers=workers)
        job.run(manifest)
        cache = job.caches()["audio"]
        assert cache.read([cache.find(manifest.clips[0])], "values")["a"].max() == 1
"""


def test_extractors_run_on_one_thread_whatever_the_environment(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(THREADS)
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
    assert subprocess.run(command, env=environment).returncode == 0
