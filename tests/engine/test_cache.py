"""Compiled code on disk: read without Numba, never another kernel's, never a broken one, and never a must."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch

from surefoot.engine import cache, kernels
from surefoot.engine.engine import Engine
from surefoot.engine.launch import Kernel
from surefoot.engine.options import Options
from surefoot.engine.update import Update
from surefoot.rules import adagrad, adam, rmsprop, sgd
from surefoot.rules.rule import Rule

RULES = [sgd.sgd, sgd.momentum, sgd.nesterov, adam.adam, adam.amsgrad, *rmsprop.RULES.values(), adagrad.adagrad]


# --- several processes ----------------------------------------------------------------------------------------------

STEPS = """
import json, logging, os, sys
logging.basicConfig(format="LOG %(name)s %(message)s")
import torch, surefoot as sf
p = torch.nn.Parameter(torch.linspace(-1, 1, 100))
opt = sf.optim.AdamW([p], lr=0.1, clip_norm=1.0, cautious=True)
for i in range(3):
    p.grad = (torch.arange(100.0) + i).sin()
    opt.step()
print(json.dumps({"p": p.tolist(), "numba": "numba" in sys.modules, "compiled": len(opt._engine._plan.lanes) == 1}))
"""


def child(folder: Path | str, before: str = "", code: str = STEPS, **environment: str) -> dict:
    """What the code prints in a new process that keeps its kernels in a folder, and how often it logs."""
    done = subprocess.run(
        [sys.executable, "-c", before + code],
        env={**os.environ, "SUREFOOT_CACHE": str(folder), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "log": [line for line in done.stderr.splitlines() if line.startswith("LOG")]}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, dict]:
    """A folder that was empty when a process began, and what that process found."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, child(folder)


@pytest.fixture
def filled(first, tmp_path) -> Path:
    """A copy of that folder to spoil."""
    return Path(shutil.copytree(first[0], tmp_path / "copy"))


def test_the_first_process_compiles_and_leaves_whole_entries_only(first):
    folder, found = first
    assert found["numba"]
    assert found["compiled"]
    assert found["log"] == []
    assert len(list(folder.iterdir())) >= 3  # norm, agree, update
    assert all(path.suffix == ".o" for path in folder.iterdir())


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


def test_the_next_process_needs_no_numba(first, filled):
    before = {path: path.stat().st_mtime_ns for path in filled.iterdir()}
    assert child(filled, HIDE.format(hidden=["numba"])) == {**first[1], "numba": False}
    assert {path: path.stat().st_mtime_ns for path in filled.iterdir()} == before


def test_a_broken_entry_is_compiled_anew(first, filled):
    """Cut off, changed in one bit, empty, or another entry's content under this name."""
    original = {path: path.read_bytes() for path in sorted(filled.iterdir())}
    spoilt = [
        lambda code: code[: len(code) // 2],
        lambda code: code[:1000] + bytes([code[1000] ^ 1]) + code[1001:],
        lambda code: b"",
    ]
    for (path, code), spoil in zip(original.items(), itertools.cycle(spoilt), strict=False):
        path.write_bytes(spoil(code))
    assert child(filled) == first[1]
    for path in original:  # whole again: a digest, and what it is of
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        (HIDE.format(hidden=["numba"]), {}),
        (HIDE.format(hidden=["numba", "llvmlite"]), {}),
        ("", {"NUMBA_DISABLE_JIT": "1"}),
    ],
    ids=["no numba", "no llvmlite", "numba switched off"],
)
def test_without_a_compiler_all_runs_as_torch_operations_and_says_so_once(first, tmp_path, before, environment):
    found = child(tmp_path / "cache", before, **environment)
    assert not found["compiled"]
    torch.testing.assert_close(torch.tensor(found["p"]), torch.tensor(first[1]["p"]))
    assert len(found["log"]) == 1
    assert found["log"][0].startswith("LOG surefoot optimizers run as torch operations")


# --- rules and keys -------------------------------------------------------------------------------------------------

RULE = """
from surefoot.rules.rule import Rule, absolute, maximum, minimum, sqrt, where
def scalars(t):
    return 3.0, 0.5
def direction(g, p, s, a, b):
    s = {state}
    return {direction}, s
rule = Rule("made up", scalars, direction, ("s",), counted=False)
"""


def module_of(folder: Path, state: str, direction: str) -> ModuleType:
    """A module `made_up` with one rule, loaded as new however often it was written before."""
    path = folder / "made_up.py"
    path.write_text(RULE.format(state=state, direction=direction))
    module = ModuleType("made_up")
    exec(compile(path.read_text(), path, "exec"), vars(module))  # an import would take a .pyc of this second for new
    return module


