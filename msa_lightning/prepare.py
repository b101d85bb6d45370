"""Prepare other people's feature files for training: ``msa-prepare source=mosei_csd``."""

from omegaconf import DictConfig

from msa_lightning.config import command, instantiate, resolve, validate


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Write one compact HDF5 file of labelled clips, and print its audit.

    A second call with the same input says that nothing is to do; a killed one continues.
    """
    cfg = resolve(cfg)
    validate(cfg, supplied={})
    instantiate(cfg.source).prepare()


if __name__ == "__main__":
    main()
