"""LightningDataModules: one per kind of data."""
