"""``msa-extract``: raw media into the feature cache."""

from omegaconf import DictConfig

from msa_lightning.config import command, instantiate, resolve, validate


@command("extract")
def main(cfg: DictConfig) -> None:
    """Extract what the cache lacks and print what became of every clip.

    A second call finds everything cached; a killed one goes on. Exit code 1 if more clips than
    ``extraction.max_failed`` cannot be used.
    """
    cfg = resolve(cfg)
    validate(cfg, supplied={})
    extraction = instantiate(cfg.extraction)
    extraction.caches()  # a missing model is told before the media are listed
    manifest = instantiate(cfg.source).manifest()
    if cfg.preview:
        from msa_lightning.reporting.preview import draw_preview

        draw_preview(manifest, cfg.preview, extraction.extractors, cfg.out)
        return
    extraction.run(manifest, shard=cfg.shard)


if __name__ == "__main__":
    main()
