"""The text of the CPU kernels: a rule's `direction` in a loop over chunks of tensors.

norm      for each row the sum of squares of the gradient, and how many of its elements are not finite
largest   the same with the largest size instead of the sum
measure   for each row the sums of what a rule's `terms` are
agree     for each row how many directions have the gradient's sign (one more pass, for the cautious update)
update    the step, and for each row the sums over gradient, update, parameter and momentum

A row is a chunk of one tensor, and what it yields depends on its own elements alone: results do not depend on the
number of threads. What the text names is in `operations`.
"""

from __future__ import annotations

from textwrap import indent
from typing import Any

from surefoot.engine.eight_bit import BLOCK
from surefoot.engine.element import Memory, direction, factors, keys, momentum, move, scalars, terms
from surefoot.engine.launch import FACTORS, HYPER, Kernel
from surefoot.rules.rule import Rule

KERNEL = """
def kernel(block):
    first, rows, pointers, index = ints(block[FIRST]), ints(block[ROWS]), ints(block[POINTERS]), ints(block[INDEX])
    factors, hyper, out = doubles(block[FACTORS]), doubles(block[HYPER]), doubles(block[OUT])
    tensors = block[TENSORS]
    while True:
        unit = claim(block)
        if unit >= block[UNITS]:
            return
        for row in range(first[unit], first[unit + 1]):
            tensor, start, count = rows[3 * row], rows[3 * row + 1], rows[3 * row + 2]
            if pointers[tensors + tensor] == 0:  # it has no gradient in this step
                continue
{load}
{loop}
{store}
"""

NORM = """
total = zero64
for i in range(count):
    x = wide({g})
    {gather}
bad = zero64
if not abs(total) < infinite64:  # the sum tells that all are finite; where it is not, each element is looked at
    for i in range(count):
        bad += zero64 if abs({g}) < infinite else one64
"""

MEASURE = """
for base in range(0, count, {block}):
    {units}
    for i in range(base, min(base + {block}, count)):
{rule}
        {add}
"""

AGREE = """
for base in range(0, count, {block}):
    {units}
    for i in range(base, min(base + {block}, count)):
{rule}
        agreed += one if d * grad > zero else zero
"""

# sums over blocks are in the precision of the step, and those of blocks in double. Single precision has no room for the
# squares of what explodes or vanishes: where a block's sum is not safe, it is added up again
UPDATE = """
for base in range(0, count, {block}):
    end = min(base + {block}, count)
    g2, u2, p2, m2, gm = zero, zero, zero, zero, zero
    {units}
    for i in range(base, end):
{rule}
{move}
        g2 += raw * raw
        u2 += update * update
        p2 += x * x
        {momentum}
    {encode}
    update2, param2 = update2 + wide(u2), param2 + wide(p2)
    if g2 > least and g2 < most and {safe}:
        grad2, momentum2, dot = grad2 + wide(g2), momentum2 + wide(m2), dot + wide(gm)
    else:
        for i in range(base, end):
            raw64 = wide({g})
            grad2 += raw64 * raw64
            {momentum64}
    {clear}
if scale < zero:  # the momentum is that of the gradient's negative
    dot = -dot
"""


POINTERS = {
    "float32": ("reals", 4), "float64": ("reals", 8), "bfloat16": ("shorts", 2), "float16": ("shorts", 2),
    "int8": ("bytes8", 1),
}  # fmt: skip
# of a block's state in 8 bits: how its codes are read, and what is done when all that is new is known. The largest is
# found among patterns of bits: they are in the order of sizes, NaN at the end, and no test is in the way
UNIT = """
    unit = {0}_scale[base >> 8]
    mask_{0}, step_{0}, unit_{0} = mask(unit), step(unit), abs(unit)
"""
ENCODE = """
    top, signs = nought, nought
    for i in range(end - base):
        top, signs = max(top, pattern(later_{0}[i]) & sizes), signs | pattern(later_{0}[i])
    unit = size(top) if signs < nought else -size(top)
    {0}_scale[base >> 8] = unit
    inverse = one / size(top) if top > nought else zero
    for i in range(base, end):
        {0}[i] = encode(later_{0}[i - base], inverse, bits(key_{0}, place + i), step(unit))
    mask_{0}, step_{0}, unit_{0} = mask(unit), step(unit), size(top)
"""
# products in double precision
DOUBLES = {"lr": "lr_factor", "coupled": "decay_factor", "decoupled": "decay_factor", "scale": "clip"}


