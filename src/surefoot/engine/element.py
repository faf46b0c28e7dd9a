"""The text of one element's step, the same in the loops of the CPU (`source`) and in the kernels of the GPU (`triton`).

What it names is bound by each: `direction` and `where`, the hyper-parameters as `launch.HYPER` names them, the numbers
c0, c1 ... that the rule's `scalars` returned, and `Memory`'s arrays.
"""

from __future__ import annotations

import inspect

from surefoot.engine.launch import Kernel
from surefoot.rules.rule import Rule

DIRECTION = """
x, raw = {x}, {g}
{master}
grad = raw * scale
{bound}
grad = grad + where(coupled != zero, coupled * x, zero)  # a decay of zero must not make 0 * inf
{results} = direction(grad, x, {states}{scalars})
"""
MOVE = """
{cautious}
update = lr * (d + where(decoupled != zero, decoupled * x, zero))
new = x - update
{writes}
"""


class Memory:
    """The arrays of a parameter in a kernel's text: p, g, its states s0, s1 ..., average, master.

    states: the names of the states
    streams: all that a kernel reads, in the order of launch.BLOCK's POINTERS; a norm looks at gradients only
    stored: the dtype of each
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.states = [f"s{i}" for i in range(len(kernel.rule.states))] if kernel.rule else []
        flags = {"average": kernel.averaged, "master": kernel.mastered}
        kept = ["p", *self.states, *(name for name, there in flags.items() if there)]
        self.stored = dict(zip(kept, kernel.stored, strict=True)) | {"g": kernel.stored[0]}
        self.streams = dict(enumerate(["p", "g", *kept[1:]])) if kernel.rule else {1: "g"}

    def element(self, name: str) -> str:
        """An element as it is stored."""
        return f"{name}[i]"

    def assign(self, name: str, value: str) -> str:
        """The statement that stores one."""
        return f"{name}[i] = {value}"

    def full(self, name: str) -> bool:
        """Whether an array is stored as it is computed with."""
        return self.stored[name] == self._kernel.precision

    def wide(self, name: str, value: str) -> str:
        """A stored value as it is computed with."""
        return value if self.full(name) else f"wide_{self.stored[name]}({value})"

    def read(self, name: str) -> str:
        """An element as it is computed with."""
        return self.wide(name, self.element(name))

    def nearest(self, name: str, value: str) -> str:
        """A value rounded to what an array can hold."""
        return value if self.full(name) else f"nearest_{self.stored[name]}({value})"

    def rounded(self, name: str, value: str) -> str:
        """A value as it is to be stored."""
        if self._kernel.chance and not self._kernel.mastered and not self.full(name):
            return f"chance_{self.stored[name]}({value}, bits(key_{name}, place + i))"
        return self.nearest(name, value)


def scalars(rule: Rule) -> list[str]:
    """Names for what the rule's `scalars` returned."""
    return [f"c{i}" for i in range(len(inspect.signature(rule.direction).parameters) - 2 - len(rule.states))]


def keys(kernel: Kernel, memory: Memory) -> list[str]:
    """What chance depends on: the place in the whole tensor, and a key for the parameter and for each of its states."""
    if not kernel.chance:
        return []
    names = ("p", *memory.states)
    lines = [f"key_{name} = key(noise, whole(number), {i})" for i, name in enumerate(names)]
    return ["place = whole(begin) + start", *lines]


def direction(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """Text that sets `x`, `raw` (its gradient), `grad` (what the rule is given), `d` and the new states."""
    # a parameter that is not its master copy rounded was written by somebody else
    same = f"{memory.nearest('p', memory.element('master'))} == {memory.element('p')}" if kernel.mastered else ""
    return DIRECTION.format(
        x=memory.read("p"),
        g=memory.read("g"),
        master=f"x = where({same}, {memory.element('master')}, x)" if kernel.mastered else "",
        bound="grad = minimum(maximum(grad, -bound), bound)" if kernel.bounded else "",
        results=", ".join(["d", *(f"new_{name}" for name in memory.states)]) if memory.states else "(d,)",
        states="".join(f"{memory.read(name)}, " for name in memory.states),
        scalars=", ".join(scalars(rule)),
    )


def move(kernel: Kernel, memory: Memory) -> str:
    """Text that sets `update` and stores all that is new."""
    writes = [f"stored = {memory.rounded('p', 'new')}", memory.assign("p", "stored")]
    writes += [memory.assign(name, memory.rounded(name, f"new_{name}")) for name in memory.states]
    if kernel.mastered:
        writes += [memory.assign("master", "new")]
    if kernel.averaged:  # of the parameter as it is stored
        old, current = memory.element("average"), "new" if kernel.mastered else memory.wide("p", "stored")
        writes += [memory.assign("average", f"{old} + share * ({current} - {old})")]
    cautious = "d = where(d * grad > zero, d * rescale, zero)" if kernel.cautious else ""
    return MOVE.format(cautious=cautious, writes="\n".join(writes))


def momentum(rule: Rule, memory: Memory) -> str:
    """The state that averages gradients, or ""."""
    return memory.states[rule.states.index(rule.momentum)] if rule.momentum else ""