def moved(rule: Rule, **options) -> tuple[list[float], bool]:
    """Where a step from 4 along the gradient 2 with rate 1 leads, and whether it was compiled."""
    p = torch.nn.Parameter(torch.full((3,), 4.0, dtype=torch.float64))
    p.grad = torch.full_like(p, 2.0)
    engine, state = Engine(), {p: {}}
    with torch.no_grad():
        engine.step([Update(rule, [p], None, {}, 1.0, 0.0)], state, Options(**options))
    return [p[0].item(), state[p]["s"][0].item()], len(engine._plan.lanes) == 1


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty cache for the rules of a test; the rules themselves must be new, as this process has loaded others."""
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    cache._say_once.cache_clear()
    return tmp_path / "cache"


# each differs from its neighbours in one name, one operation or the order of two numbers only
TWINS = [
    ("s + g", "sqrt(g)", 4 - 2**0.5, 2),
    ("s + g", "absolute(g)", 2, 2),
    ("s - g", "absolute(g)", 2, -2),
    ("s + a", "maximum(g, a)", 1, 3),
    ("s + b", "minimum(g, a)", 2, 0.5),
    ("s + b", "where(g < a, a, b)", 1, 0.5),
    ("s + b", "where(g < a, b, a)", 3.5, 0.5),
    ("s + b", "b / g", 3.75, 0.5),
]


def test_rules_that_differ_in_one_operation_share_nothing(empty, tmp_path):
    rules = [module_of(tmp_path, state, direction).rule for state, direction, *_ in TWINS]
    for rule, (*_, p, s) in zip(rules, TWINS, strict=True):
        assert moved(rule) == ([pytest.approx(p), pytest.approx(s)], True)
    keys = {cache.key(Kernel("update", ("float64", "float64"), rule)) for rule in rules}
    assert len(keys) == len(TWINS)
    assert keys <= {path.stem for path in empty.iterdir()}


def test_an_edit_of_a_rule_is_seen_in_the_same_process(empty, tmp_path):
    assert moved(module_of(tmp_path, "s + g + g", "s").rule) == ([0, 4], True)
    assert moved(module_of(tmp_path, "s + g + a", "s").rule) == ([-1, 5], True)


OTHER = """
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, {folder!r})
import torch
from made_up import rule
from surefoot.engine.engine import Engine
from surefoot.engine.options import Options
from surefoot.engine.update import Update
p = torch.nn.Parameter(torch.full((3,), 4.0))
p.grad = torch.full((3,), 2.0)
engine = Engine()
with torch.no_grad():
    engine.step([Update(rule, [p], None, {{}}, 1.0, 0.0)], {{p: {{}}}}, Options())
