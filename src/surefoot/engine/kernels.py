"""The CPU kernels: their text (`source`), compiled by Numba to object code.

Every kernel is `void kernel(int64 *block)`, where `block` holds what `launch.BLOCK` names. Any number of threads may
run it on the same block: each claims units of rows by an atomic counter until none is left, so that a kernel calls
nothing outside itself.

Only a kernel that is not in the cache needs this module, and so Numba. Its text is part of the cache's key.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import config

from surefoot.engine import scan, witness
from surefoot.engine.launch import BLOCK, Kernel
from surefoot.engine.operations import FASTMATH, foreign, operations
from surefoot.engine.source import source
from surefoot.rules.rule import bind

# intrinsics that become calls
CALLS = "exp exp2 exp10 log log2 log10 pow powi sin cos tan floor memset memcpy memmove".split()

ENTRY = """
define void @kernel(ptr %%block) {
  %%result = alloca ptr
  %%status = call i32 @%s(ptr %%result, ptr null, ptr %%block)
  ret void
}
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
            namespace.update({name: numba.njit(namespace[name]) for name in ("alike", "fetch", "unwrap")})
        return namespace["kernel"]
    namespace = {**{name: i for i, name in enumerate(BLOCK)}, **operations(kernel.precision)}
    if kernel.rule is not None:
        for name in ("direction", "terms"):
            function = getattr(kernel.rule, name)
            if function is not None:
                namespace[name] = numba.njit(fastmath=FASTMATH, error_model="numpy")(bind(function, namespace))
    exec(source(kernel), namespace)
    return namespace["kernel"]
