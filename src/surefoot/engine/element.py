"""The text of one element's step, the same in the loops of the CPU (`source`) and in the kernels of the GPU (`triton`).

What it names is bound by each: `direction`, `terms` and `where`, the hyper-parameters as `launch.HYPER` names them, the
numbers c0, c1 ... that the rule's `scalars` returned and f0, f1 ... that its `factors` did, and `Memory`'s arrays.
"""

from __future__ import annotations

from surefoot.engine.launch import Kernel
from surefoot.rules.rule import Rule

GRADIENT = """
x, raw = {x}, {g}
{master}
grad = raw * scale
{bound}
grad = grad + where(coupled != zero, coupled * x, zero)  # a decay of zero must not make 0 * inf
"""
MOVE = """
{cautious}
update = {update}
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
        given = ["o"] if kernel.rule and kernel.rule.given else []
        self.coded = [name for name, stored in zip(kept, kernel.stored, strict=True) if stored == "int8"]
        scales = [f"{name}_scale" for name in self.coded]
        self.stored = dict(zip(kept, kernel.stored, strict=True)) | {"g": kernel.stored[0], "o": kernel.precision}
        self.stored |= dict.fromkeys(scales, "float32")
        self.streams = dict(enumerate(["p", "g", *kept[1:], *scales, *given])) if kernel.rule else {1: "g"}

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
        if name in self.coded:
            return f"decode({self.element(name)}, mask_{name}, step_{name}) * unit_{name}"
        return self.wide(name, self.element(name))

    def nearest(self, name: str, value: str) -> str:
        """A value rounded to what an array can hold."""
        return value if self.full(name) else f"nearest_{self.stored[name]}({value})"

    def store(self, name: str, value: str) -> str:
        """The statement that stores a new state. That of one in 8 bits waits until its block's largest is known."""
        if name in self.coded:
            return f"later_{name}[i - base] = {value}"
        return self.assign(name, self.rounded(name, value))

    def rounded(self, name: str, value: str) -> str:
        """A value as it is to be stored."""
        if self._kernel.chance and not self._kernel.mastered and not self.full(name):
            return f"chance_{self.stored[name]}({value}, bits(key_{name}, place + i))"
        return self.nearest(name, value)


def scalars(rule: Rule) -> list[str]:
    """Names for what the rule's `scalars` returned."""
    return [f"c{i}" for i in range(rule.counts[0])]


def factors(rule: Rule) -> list[str]:
    """Names for what the rule's `factors` returned."""
    return [f"f{i}" for i in range(rule.counts[2])]


def keys(kernel: Kernel, memory: Memory) -> list[str]:
    """What chance depends on: the place in the whole tensor, and a key for the parameter and for each of its states."""
    if not kernel.random:
        return []
    names = ("p", *memory.states)
    lines = [f"key_{name} = key(noise, whole(number), {i})" for i, name in enumerate(names)]
    return ["place = whole(begin) + start", *lines]


def direction(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """Text that sets `d` and the new states."""
    results = ", ".join(["d", *(f"new_{name}" for name in memory.states)]) if memory.states else "(d,)"
    given = [memory.read("o")] if rule.given else []
    return gradient(kernel, memory) + _call("direction", results, rule, memory, given, factors(rule))


def terms(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """Text that sets what the rule adds up: q0, q1 ..."""
    results = "".join(f"q{i}, " for i in range(rule.counts[1]))
    return gradient(kernel, memory) + _call("terms", f"({results})", rule, memory, [], [])


def _call(name: str, results: str, rule: Rule, memory: Memory, given: list[str], found: list[str]) -> str:
    states = [memory.read(state) for state in memory.states]
    whole = ["lr", "decoupled"] if rule.whole else []
    return f"{results} = {name}({', '.join(['grad', 'x', *given, *states, *scalars(rule), *found, *whole])})\n"


def gradient(kernel: Kernel, memory: Memory) -> str:
    """Text that sets `x`, `raw` (its gradient) and `grad` (what the rule is given)."""
    # a parameter that is not its master copy rounded was written by somebody else
    same = f"{memory.nearest('p', memory.element('master'))} == {memory.element('p')}" if kernel.mastered else ""
    return GRADIENT.format(
        x=memory.read("p"),
        g=memory.read("g"),
        master=f"x = where({same}, {memory.element('master')}, x)" if kernel.mastered else "",
        bound="grad = minimum(maximum(grad, -bound), bound)" if kernel.bounded else "",
    )


def move(kernel: Kernel, rule: Rule, memory: Memory) -> str:
    """Text that sets `update` and stores all that is new."""
    writes = [f"stored = {memory.rounded('p', 'new')}", memory.assign("p", "stored")]
    writes += [memory.store(name, f"new_{name}") for name in memory.states]
    if kernel.mastered:
        writes += [memory.assign("master", "new")]
    if kernel.averaged:  # of the parameter as it is stored
        old, current = memory.element("average"), "new" if kernel.mastered else memory.wide("p", "stored")
        writes += [memory.assign("average", f"{old} + share * ({current} - {old})")]
    cautious = "d = where(d * grad > zero, d * rescale, zero)" if kernel.cautious else ""
    update = "d" if rule.whole else "lr * (d + where(decoupled != zero, decoupled * x, zero))"
    return MOVE.format(cautious=cautious, update=update, writes="\n".join(writes))


def momentum(rule: Rule, memory: Memory) -> str:
    """The state that averages gradients, or ""."""
    return memory.states[rule.states.index(rule.momentum)] if rule.momentum else ""
