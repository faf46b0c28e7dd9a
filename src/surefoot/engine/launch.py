"""What a compiled kernel is, and the tables that a launch hands it: known to who launches and to who compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surefoot.rules.rule import Rule

BLOCK = (  # of a launch: one int64 each, a count or the address of a table
    "CLAIMED",  # units taken by a thread so far
    "UNITS",  # how many there are
    "TENSORS",
    "FIRST",  # int64 [units + 1]: the first row of each
    "ROWS",  # int64 [rows, 3]: tensor, first element, number of elements
    "POINTERS",  # int64 [., tensors]: parameter, gradient (0: none in this step), states, average, master, the given
    "INDEX",  # int64 [tensors]: the tensor's row of HYPER
    "FACTORS",  # float64 [tensors, 6 + factors of the rule]
    "HYPER",  # float64 [., 7 + scalars]: one row for each (group, step)
    "OUT",  # float64 [rows, sums]
)
# and what the rule's `scalars` returned
HYPER = ("noise", "scale", "bound", "lr", "coupled", "decoupled", "share")
# begin: the place of the first element in the whole tensor, of which this may be a shard
FACTORS = ("lr_factor", "decay_factor", "number", "rescale", "begin", "clip")
SUMS = {  # what each kind of kernel leaves for a row
    "norm": ("total", "bad"),
    "largest": ("total", "bad"),
    "agree": ("agreed",),
    "update": ("grad2", "update2", "param2", "momentum2", "dot"),
}


@dataclass(frozen=True)
class Kernel:
    """Everything that a kernel's code depends on.

    kind: a key of SUMS, "measure", "scan" or "witness"
    stored: the dtypes of the parameter and of its states, average and master copy; the gradient's is the parameter's.
        int8 stands for codes of `eight_bit`, each block with a scale
    rule: the update rule; None for a norm
    bounded: gradients are clipped by value
    cautious: only what agrees with the gradient's sign is taken
    averaged: an average of the parameter is kept
    clearing: the gradient is zeroed
    mastered: a copy of the parameter is kept in single precision
    chance: half precision is rounded by chance
    """

    kind: str
    stored: tuple[str, ...] = ()
    rule: Rule | None = None
    bounded: bool = False
    cautious: bool = False
    averaged: bool = False
    clearing: bool = False
    mastered: bool = False
    chance: bool = False

    @property
    def precision(self) -> str:
        """What it computes in: half precision is only for storing."""
        return "float64" if self.stored[0] == "float64" else "float32"

    @property
    def random(self) -> bool:
        """Whether it needs random bits."""
        return self.chance or (self.kind == "update" and "int8" in self.stored)

    @property
    def sums(self) -> tuple[str, ...]:
        """The names of what it leaves for a row."""
        return (
            tuple(f"t{i}" for i in range(self.rule.counts[1]))
            if self.kind == "measure" and self.rule
            else SUMS[self.kind]
        )


def block(names: Sequence[str], tables: Mapping[str, npt.NDArray[Any]], **values: int) -> npt.NDArray[np.int64]:
    """What a kernel is told: by these names the addresses of tables, which must outlive it, and numbers; else 0."""
    known = {name: address_of(table) for name, table in tables.items()} | values
    return np.array([known.get(name, 0) for name in names], np.int64)


def address_of(table: npt.NDArray[Any]) -> int:
    """Where a table lies."""
    return table.__array_interface__["data"][0]  # quicker than table.ctypes.data
