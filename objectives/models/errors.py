"""What can be wrong with a model on disk."""

from __future__ import annotations


class ModelNotFoundError(ValueError):
    """No model by this name or in this folder."""


class ModelFormatError(ValueError):
    """The folder holds a model, but not one that can be tuned here."""
