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
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from surefoot.engine import scan, witness
from surefoot.engine.launch import BLOCK, FACTORS, HYPER, SUMS, Kernel
from surefoot.rules.rule import bind

# no nnan and no ninf: they would let the compiler drop the tests for NaN and infinity
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}

LIBM = "exp exp2 exp10 log log2 log10 pow powi sin cos tan floor".split()  # intrinsics that become calls

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
    x = wide(g[i])
    {gather}
bad = zero64
if not abs(total) < infinite64:  # the sum tells that all are finite; where it is not, each element is looked at
    for i in range(count):
        bad += zero64 if abs(g[i]) < infinite else one64
"""

RULE = """
for i in range(count):
    x, raw = p[i], g[i]
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
    agreed += one if d * grad > zero else zero
"""

UPDATE = """
    {cautious}
    update = lr * (d + (decoupled * x if decoupled != zero else zero))
    p[i] = x - update
    {write}
    {average}
    {clear}
    grad2 += wide(raw) * wide(raw)
    update2 += update * update
    param2 += x * x
    {momentum}
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
    outside = [name for name in declared if not name.startswith("llvm.") or name.split(".")[1] in LIBM]
    if outside:
        raise RuntimeError(f"the kernel calls {', '.join(outside)}: an entry of the cache must stand alone")
    return machine.emit_object(module)


def _function(kernel: Kernel) -> Any:
    """The kernel as a Python function."""
    if kernel.kind in ("scan", "witness"):
        about = scan if kernel.kind == "scan" else witness
        namespace: dict[str, Any] = {**{name: i for i, name in enumerate(about.BLOCK)}, **_foreign()}
        exec(about.KERNEL, namespace)
        if kernel.kind == "scan":
            namespace["alike"] = numba.njit(namespace["alike"])
        return namespace["kernel"]
    namespace = {**{name: i for i, name in enumerate(BLOCK)}, **_operations(kernel.precision)}
    if kernel.rule is not None:
        bound = bind(kernel.rule.direction, namespace)
        namespace["direction"] = numba.njit(fastmath=FASTMATH, error_model="numpy")(bound)
    exec(source(kernel), namespace)
    return namespace["kernel"]


def source(kernel: Kernel) -> str:
    """The text of a kernel."""
    rule = kernel.rule
    names = [] if rule is None else [f"s{i}" for i in range(len(rule.states))]
    extra = 0 if rule is None else len(inspect.signature(rule.direction).parameters) - 2 - len(names)
    scalars = [f"c{i}" for i in range(extra)]
    streams = ["p", "g", *names, *(["average"] if kernel.averaged else [])]
    width = len(HYPER) + len(scalars)
    sums = SUMS[kernel.kind]
    load = ["g = reals(pointers[tensors + tensor] + size * start)"]
    if rule is None:
        gather = "total += x * x" if kernel.kind == "norm" else "total = max_or_nan(total, abs(x))"
        loop = NORM.format(gather=gather)
    else:
        load = [f"{name} = reals(pointers[{i} * tensors + tensor] + size * start)" for i, name in enumerate(streams)]
        load += [f"h = {width} * index[tensor]"]
        load += [f"{name} = real(hyper[h + {i}])" for i, name in enumerate((*HYPER, *scalars)) if name not in DOUBLES]
        load += [f"{name} = factors[{len(FACTORS)} * tensor + {i}]" for i, name in enumerate(FACTORS)]
        load += ["rescale = real(rescale)"]
        load += [f"{name} = real(hyper[h + {HYPER.index(name)}] * {factor})" for name, factor in DOUBLES.items()]
        # single precision has no room for the squares of gradients that explode or vanish
        load += [f"{name} = {'zero' if name in SINGLE else 'zero64'}" for name in sums]
        results = ", ".join(["d", *(f"new_{name}" for name in names)])
        loop = RULE.format(
            bound="grad = minimum(maximum(grad, -bound), bound)" if kernel.bounded else "",
            results=results if names else "(d,)",
            states="".join(f"{name}[i], " for name in names),
            scalars=", ".join(scalars),
        )
        if kernel.kind == "agree":
            loop += AGREE
        else:
            momentum = rule.momentum and f"new_s{rule.states.index(rule.momentum)}"
            loop += UPDATE.format(
                cautious="d = d * rescale if d * grad > zero else zero" if kernel.cautious else "",
                write="; ".join(f"{name}[i] = new_{name}" for name in names),
                average="average[i] += share * (x - update - average[i])" if kernel.averaged else "",
                clear="g[i] = zero" if kernel.clearing else "",
                momentum=f"m = wide({momentum}); momentum2 += m * m; dot += m * wide(raw)" if momentum else "",
            )
    return KERNEL.format(
        load=indent("\n".join(load), 12 * " "),
        loop=indent(loop, 12 * " "),
        store=indent("\n".join(f"out[{len(sums)} * row + {i}] = {name}" for i, name in enumerate(sums)), 12 * " "),
    )


