"""The GPU kernels: their text (`gpu_source`) made into functions of Triton, which compiles them when they first run.

Importing it imports Triton.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Mapping
from functools import cache
from typing import Any

from surefoot.engine import gpu_source
from surefoot.engine.gpu_operations import operations
from surefoot.engine.launch import Kernel
from surefoot.rules.rule import Rule


@cache
def rows(kernel: Kernel) -> Any:
    """A kernel over rows."""
    return _functions(gpu_source.source(kernel), kernel.precision)[kernel.kind]


@cache
def prepare(rule: Rule) -> Any:
    """The kernel that works out the table of hyper-parameters, in double precision."""
    return _functions(gpu_source.prepare(rule), "float64")["prepare"]


@cache
def others() -> Mapping[str, Any]:
    """The kernels that know no rule: `gather` and `place`."""
    return _functions(gpu_source.others(), "float64")


def _functions(text: str, precision: str) -> dict[str, Any]:
    """What a text defines. Triton reads a function's text again, through the cache that tracebacks read, too."""
    name = f"<surefoot {hashlib.sha256(f'{precision} {text}'.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {**operations(precision), "__name__": name}
    exec(compile(text, name, "exec"), namespace)
    return namespace
