"""Every kernel compiles for a GPU, which needs none: Triton's interpreter takes what its compiler refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton")

CODE = """
    import json, sys
    from dataclasses import replace
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    import surefoot.optim as optim
    from surefoot.engine import gpu, gpu_kernels
    from surefoot.engine.gpu_source import PLACED
    from surefoot.engine.launch import Kernel
    from surefoot.rules.adam import adam

    ROWS = dict(rows="*i64", pointers="*i64", tensors="i32", hyper="*fp64", out="*fp64")
    PREPARE = dict(
        given="*fp64", group_of="*i64", factors="*fp64", pointers="*i64", tensors="i32", steps="*fp64",
        numbers="*fp64", found="*fp64", parts="i32", groups="i32", loss_scale="*fp32", overflow="*fp32", hyper="*fp64",
    )

    def compiled(function, types, **constants):
        signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
        source = ASTSource(function, signature, constants)
        return triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": gpu.WARPS}).asm["ptx"]

    def loads(kernel):
        text = compiled(gpu_kernels.rows(kernel), ROWS)
        return [kernel.kind, kernel.stored, len(kernel.stored), text.count("ld.global.v"), text.count("st.global.v")]

    def update(rule, stored="float32", states=None, **options):
        more = options.get("averaged", False) + options.get("mastered", False)
        half = stored in ("bfloat16", "float16")
        kept = (states or stored,) * len(rule.states) + ("float32" if half else stored,) * more
        return Kernel("update", (stored, *kept), rule, **options)

    def agree(kernel, kind="agree"):
        return replace(kernel, kind=kind, cautious=False, clearing=False, chance=False)

    types = [value for value in vars(optim).values() if isinstance(value, type)]
    classes = [each for each in types if issubclass(each, optim.Optimizer)]
    rules = sorted({rule for each in classes for rule in each.rules}, key=lambda rule: rule.name)
    if sys.argv[1] == "rules":
        found = [loads(update(rule)) for rule in rules]
        found += [loads(agree(update(rule))) for rule in rules]
        found += [loads(agree(update(rule), "measure")) for rule in rules if rule.terms]
        assert len(rules) >= 30
    elif sys.argv[1] == "tables":
        for rule in rules:
            compiled(gpu_kernels.prepare(rule), PREPARE, COUNTED=True, CLIP="whole", LARGEST=False, SKIP=True)
        for clip in ("", "each", "whole"):
            for largest in (False, True):
                constants = dict(COUNTED=False, CLIP=clip, LARGEST=largest, SKIP=not clip)
                compiled(gpu_kernels.prepare(adam), PREPARE, **constants)
        others = gpu_kernels.others()
        for width, largest in ((2, False), (2, True), (1, False)):
            types = dict(rows="*fp64", first="*i64", found="*fp64")
            compiled(others["gather"], types, WIDTH=width, LARGEST=largest)
        compiled(others["place"], {"table": "*i64", **{f"a{i}": "i64" for i in range(PLACED)}})
        found = []
    else:
        kinds = ("float32", "float64", "bfloat16", "float16")
        found = [loads(Kernel(kind, (stored,))) for kind in ("norm", "largest") for stored in kinds]
        found += [loads(update(adam, stored)) for stored in kinds]
        for option in ("bounded", "cautious", "averaged", "clearing"):
            found += [loads(update(adam, **{option: True}))]
        for half in ("bfloat16", "float16"):
            found += [loads(update(adam, half, mastered=True)), loads(update(adam, half, "float32", chance=True))]
            found += [loads(update(adam, "float32", half, chance=True))]
            everything = dict(bounded=True, cautious=True, averaged=True, clearing=True)
            found += [loads(update(adam, half, "float32", mastered=True, **everything))]
            found += [loads(update(adam, half, chance=True, **everything))]
    print(json.dumps(found))
"""

LAUNCHES = """
    import json
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction
    import surefoot as sf
    from surefoot.engine import gpu

    class Driver:  # of a GPU that compiles and never runs
        get_current_device = get_current_stream = lambda self, device=0: 0
        get_current_target = lambda self: GPUTarget("cuda", 90, 32)

    def compiled(kernel, *arguments, grid, warmup, **options):
        found.append(kernel.__name__)
        if kernel.__name__ == "place":  # what `gpu.works` looks at
            arguments[0].copy_(torch.tensor(arguments[1:])[: len(arguments[0])])
        return compile_only(kernel, *arguments, grid=grid, warmup=True, **options)

    found, compile_only = [], JITFunction.run
    driver.set_active(Driver())
    JITFunction.run, gpu.DEVICES = compiled, ["cpu"]
    for options in ({}, {"clip_norm": 1.0, "skip_nonfinite": True, "cautious": True, "rounding": "stochastic"}):
        params = [torch.nn.Parameter(torch.ones(n).bfloat16()) for n in (3000, 5)]
        opt = sf.optim.AdamW(params, lr=torch.tensor(1e-3), **options)
        for step in range(4):
            for p in params:
                p.grad = torch.ones_like(p)
            opt.grad_scale, opt.found_inf = torch.tensor(2.0), torch.tensor(0.0)
            gpu.capturing = lambda step=step: step > 1
            opt.step()
        assert opt._engine._plan.lanes
    print(json.dumps(found))
"""


def run(code: str, *arguments: str) -> list:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_what_a_step_launches_is_what_the_compiler_takes():
    """Arguments as a step passes them; also while a graph is captured."""
    assert set(run(LAUNCHES)) == {"place", "norm", "gather", "prepare", "agree", "update"}


@pytest.mark.parametrize("part", ["rules", "options", "tables"])
def test_every_kernel_compiles_and_moves_16_bytes_at_once(part):
    for kind, stored, streams, loads, stores in run(CODE, part):
        # each array in the loop without masks; sums, and directions alone, may do without some
        needed = {"update": streams + 1, "agree": 2, "measure": 2}.get(kind, streams)
        assert loads >= needed, (kind, stored)
        assert stores >= (streams if kind == "update" else 0), (kind, stored)