def source(kernel: Kernel) -> str:
    """The text of a kernel."""
    memory = Memory(kernel)
    load = _pointers(memory)
    if kernel.rule is None:
        gather = "total += x * x" if kernel.kind == "norm" else "total = max_or_nan(total, abs(x))"
        loop = NORM.format(gather=gather, g=memory.read("g"))
    else:
        load += _numbers(kernel, kernel.rule, memory)
        load += [f"{name} = {'zero' if name == 'agreed' else 'zero64'}" for name in kernel.sums]
        if kernel.kind == "measure":
            add = "; ".join(f"{name} += wide(q{i})" for i, name in enumerate(kernel.sums))
            loop = MEASURE.format(rule=indent(terms(kernel, kernel.rule, memory), 8 * " "), add=add, **_blocks(memory))
        elif kernel.kind == "agree":
            loop = AGREE.format(rule=indent(direction(kernel, kernel.rule, memory), 8 * " "), **_blocks(memory))
        else:
            loop = _update(kernel, kernel.rule, memory)
    store = [f"out[{len(kernel.sums)} * row + {i}] = {name}" for i, name in enumerate(kernel.sums)]
    parts = {"load": "\n".join(load), "loop": loop, "store": "\n".join(store)}
    return KERNEL.format(**{name: indent(part, 12 * " ") for name, part in parts.items()})


def _pointers(memory: Memory) -> list[str]:
    """Where a row's elements begin."""
    lines: list[str] = []
    for i, name in memory.streams.items():
        pointers, size = POINTERS[memory.stored[name]]
        first = "(start >> 8)" if name.endswith("_scale") else "start"
        lines += [f"{name} = {pointers}(pointers[{i} * tensors + tensor] + {size} * {first})"]
    return lines


def _numbers(kernel: Kernel, rule: Rule, memory: Memory) -> list[str]:
    """The row's hyper-parameters."""
    columns = [*HYPER, *scalars(rule)]
    lines = [f"h = {len(columns)} * index[tensor]"]
    told = [*FACTORS, *factors(rule)]
    lines += [f"{name} = factors[{len(told)} * tensor + {i}]" for i, name in enumerate(told)]
    for i, name in enumerate(columns):
        if name == "noise":  # a whole number
            lines += [f"noise = whole(hyper[h + {i}])"] if kernel.random else []
        else:
            factor = f" * {DOUBLES[name]}" if name in DOUBLES else ""
            lines += [f"{name} = real(hyper[h + {i}]{factor})"]
    lines += [f"{name} = real({name})" for name in ("rescale", *factors(rule))]
    lines += keys(kernel, memory)
    if kernel.kind == "update":
        lines += [f"later_{name} = scratch()" for name in memory.coded]
    if kernel.clearing:  # a zero that the compiler does not know for one: it would call memset
        lines += [f"nothing = {'real' if memory.full('g') else 'short'}(tensors >> 62)"]
    return lines


def _blocks(memory: Memory) -> dict[str, Any]:
    """How many elements are gone through together, and what is the same for them."""
    units = "".join(UNIT.format(name) for name in memory.coded)
    return {"block": BLOCK if memory.coded else "block_size", "units": units}


def _update(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """The loop that moves the elements, and adds up."""
    m = momentum(rule, memory)
    return UPDATE.format(
        rule=indent(direction(kernel, rule, memory), 8 * " "),
        move=indent(move(kernel, rule, memory), 8 * " "),
        g=memory.read("g"),
        momentum=f"m2 += new_{m} * new_{m}; gm += new_{m} * raw" if m else "",
        encode="".join(ENCODE.format(name) for name in memory.coded),
        momentum64=f"m64 = wide({memory.read(m)}); momentum2 += m64 * m64; dot += m64 * raw64" if m else "",
        safe="m2 > least and m2 < most" if m else "True",
        clear="for i in range(base, end): g[i] = nothing" if kernel.clearing else "",
        **_blocks(memory),
    )
