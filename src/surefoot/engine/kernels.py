"""The CPU kernels: a rule's `direction` in a loop over chunks of tensors, compiled by Numba to object code.

Every kernel is `void kernel(int64 *block)`, where `block` holds what `launch.BLOCK` names. Any number of threads may
run it on the same block: each claims units of rows by an atomic counter until none is left, so that a kernel calls
nothing outside itself. A row is a chunk of one tensor, and what it yields depends on its own elements alone: results do
not depend on the number of threads.

norm      for each row the sum of squares of the gradient, and how many of its elements are not finite
largest   the same with the largest size instead of the sum
agree     for each row how many directions have the gradient's sign (one more pass, for the cautious update)
update    the step, and for each row the sums over gradient, update, parameter and momentum

Only a kernel that is not in the cache needs this module, and so Numba. Its text is part of the cache's key.
"""

from __future__ import annotations

import inspect
from textwrap import indent
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import config

from surefoot.engine import scan, witness
from surefoot.engine.launch import BLOCK, FACTORS, HYPER, SUMS, Kernel
from surefoot.engine.operations import FASTMATH, foreign, operations
from surefoot.rules.rule import bind

# intrinsics that become calls
CALLS = "exp exp2 exp10 log log2 log10 pow powi sin cos tan floor memset memcpy memmove".split()

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

