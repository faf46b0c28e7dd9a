"""The text of the CPU kernels: a rule's `direction` in a loop over chunks of tensors.

norm      for each row the sum of squares of the gradient, and how many of its elements are not finite
largest   the same with the largest size instead of the sum
agree     for each row how many directions have the gradient's sign (one more pass, for the cautious update)
update    the step, and for each row the sums over gradient, update, parameter and momentum

A row is a chunk of one tensor, and what it yields depends on its own elements alone: results do not depend on the
number of threads. What the text names is in `operations`.
"""

from __future__ import annotations

import inspect
from textwrap import indent

from surefoot.engine.launch import FACTORS, HYPER, SUMS, Kernel
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

RULE = """
    x, raw = {x}, {g}
    {master}
    grad = raw * scale
    {bound}
    grad += coupled * x if coupled != zero else zero  # a decay of zero must not make 0 * inf
    {results} = direction(grad, x, {states}{scalars})
"""

AGREE = """
for i in range(count):
{rule}
    agreed += one if d * grad > zero else zero
"""

# sums over blocks are in the precision of the step, and those of blocks in double. Single precision has no room for the
# squares of what explodes or vanishes: where a block's sum is not safe, it is added up again
UPDATE = """
for base in range(0, count, block_size):
    end = min(base + block_size, count)
    g2, u2, p2, m2, gm = zero, zero, zero, zero, zero
    for i in range(base, end):
    {rule}
        {cautious}
        update = lr * (d + (decoupled * x if decoupled != zero else zero))
        new = x - update
        {write}
        g2 += raw * raw
        u2 += update * update
        p2 += x * x
        {momentum}
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


POINTERS = {"float32": ("reals", 4), "float64": ("reals", 8), "bfloat16": ("shorts", 2), "float16": ("shorts", 2)}
DOUBLES = {"lr": "lr_factor", "coupled": "decay_factor", "decoupled": "decay_factor"}  # products in double precision


def source(kernel: Kernel) -> str:
    """The text of a kernel."""
    memory, sums = Memory(kernel), SUMS[kernel.kind]
    load = memory.pointers()
    if kernel.rule is None:
        gather = "total += x * x" if kernel.kind == "norm" else "total = max_or_nan(total, abs(x))"
        loop = NORM.format(gather=gather, g=memory.read("g"))
    else:
        load += _numbers(kernel, kernel.rule, memory)
        load += [f"{name} = {'zero' if name == 'agreed' else 'zero64'}" for name in sums]
        step = _step(kernel, kernel.rule, memory)
        loop = AGREE.format(rule=step) if kernel.kind == "agree" else _update(kernel, kernel.rule, memory, step)
    store = [f"out[{len(sums)} * row + {i}] = {name}" for i, name in enumerate(sums)]
    parts = {"load": "\n".join(load), "loop": loop, "store": "\n".join(store)}
    return KERNEL.format(**{name: indent(part, 12 * " ") for name, part in parts.items()})


class Memory:
    """The arrays of a parameter in a kernel's text: p, g, its states s0, s1 ..., average, master.

    states: the names of the states
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.states = [f"s{i}" for i in range(len(kernel.rule.states))] if kernel.rule else []
        flags = {"average": kernel.averaged, "master": kernel.mastered}
        kept = ["p", *self.states, *(name for name, there in flags.items() if there)]
        self._stored = dict(zip(kept, kernel.stored, strict=True)) | {"g": kernel.stored[0]}
        # in the order of launch.BLOCK's POINTERS; a norm looks at gradients only
        self._streams = ["p", "g", *kept[1:]] if kernel.rule else ["", "g"]

    def pointers(self) -> list[str]:
        """Where a row's elements begin."""
        lines: list[str] = []
        for i, name in enumerate(self._streams):
            if name:
                pointers, size = POINTERS[self._stored[name]]
                lines += [f"{name} = {pointers}(pointers[{i} * tensors + tensor] + {size} * start)"]
        return lines

    def full(self, name: str) -> bool:
        """Whether an array is stored as it is computed with."""
        return self._stored[name] == self._kernel.precision

    def read(self, name: str) -> str:
        """An element."""
        return f"{name}[i]" if self.full(name) else f"wide_{self._stored[name]}({name}[i])"

    def write(self, name: str, value: str) -> str:
        """Its assignment."""
        if self.full(name):
            return f"{name}[i] = {value}"
        if self._kernel.chance and not self._kernel.mastered:
            return f"{name}[i] = chance_{self._stored[name]}({value}, bits(key_{name}, place + i))"
        return f"{name}[i] = {self.nearest(name, value)}"

    def nearest(self, name: str, value: str) -> str:
        """A value rounded to what an array in half precision can hold."""
        return f"nearest_{self._stored[name]}({value})"


