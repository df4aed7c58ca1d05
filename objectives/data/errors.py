"""What can be wrong with training data."""

from __future__ import annotations


class DataError(ValueError):
    """Data is missing, malformed or leaves nothing to train on."""
