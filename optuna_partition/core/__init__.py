"""Partition search as pure functions: boxes, cells, the tree of claims and the selection rules.

Needs numpy and the standard library alone: no Optuna, no clock, no files, no logging.
"""