def _scalars(rule: Rule, memory: Memory) -> list[str]:
    """Names for what the rule's `scalars` returned."""
    return [f"c{i}" for i in range(len(inspect.signature(rule.direction).parameters) - 2 - len(memory.states))]


def _numbers(kernel: Kernel, rule: Rule, memory: Memory) -> list[str]:
    """The row's hyper-parameters."""
    columns = [*HYPER, *_scalars(rule, memory)]
    lines = [f"h = {len(columns)} * index[tensor]"]
    lines += [f"{name} = factors[{len(FACTORS)} * tensor + {i}]" for i, name in enumerate(FACTORS)]
    for i, name in enumerate(columns):
        if name == "noise":  # a whole number
            lines += [f"noise = whole(hyper[h + {i}])"] if kernel.chance else []
        else:
            factor = f" * {DOUBLES[name]}" if name in DOUBLES else ""
            lines += [f"{name} = real(hyper[h + {i}]{factor})"]
    lines += ["rescale = real(rescale)"]
    if kernel.chance:
        lines += ["place = whole(begin) + start"]
        lines += [f"key_{name} = key(noise, whole(number), {i})" for i, name in enumerate(("p", *memory.states))]
    if kernel.clearing:  # a zero that the compiler does not know for one: it would call memset
        lines += [f"nothing = {'real' if memory.full('g') else 'short'}(tensors >> 62)"]
    return lines


def _step(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """An element's direction and new states."""
    # a parameter that is not its master copy rounded was written by somebody else
    master = f"x = master[i] if {memory.nearest('p', 'master[i]')} == p[i] else x" if kernel.mastered else ""
    return RULE.format(
        x=memory.read("p"),
        g=memory.read("g"),
        master=master,
        bound="grad = minimum(maximum(grad, -bound), bound)" if kernel.bounded else "",
        results=", ".join(["d", *(f"new_{name}" for name in memory.states)]) if memory.states else "(d,)",
        states="".join(f"{memory.read(name)}, " for name in memory.states),
        scalars=", ".join(_scalars(rule, memory)),
    )


def _update(kernel: Kernel, rule: Rule, memory: Memory, step: str) -> str:
    """The loop that writes them, and adds up."""
    written = [memory.write("p", "new"), *(memory.write(name, f"new_{name}") for name in memory.states)]
    if kernel.mastered:
        written += ["master[i] = new"]
    if kernel.averaged:  # of the parameter as it is stored
        written += [f"average[i] += share * ({'new' if kernel.mastered else memory.read('p')} - average[i])"]
    m = memory.states[rule.states.index(rule.momentum)] if rule.momentum else ""
    return UPDATE.format(
        rule=indent(step, "    "),
        g=memory.read("g"),
        cautious="d = d * rescale if d * grad > zero else zero" if kernel.cautious else "",
        write="; ".join(written),
        momentum=f"m2 += new_{m} * new_{m}; gm += new_{m} * raw" if m else "",
        momentum64=f"m64 = wide({memory.read(m)}); momentum2 += m64 * m64; dot += m64 * raw64" if m else "",
        safe="m2 > least and m2 < most" if m else "True",
        clear="for i in range(base, end): g[i] = nothing" if kernel.clearing else "",
    )