ENTRY = """
define void @kernel(ptr %%block) {
  %%result = alloca ptr
  %%status = call i32 @%s(ptr %%result, ptr null, ptr %%block)
  ret void
}
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


def object_code(kernel: Kernel) -> bytes:
    """Compile a kernel for this machine; its symbol is `kernel`."""
    if getattr(config, "DISABLE_JIT", False):
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    # LLVM gives up on a loop that needs more than 8 checks whether its arrays overlap; a rule with four states needs 15
    llvm.set_option("surefoot", "-runtime-memory-check-threshold=64")
    try:
        signature = types.void(types.CPointer(types.int64))
        compiled = numba.cfunc(signature, fastmath=FASTMATH, error_model="numpy")(_function(kernel))
    finally:
        llvm.set_option("surefoot", "-runtime-memory-check-threshold=8")
    module = llvm.parse_assembly(compiled.inspect_llvm() + ENTRY % compiled.native_name.removeprefix("cfunc."))
    for function in module.functions:  # Numba's own entry reports exceptions to Python, through symbols of Numba's
        if not function.is_declaration and function.name != "kernel":
            function.linkage = "internal"
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic")
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    declared: list[str] = [f.name for f in module.functions if f.is_declaration]
    outside = [name for name in declared if not name.startswith("llvm.") or name.split(".")[1] in CALLS]
    if outside:
        raise RuntimeError(f"the kernel calls {', '.join(outside)}: an entry of the cache must stand alone")
    return machine.emit_object(module)


def _function(kernel: Kernel) -> Any:
    """The kernel as a Python function."""
    if kernel.kind in ("scan", "witness"):
        about = scan if kernel.kind == "scan" else witness
        namespace: dict[str, Any] = {**{name: i for i, name in enumerate(about.BLOCK)}, **foreign()}
        exec(about.KERNEL, namespace)
        if kernel.kind == "scan":
            namespace["alike"] = numba.njit(namespace["alike"])
        return namespace["kernel"]
    namespace = {**{name: i for i, name in enumerate(BLOCK)}, **operations(kernel.precision)}
    if kernel.rule is not None:
        bound = bind(kernel.rule.direction, namespace)
        namespace["direction"] = numba.njit(fastmath=FASTMATH, error_model="numpy")(bound)
    exec(source(kernel), namespace)
    return namespace["kernel"]


def source(kernel: Kernel) -> str:
    """The text of a kernel."""
    rule, sums = kernel.rule, SUMS[kernel.kind]
    names = [] if rule is None else [f"s{i}" for i in range(len(rule.states))]
    extra = 0 if rule is None else len(inspect.signature(rule.direction).parameters) - 2 - len(names)
    scalars = [f"c{i}" for i in range(extra)]
    kept = [*names, *(["average"] if kernel.averaged else []), *(["master"] if kernel.mastered else [])]
    stored = dict(zip(("p", *kept), kernel.stored, strict=True)) | {"g": kernel.stored[0]}

    def pointer(name: str, place: int) -> str:
        pointers, size = POINTERS[stored[name]]
        return f"{name} = {pointers}(pointers[{place} * tensors + tensor] + {size} * start)"

    def read(name: str) -> str:
        return f"{name}[i]" if stored[name] == kernel.precision else f"wide_{stored[name]}({name}[i])"

    def write(name: str, value: str) -> str:
        if stored[name] == kernel.precision:
            return f"{name}[i] = {value}"
        if not kernel.chance or kernel.mastered:
            return f"{name}[i] = nearest_{stored[name]}({value})"
        return f"{name}[i] = chance_{stored[name]}({value}, bits(key_{name}, start + i))"

    load = [pointer("g", 1)]
    if rule is None:
        gather = "total += x * x" if kernel.kind == "norm" else "total = max_or_nan(total, abs(x))"
        loop = NORM.format(gather=gather, g=read("g"))
    else:
        load += [pointer(name, i) for i, name in ((0, "p"), *enumerate(kept, 2))]
        load += [f"h = {len(HYPER) + len(scalars)} * index[tensor]"]
        plain = [(i, name) for i, name in enumerate((*HYPER, *scalars)) if name not in (*DOUBLES, "noise")]
        load += [f"{name} = real(hyper[h + {i}])" for i, name in plain]
        load += [f"{name} = factors[{len(FACTORS)} * tensor + {i}]" for i, name in enumerate(FACTORS)]
        load += ["rescale = real(rescale)"]
        load += [f"{name} = real(hyper[h + {HYPER.index(name)}] * {factor})" for name, factor in DOUBLES.items()]
        if kernel.clearing:  # a zero that the compiler does not know for one: it would call memset
            load += [f"nothing = {'real' if stored['g'] == kernel.precision else 'short'}(tensors >> 62)"]
        if kernel.chance:
            load += [f"noise = whole(hyper[h + {HYPER.index('noise')}])"]
            load += [f"key_{name} = key(noise, whole(number), {i})" for i, name in enumerate(("p", *names))]
        load += [f"{name} = {'zero' if name == 'agreed' else 'zero64'}" for name in sums]
        results = ", ".join(["d", *(f"new_{name}" for name in names)])
        # a parameter that is not its master copy rounded was written by somebody else
        master = f"x = master[i] if nearest_{stored['p']}(master[i]) == p[i] else x" if kernel.mastered else ""
        step = RULE.format(
            x=read("p"),
            g=read("g"),
            master=master,
            bound="grad = minimum(maximum(grad, -bound), bound)" if kernel.bounded else "",
            results=results if names else "(d,)",
            states="".join(f"{read(name)}, " for name in names),
            scalars=", ".join(scalars),
        )
        if kernel.kind == "agree":
            loop = AGREE.format(rule=step)
        else:
            written = [write("p", "new"), *(write(name, f"new_{name}") for name in names)]
            if kernel.mastered:
                written += ["master[i] = new"]
            if kernel.averaged:  # of the parameter as it is stored
                written += [f"average[i] += share * ({'new' if kernel.mastered else read('p')} - average[i])"]
            m = f"s{rule.states.index(rule.momentum)}" if rule.momentum else ""
            loop = UPDATE.format(
                rule=indent(step, "    "),
                g=read("g"),
                cautious="d = d * rescale if d * grad > zero else zero" if kernel.cautious else "",
                write="; ".join(written),
                momentum=f"m2 += new_{m} * new_{m}; gm += new_{m} * raw" if m else "",
                momentum64=f"m64 = wide({read(m)}); momentum2 += m64 * m64; dot += m64 * raw64" if m else "",
                safe="m2 > least and m2 < most" if m else "True",
                clear="for i in range(base, end): g[i] = nothing" if kernel.clearing else "",
            )
    return KERNEL.format(
        load=indent("\n".join(load), 12 * " "),
        loop=indent(loop, 12 * " "),
        store=indent("\n".join(f"out[{len(sums)} * row + {i}] = {name}" for i, name in enumerate(sums)), 12 * " "),
    )


POINTERS = {"float32": ("reals", 4), "float64": ("reals", 8), "bfloat16": ("shorts", 2), "float16": ("shorts", 2)}
DOUBLES = {"lr": "lr_factor", "coupled": "decay_factor", "decoupled": "decay_factor"}  # products in double precision
