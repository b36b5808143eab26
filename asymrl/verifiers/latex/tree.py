"""The nodes of expression trees: plain tuples, the kind first. `parser.read` lists the kinds."""

from typing import Any

Node = tuple[Any, ...]

OPERATORS = frozenset({"sum", "prod", "int", "lim"})
"""Nodes with what they range over, a variable and bounds (of a limit, the point)."""
