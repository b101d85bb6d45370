"""Fusion networks: one file, one method, plain nn.Module."""
