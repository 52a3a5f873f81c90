"""Anomalous sound detection from normal sound alone."""

__version__ = "0.1.0"
