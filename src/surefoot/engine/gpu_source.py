"""The text of the GPU kernels, in Triton's language: a rule in a loop over chunks of tensors, as `source` has it.

norm      for each row the sum of squares (or the largest size) of the gradient, and how many elements are not finite
prepare   for each tensor its row of the table of hyper-parameters: step counts, the rule's `scalars`, the clip factor,
          and whether it moves at all
measure   for each row the sums of what a rule's `terms` are
agree     for each row how many directions have the gradient's sign (one more pass, for the cautious update)
update    the step, and for each row the sums over gradient, update, parameter and momentum

A program takes a row. Full blocks of aligned memory go through a loop without masks, which loads 16 bytes at once; what
is left goes through one with masks. What the text names is in `gpu_operations`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from textwrap import dedent, indent
from typing import Any

from surefoot.engine.element import Memory, direction, factors, keys, momentum, move, scalars, terms
from surefoot.engine.launch import FACTORS, HYPER, Kernel
from surefoot.rules.rule import Rule

BLOCK = 512  # elements that a program takes at once: 4 for each of 128 threads, a load of 16 bytes in single precision
TENSORS = 128  # of which one program prepares the hyper-parameters
GIVEN = ("seed", "scale", "bound", "lr", "coupled", "decoupled", "share", "max_norm")  # of a group, from the host
MORE = ("active", "rescale", "number", "begin")  # of a tensor, besides HYPER and the rule's scalars
COUNTS = {"bad": "int32", "agreed": "int32"}
SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}

ROWS = """
@triton.jit(do_not_specialize=["tensors"])
def {kind}(rows, pointers, tensors, hyper, out):
    row = tl.program_id(0)
    tensor = tl.load(rows + 3 * row)
    start = tl.load(rows + 3 * row + 1)
    count = tl.load(rows + 3 * row + 2).to(tl.int32)
    present = tl.load(pointers + tensors + tensor) != 0
{numbers}
    moving = tl.where({moving}, count, 0)
{addresses}
    full = tl.where(({together}) % 16 == 0, moving // {block} * {block}, 0)
{zeros}
    for base in range(0, full, {block}):
        i = base + tl.arange(0, {block})
{unmasked}
    for base in range(full, moving, {block}):
        i = base + tl.arange(0, {block})
        inside = i < moving
{masked}
{store}
"""

NORM = """
x = wide({g})
total = {gather}
bad += tl.where(tl.abs(x) < float("inf"), 0, 1)
"""

AGREE = """
agreed += tl.where(d * grad > 0, 1, 0)
"""

SUM = """
raw64, update64, x64 = wide(raw), wide(update), wide(x)
grad2 += raw64 * raw64
update2 += {update}
param2 += x64 * x64
"""

MOMENTUM = """
m64 = wide({m})
momentum2 += m64 * m64
dot += m64 * raw64
"""

CLEAR = """
tl.debug_barrier()  # all have read
for base in range(0, tl.where(present, count, 0), {block}):
    i = base + tl.arange(0, {block})
    tl.store(g_at.to({pointer}) + i, tl.zeros([{block}], {type}), mask=i < count)
"""

PREPARE = """
@triton.jit(do_not_specialize=["tensors", "groups", "parts"])
def prepare(
    given, group_of, factors, pointers, tensors, steps, numbers, found, parts, groups, loss_scale, overflow, hyper,
    COUNTED: tl.constexpr, CLIP: tl.constexpr, LARGEST: tl.constexpr, SKIP: tl.constexpr,
):
    i = tl.program_id(0) * {tensors} + tl.arange(0, {tensors})
    inside = i < tensors
    group = tl.load(group_of + i, mask=inside, other=0)
    zero = 0.0
{given}
{factors}
    unscale = 1 / tl.load(loss_scale).to(tl.float64)
    scale = scale * unscale
    overflows = tl.load(overflow) + tl.zeros([{tensors}], tl.float32)  # the interpreter can broadcast numbers only
    moves = (tl.load(pointers + tensors + i, mask=inside, other=0) != 0) & (overflows == 0)
    if CLIP == "each" or CLIP == "whole":
        norm = tl.zeros([{tensors}], tl.float64)
        if CLIP == "each":  # group has a norm of its own
            for part in range(0, parts):
                own = tl.load(found + 2 * (part * groups + group))
                norm = maximum(norm, own) if LARGEST else norm + own
        else:
            total = tl.zeros([{block}], tl.float64)
            for base in range(0, parts * groups, {block}):
                j = base + tl.arange(0, {block})
                part = tl.load(found + 2 * j, mask=j < parts * groups, other=0)
                total = maximum(total, part) if LARGEST else total + part
            norm += highest(total) if LARGEST else tl.sum(total)
        norm = (norm if LARGEST else tl.sqrt(norm)) * unscale
        factor = max_norm / (norm + 1e-6)
        scale = scale * tl.where(factor >= 1, 1.0, factor)  # a NaN stays one
    if SKIP:
        bad = tl.zeros([{block}], tl.float64)
        for base in range(0, parts * groups, {block}):
            j = base + tl.arange(0, {block})
            bad += tl.load(found + 2 * j + 1, mask=j < parts * groups, other=0)
        moves = moves & (tl.sum(bad) + tl.zeros([{tensors}], tl.float64) == 0)
    taken = tl.load(steps + i, mask=inside, other=0)
    t = taken + 1
    noise = mix(whole(seed) ^ whole(t)).to(tl.float64)
    tl.store(steps + i, tl.where(moves, t if COUNTED else 1.0, taken), mask=inside)
    scale = scale * clip
    lr = lr * lr_factor
    coupled = coupled * decay_factor
    decoupled = decoupled * decay_factor
    active = moves.to(tl.float64)
{scalars}
{store}
"""

GATHER = """
@triton.jit
def gather(rows, first, found, WIDTH: tl.constexpr, LARGEST: tl.constexpr):
    part = tl.program_id(0)
    for column in tl.static_range(WIDTH):
        total = tl.zeros([{block}], tl.float64)
        for base in range(tl.load(first + part), tl.load(first + part + 1), {block}):
            j = base + tl.arange(0, {block})
            value = tl.load(rows + WIDTH * j + column, mask=j < tl.load(first + part + 1), other=0)
            total = maximum(total, value) if LARGEST and column == 0 else total + value
        tl.store(found + WIDTH * part + column, highest(total) if LARGEST and column == 0 else tl.sum(total))
"""

PLACED = 64  # numbers that one launch places
PLACE = """
@triton.jit
def place(table, {arguments}):
{stores}
"""


def source(kernel: Kernel) -> str:
    """The text of a kernel over rows; of one with a rule also the rule's."""
    memory, sums = GpuMemory(kernel), kernel.sums
    m, text, numbers = "", "", []
    if kernel.rule is not None:
        for name in ("terms",) if kernel.kind == "measure" else ("direction",):
            text += rule_text(getattr(kernel.rule, name), name, "Div", "divide")
        numbers = _numbers(kernel, kernel.rule, memory)
        m = momentum(kernel.rule, memory)
    signed = ["dot = tl.where(scale < 0, -1, 1) * tl.sum(dot)"] if "dot" in sums else []  # m is the negative's momentum
    total = {name: f"tl.sum({name})" for name in sums} | ({"dot": "dot"} if signed else {})
    if kernel.kind == "largest":
        total["total"] = "highest(total)"
    store = [*signed, *(f"tl.store(out + {len(sums)} * row + {i}, {total[name]})" for i, name in enumerate(sums))]
    if kernel.clearing:
        stored = kernel.stored[0]
        store += CLEAR.format(block=BLOCK, pointer=_pointer(stored), type=f"tl.{stored}").strip().splitlines()
    return text + ROWS.format(
        kind=kernel.kind,
        block=BLOCK,
        numbers=_lines(1, numbers),
        moving="active" if kernel.rule else "present",
        addresses=_lines(1, memory.addresses()),
        together=" | ".join(f"{name}_at" for name in memory.streams.values()),
        zeros=_lines(1, [f"{n} = tl.zeros([{BLOCK}], tl.{COUNTS.get(n, 'float64')})" for n in sums]),
        unmasked=indent(_body(kernel, GpuMemory(kernel), m), 8 * " "),
        masked=indent(_body(kernel, GpuMemory(kernel, "inside"), m), 8 * " "),
        store=_lines(1, store),
    )


def prepare(rule: Rule) -> str:
    """The text of the kernel that works out a rule's hyper-parameters."""
    given, columns = [*GIVEN, *rule.hyper], row_columns(rule)
    row, width = f"hyper + {len(columns)} * i", len(FACTORS) + rule.counts[2]
    load = f"tl.load(given + {len(given)} * group + {{}})"
    old, new = ([f"{age}_{name}" for name in rule.numbers] for age in ("old", "new"))
    number = "numbers + {} * tensors + i"
    calls = [f"{name} = tl.load({number.format(k)}, mask=inside, other=0)" for k, name in enumerate(old)]
    taken = ", ".join(("t", *(f"h_{name}" for name in rule.hyper), *old))
    calls += [f"{', '.join([*scalars(rule), *new])}, = scalars({taken})"] if scalars(rule) else []
    calls += [
        f"tl.store({number.format(k)}, tl.where(moves, new_{name}, old_{name}), mask=inside)"
        for k, name in enumerate(rule.numbers)
    ]
    later = factors(rule)  # when their sums are known
    return rule_text(rule.scalars, "scalars", "Pow", "power") + PREPARE.format(
        block=BLOCK,
        tensors=TENSORS,
        given=_lines(1, [f"{'h_' if i >= len(GIVEN) else ''}{n} = {load.format(i)}" for i, n in enumerate(given)]),
        factors=_lines(1, [f"{n} = tl.load(factors + {width} * i + {k}, mask=inside)" for k, n in enumerate(FACTORS)]),
        scalars=_lines(1, calls),
        store=_lines(1, [f"tl.store({row} + {k}, {n}, mask=inside)" for k, n in enumerate(columns) if n not in later]),
    )


def others() -> str:
    """The texts of the kernels that know no rule."""
    arguments = [f"a{i}" for i in range(PLACED)]
    place = PLACE.format(
        arguments=", ".join(f'{name}: "i64"' for name in arguments),
        stores=_lines(1, [f"tl.store(table + {i}, {name})" for i, name in enumerate(arguments)]),
    )
    return GATHER.format(block=BLOCK) + place


def row_columns(rule: Rule) -> list[str]:
    """The columns of the table of hyper-parameters."""
    return [*MORE, *HYPER, *scalars(rule), *factors(rule)]


class GpuMemory(Memory):
    """The arrays of a parameter in a kernel's text; elements are loaded a block at a time, into p_i, g_i ...

    Args:
        mask: what tells which elements there are; "": all, and aligned
    """

    def __init__(self, kernel: Kernel, mask: str = "") -> None:
        super().__init__(kernel)
        self.mask = mask

    def addresses(self) -> list[str]:
        """Where a row's elements begin."""
        at = "{}_at = tl.load(pointers + {} * tensors + tensor) + {} * start"
        return [at.format(name, i, SIZES[self.stored[name]]) for i, name in self.streams.items()]

    def load(self) -> list[str]:
        """All elements of a block."""
        lines: list[str] = []
        for name in self.streams.values():
            pointer = f"{name}_at.to({_pointer(self.stored[name])})"
            lines += [f"{name} = {pointer if self.mask else f'tl.multiple_of({pointer}, 16)'}"]
            lines += [f"{name}_i = tl.load({name} + i{', mask=inside, other=0' if self.mask else ''})"]
        return lines

    def element(self, name: str) -> str:
        return f"{name}_i"

    def assign(self, name: str, value: str) -> str:
        return f"tl.store({name} + i, {value}{', mask=inside' if self.mask else ''})"


def _body(kernel: Kernel, memory: GpuMemory, m: str) -> str:
    """What is done with a block."""
    lines = "\n".join(memory.load())
    if kernel.rule is None:
        gather = "maximum(total, tl.abs(x))" if kernel.kind == "largest" else "total + x * x"
        return lines + NORM.format(g=memory.element("g"), gather=gather)
    # where there is no element a rule may make NaN of zeros
    there = "tl.where(inside, {}, 0)" if memory.mask else "{}"
    if kernel.kind == "measure":
        add = [f"{name} += {there.format(f'wide(q{i})')}" for i, name in enumerate(kernel.sums)]
        return "\n".join([lines + terms(kernel, kernel.rule, memory), *add])
    lines += direction(kernel, kernel.rule, memory)
    if kernel.kind == "agree":
        return lines + AGREE
    lines += move(kernel, kernel.rule, memory) + SUM.format(update=there.format("update64 * update64"))
    return lines + (MOMENTUM.format(m=there.format(f"new_{m}")) if m else "")


def _numbers(kernel: Kernel, rule: Rule, memory: Memory) -> list[str]:
    """The row's hyper-parameters."""
    columns, real = row_columns(rule), "tl.float64" if kernel.precision == "float64" else "tl.float32"
    lines = [f"h = hyper + {len(columns)} * tensor", "zero: tl.constexpr = 0.0"]
    for i, name in enumerate(columns):
        if name == "active":
            lines += ["active = tl.load(h) != 0"]
        elif name in ("noise", "number", "begin"):  # whole numbers
            lines += [f"{name} = tl.load(h + {i})"] if kernel.chance else []
        else:
            lines += [f"{name} = tl.load(h + {i}).to({real})"]
    if kernel.chance:
        lines += ["noise = whole(noise)"]
    return [*lines, *keys(kernel, memory)]


def rule_text(function: Callable[..., Any], name: str, operation: str, replacement: str) -> str:
    """A rule's function as a function of a kernel, one of its operators written as a call: ("Div", "divide"), say."""
    tree = ast.parse(dedent(inspect.getsource(function)))
    defined = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    defined.name = name
    for argument in defined.args.args:
        argument.annotation = None

    class Replace(ast.NodeTransformer):
        def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
            self.generic_visit(node)
            if type(node.op).__name__ != operation:
                return node
            return ast.Call(ast.Name(replacement, ast.Load()), [node.left, node.right], [])

    return f"@triton.jit\n{ast.unparse(ast.fix_missing_locations(Replace().visit(defined)))}\n"


def _pointer(stored: str) -> str:
    return f"tl.pointer_type(tl.{stored})"


def _lines(depth: int, lines: list[str]) -> str:
    return indent("\n".join(lines), 4 * depth * " ")
