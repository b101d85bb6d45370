"""Extractors: the raw media of one clip to one sequence of features with times."""
