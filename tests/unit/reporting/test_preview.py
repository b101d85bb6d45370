"""The picture of what the extractors see."""

from pathlib import Path

import pytest
from matplotlib.image import imread
from skimage.data import astronaut

from msa_lightning.config import instantiate
from msa_lightning.datasets.media_folder import MediaFolder
from msa_lightning.errors import DataNotFoundError
from msa_lightning.reporting.preview import draw_preview
from tests.data.make_media import tone, write_media
from tests.integration.configure import configure


def extractors() -> dict[str, object]:
    cfg = configure("extract", "source=media_folder", "source.folder=x", "extractor/text=minilm")
    return {m: instantiate(cfg.extractor[m]) for m in ("text", "audio", "visual")}


def test_a_whole_clip_a_mute_one_and_odd_words_are_drawn(tmp_path: Path) -> None:
    seen = extractors()
    try:
        seen["visual"].weights  # type: ignore[attr-defined] # noqa: B018
    except DataNotFoundError as error:
        pytest.skip(str(error))
    face = astronaut()[:256, 96:352]
    write_media(tmp_path / "whole.mp4", [face] * 6, tone(0.6), fps=10)
    (tmp_path / "whole.align").write_text("0 5000 it\n5000 10000 cost\n10000 15000 $_{\n")
    write_media(tmp_path / "mute.mp4", [face * 0 + 90] * 3, fps=10)
    manifest = MediaFolder(folder=str(tmp_path)).manifest()
    for clip in ("whole", "mute"):
        path = draw_preview(manifest, clip, seen, str(tmp_path / "out" / f"{clip}.png"))
        picture = imread(path)
        assert picture.shape[0] > 500
        green = (picture[..., 1] > 0.9) & (picture[..., 0] < 0.3) & (picture[..., 2] < 0.3)
        assert green.any() == (clip == "whole")  # the mesh on the face


def test_an_unknown_clip_is_said_with_its_like(tmp_path: Path) -> None:
    write_media(tmp_path / "clip_12.wav", sound=tone(0.5))
    manifest = MediaFolder(folder=str(tmp_path)).manifest()
    with pytest.raises(DataNotFoundError, match="no clip clip_1, but clip_12"):
        draw_preview(manifest, "clip_1", {}, None)
