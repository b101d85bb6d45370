"""The extractors of ``msa-extract``, composed without importing torch."""

from hydra import compose, initialize_config_dir

from msa_lightning.config import CONF, instantiate
from msa_lightning.extractors.extraction import Extraction


def make_extraction(folder: str, cache: str, text: str) -> Extraction:
    chosen = [f"extractor/text={text}", "extractor/audio=librosa29"]
    vectors = [f"extractor.text.path={folder}/vectors.txt"] if text == "word_vectors" else []
    fixed = [f"paths.cache={cache}", "extraction.max_failed=1", "extraction.workers=0"]
    overrides = ["source=media_folder", "source.folder=x", *chosen, *vectors, *fixed]
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("extract", overrides)
    extraction: Extraction = instantiate(cfg.extraction)
    return extraction
