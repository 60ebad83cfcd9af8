"""DeepNoise: tells biology from technical noise in high-content microscopy screens."""

__version__ = "0.1.0"
