"""Experiments in multimodal sentiment and emotion analysis."""

MODALITIES = ("text", "audio", "visual")
"""The modalities, always in this order."""

__version__ = "0.1.0"
