"""The way down from a node to the part of it that holds a point, or is a given cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.node import Node


def part_with(box: Box, node: Node, values: Sequence[Any]) -> Node:
    """The child that holds a point of the box."""
    axis = box.axes[node.axis]
    level, index = node.cell.levels[node.axis], node.cell.index[node.axis]
    number = axis.part(level, index, values[node.axis])
    # Child numbers follow each other, but the first part may be empty.
    return node.children[index * axis.arity + number - node.children[0].cell.index[node.axis]]


def place_of(box: Box, node: Node, values: Sequence[Any]) -> Node:
    """The leaf below a node, or the one with an open division, that holds a point of the box."""
    while node.children:
        node = part_with(box, node, values)
    return node


def node_of(box: Box, node: Node, cell: Cell) -> Node | None:
    """The node of a cell at or below another node; None if there is none."""
    levels, index, axes = cell.levels, cell.index, box.axes
    while parts := node.children:
        axis = node.axis
        above = levels[axis] - node.cell.levels[axis] - 1
        if above < 0:
            break
        number = index[axis] // axes[axis].arity ** above - parts[0].cell.index[axis]
        if not 0 <= number < len(parts):
            return None
        node = parts[number]
    return node if node.cell == cell else None