print(json.dumps({{"found": [p[0].item(), len(engine._plan.lanes), "numba" in sys.modules]}}))
"""


def test_an_edit_of_a_rule_is_seen_by_the_next_process(tmp_path):
    found = []
    for state in ("s + g", "s + a"):
        module_of(tmp_path, state, "s")  # writes the file
        found.append(child(tmp_path / "cache", code=OTHER.format(folder=str(tmp_path)))["found"])
    assert found == [[2, 1, True], [1, 1, True]]


def test_a_copy_of_a_rule_is_compiled_too(empty, tmp_path, caplog):
    """As a module that is reloaded makes one: the same code under the same key, loaded twice."""
    first, second = (module_of(tmp_path, "s + g", "s + s + g").rule for _ in range(2))
    kernel = Kernel("update", ("float64", "float64"), first)
    assert cache.key(kernel) == cache.key(Kernel("update", ("float64", "float64"), second))
    assert moved(first) == moved(second) == ([-2, 2], True)
    assert caplog.records == []


def every_kernel() -> list[Kernel]:
    flags = list(itertools.product([False, True], repeat=6))
    found = [
        Kernel(kind, (dtype, *("float32" for _ in rule.states)), rule, *each)
        for kind in ("update", "agree")
        for rule in RULES
        for dtype in ("float32", "bfloat16", "float16")
        for each in flags
    ]
    found += [Kernel(kind, (dtype,)) for kind in ("norm", "largest") for dtype in ("float32", "float64", "bfloat16")]
    return [*dict.fromkeys(found), Kernel("scan"), Kernel("witness")]


def test_no_two_kernels_have_one_key():
    every = every_kernel()
    keys = [cache.key(kernel) for kernel in every]
    assert len(every) == 2 * len(RULES) * 3 * 64 + 6 + 2
    assert len(set(keys)) == len(every)
    assert keys == [cache.key(kernel) for kernel in every]


def test_the_key_depends_on_the_processor_and_on_the_compilers_versions(monkeypatch):
    import llvmlite.binding as llvm

    kernel = Kernel("norm", ("float32",))
    found = {cache.key(kernel)}
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "i386")
    found.add(cache.key(kernel))
    monkeypatch.setattr(cache, "version", lambda name: "0.0")
    cache._engine.cache_clear()
    found.add(cache.key(kernel))
    cache._engine.cache_clear()
    assert len(found) == 3


# --- folders --------------------------------------------------------------------------------------------------------


def test_where_the_folder_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SUREFOOT_CACHE", raising=False)
    assert cache.folder() == Path("/home/somebody/.cache/surefoot")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.folder() == Path("/elsewhere/surefoot")
    monkeypatch.setenv("SUREFOOT_CACHE", "/here")
    assert cache.folder() == Path("/here")


@pytest.mark.parametrize(
    ("folder", "direction"),
    [("/dev/null/x", "s + a - b"), ("a file", "s - a + b"), ("/proc", "s - a - b")],  # /proc: it is there, but not ours
)
def test_a_folder_that_cannot_be_written_is_told_once(empty, tmp_path, monkeypatch, caplog, folder, direction):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / folder))
    rule = module_of(tmp_path, "s + g", direction).rule
    with caplog.at_level(logging.WARNING, "surefoot"):
        assert moved(rule, cautious=True)[1]  # two kernels
    assert [record.name for record in caplog.records] == ["surefoot"]
    assert "compiled anew in each process" in caplog.text


def test_two_threads_that_need_a_kernel_at_once_compile_it_once(empty, tmp_path, monkeypatch):
    rule = module_of(tmp_path, "s + g", "s * a * a").rule
    compiled, found, barrier = [], [], threading.Barrier(2)
    real = kernels.object_code
    monkeypatch.setattr(kernels, "object_code", lambda kernel: compiled.append(kernel) or real(kernel))

    def work() -> None:
        barrier.wait()
        found.append(moved(rule))

    both = [threading.Thread(target=work) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=60)
    assert found == [([-14, 2], True)] * 2
    assert len(compiled) == 1


# --- the code itself ------------------------------------------------------------------------------------------------


def undefined(code: bytes) -> list[str]:
    """The symbols that an ELF object expects others to define, but the one that every linker defines."""
    (sections,) = struct.unpack_from("<Q", code, 0x28)
    size, count, _ = struct.unpack_from("<HHH", code, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, sections + i * size) for i in range(count)]
    found = []
    for _, kind, _, _, at, length, link, *_ in headers:
        if kind == 2:  # the table of symbols
            strings = headers[link][4]
            for entry in range(at + 24, at + length, 24):  # the first is empty
                name, _, _, section = struct.unpack_from("<IBBH", code, entry)
                if section == 0:
                    found.append(code[strings + name : code.index(b"\0", strings + name)].decode())
    return [name for name in found if name != "_GLOBAL_OFFSET_TABLE_"]


HALVES = ("bfloat16", "float16")


def stored(rule: Rule, dtype: str, more: int) -> tuple[str, ...]:
    """A parameter of this dtype, with states in single precision, and an average and a master copy."""
    return dtype, *["float32"] * (len(rule.states) + more)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
@pytest.mark.parametrize(
    "kernel",
    [
        *(Kernel("update", stored(rule, "float32", 1), rule, True, True, True, True) for rule in RULES),
        *(Kernel("update", stored(each, half, 2), each, *[True] * 5) for each in RULES for half in HALVES),
        *(Kernel("update", stored(each, half, 0), each, chance=True) for each in RULES for half in HALVES),
        Kernel("agree", stored(adam.adam, "float32", 0), adam.adam, True),
        Kernel("norm", ("float64",)),
        Kernel("largest", ("float16",)),
        Kernel("scan"),
        Kernel("witness"),
    ],
    ids=lambda kernel: f"{kernel.kind} {kernel.rule and kernel.rule.name}",
)
def test_compiled_code_calls_nothing_outside_itself(kernel):
    assert cache.address(kernel) is not None
    content = (cache.folder() / f"{cache.key(kernel)}.o").read_bytes()
    assert content[32:36] == b"\x7fELF"
    assert undefined(content[32:]) == []


@pytest.mark.parametrize("direction", ["exp(g)", "g // b"])
def test_a_rule_that_calls_outside_is_refused(tmp_path, direction):
    module = module_of(tmp_path, "s + g", direction)
    module.exp = math.exp
    with pytest.raises(RuntimeError, match="must stand alone"):
        kernels.object_code(Kernel("update", ("float32", "float32"), module.rule))
