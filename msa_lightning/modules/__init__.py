"""LightningModules: the training procedures."""