SINGLE = ("update2", "param2", "agreed")  # sums in the precision of the parameters; the others are in double
DOUBLES = {"lr": "lr_factor", "coupled": "decay_factor", "decoupled": "decay_factor"}  # products in double precision


def _operations(precision: str) -> dict[str, Any]:
    """What a kernel's text and a rule's text may name."""
    real = np.dtype(precision).type
    zero, one = real(0), real(1)
    type_ = getattr(types, precision)
    llvm_type = {"float32": ir.FloatType(), "float64": ir.DoubleType()}[precision]

    @numba.njit(fastmath=FASTMATH)
    def where(condition: Any, x: Any, y: Any) -> Any:
        return x if condition else y

    @numba.njit(fastmath=FASTMATH)
    def maximum(x: Any, y: Any) -> Any:  # of NaN and a number: NaN, as torch has it
        return x if x > y or x != x else y

    @numba.njit(fastmath=FASTMATH)
    def minimum(x: Any, y: Any) -> Any:
        return x if x < y or x != x else y

    @numba.njit(fastmath=FASTMATH)
    def sign(x: Any) -> Any:
        return one if x > zero else (-one if x < zero else zero)

    return {
        "sqrt": _sqrt(llvm_type),
        "where": where,
        "maximum": maximum,
        "minimum": minimum,
        "absolute": abs,
        "sign": sign,
        "max_or_nan": maximum,
        "wide": np.float64,
        "real": real,
        "zero": zero,
        "one": one,
        "zero64": np.float64(0),
        "infinite": real(np.inf),
        "infinite64": np.float64(np.inf),
        "one64": np.float64(1),
        "ints": _pointer(types.int64, ir.IntType(64)),
        "doubles": _pointer(types.float64, ir.DoubleType()),
        "reals": _pointer(type_, llvm_type),
        "size": np.dtype(precision).itemsize,
        "claim": _claim,
    }


def _pointer(numba_type: Any, llvm_type: Any) -> Any:
    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm_type.as_pointer())

        return types.CPointer(numba_type)(types.int64), build

    return cast


def _sqrt(llvm_type: Any) -> Any:
    @intrinsic
    def sqrt(typing: Any, x: Any) -> Any:  # math.sqrt calls the C library where a loop has its last few elements
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [llvm_type]), arguments)

        return x(x), build

    return sqrt


@intrinsic
def _claim(typing: Any, block: Any) -> Any:
    """The next unit that no thread has taken: an atomic `block[0]++`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(block), build


def _foreign() -> dict[str, Any]:
    """Memory and C functions by their addresses, for the scan and the witness."""

    def asks(bits: int) -> Any:
        @intrinsic
        def call(typing: Any, function: Any, tensor: Any, scratch: Any) -> Any:
            """What `int function(tensor, answer *)` answers; -1 where it fails."""

            def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                wide, answer = ir.IntType(64), ir.IntType(bits)
                kind = ir.FunctionType(ir.IntType(32), [wide, wide])
                failed = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
                found = builder.load(builder.inttoptr(arguments[2], answer.as_pointer()))
                found = builder.zext(found, wide) if bits < 64 else found
                return builder.select(builder.icmp_signed("==", failed, ir.Constant(failed.type, 0)), found, wide(-1))

            return types.int64(types.int64, types.int64, types.int64), build

        return call

    @intrinsic
    def returned(typing: Any, function: Any, argument: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
            return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

        return types.int64(types.int64, types.int64), build

    @intrinsic
    def prefetch(typing: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            i32, i8 = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [i8, i32, i32, i32])
            function = builder.module.declare_intrinsic("llvm.prefetch", [i8], kind)
            builder.call(function, [builder.inttoptr(arguments[0], i8), i32(0), i32(3), i32(1)])  # to read; keep; data
            return context.get_dummy_value()

        return types.none(types.int64), build

    ints = _pointer(types.int64, ir.IntType(64))
    calls = {"asks": asks(64), "asks32": asks(32), "asks8": asks(8), "returned": returned}
    return {**calls, "prefetch": prefetch, "ints": ints}
