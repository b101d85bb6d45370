"""Configurations as the commands compose them."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from msa_lightning.config import CONF


def configure(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(name, list(overrides))
