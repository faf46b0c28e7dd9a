"""Object code of CPU kernels: compiled once a machine, kept on disk, loaded by llvmlite alone.

An entry's name is a hash of everything its code depends on, so that no two kernels share one and an edit of a rule or
of the engine makes a new one. Numba's own cache knows neither: it would run one rule's code for another's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from types import CodeType
from typing import Any, cast

from surefoot.engine.launch import Kernel

# what all kernels are made from
TEXTS = ("element", "kernels", "launch", "operations", "rounding", "scan", "source", "witness")

log = logging.getLogger("surefoot")

_lock = Lock()  # Numba and LLVM are entered by one thread at a time
_loaded: dict[Kernel, int | None] = {}
_linked: dict[str, Any] = {}  # by the entry's name: LLVM unloads what nobody holds


def address(kernel: Kernel) -> int | None:
    """Where the kernel's machine code lies; None where this machine cannot have any, which is logged once."""
    if kernel not in _loaded:
        with _lock:
            if kernel not in _loaded:
                _loaded[kernel] = _find(kernel)
    return _loaded[kernel]


def folder() -> Path:
    """Where the object code is kept: $SUREFOOT_CACHE, or `surefoot` in the user's cache folder."""
    named = os.environ.get("SUREFOOT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surefoot"


def key(kernel: Kernel) -> str:
    """The name of a kernel's entry."""
    import llvmlite.binding as llvm

    about = [*_engine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    about += [repr(getattr(kernel, field.name)) for field in fields(kernel) if field.name != "rule"]
    if kernel.rule is not None:
        about += [repr(kernel.rule.states), kernel.rule.momentum, *_code(kernel.rule.direction.__code__)]
    return hashlib.sha256("\0".join(about).encode()).hexdigest()


@cache
def _engine() -> list[str]:
    here = Path(__file__).parent
    texts = [(here / f"{name}.py").read_text(encoding="utf-8") for name in TEXTS]
    return [sys.version, version("numba"), version("llvmlite"), *texts]


def _code(code: CodeType) -> list[str]:
    """What a function does: its bytecode, which is what Numba compiles."""
    return [code.co_code.hex(), repr(code.co_consts), repr(code.co_names), repr(code.co_varnames)]


def _find(kernel: Kernel) -> int | None:
    try:
        name = key(kernel)
        code = _read(folder() / f"{name}.o")
        if code is None:
            from surefoot.engine.kernels import object_code

            code = object_code(kernel)
            _write(folder() / f"{name}.o", code)
        return _load(name, code)
    except (ImportError, RuntimeError) as error:  # no Numba here, or one that does not know this Python or processor
        _say_once(f"optimizers run as torch operations, several times slower than compiled: {error}")
        return None


def _read(path: Path) -> bytes | None:
    """An entry that is there and whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Write an entry so that other processes see the whole of it or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError as error:
        _say_once(
            f"optimizers are compiled anew in each process, as nothing can be kept in {path.parent}: {error.strerror}"
        )


@cache
def _say_once(what: str) -> None:
    log.warning(what)


def _load(name: str, code: bytes) -> int:
    import llvmlite.binding as llvm

    if name not in _linked:  # two rules may have the same code
        builder = llvm.JITLibraryBuilder().add_object_img(code).export_symbol("kernel")
        _linked[name] = builder.link(_linker(), name)
    return cast(int, _linked[name]["kernel"])


@cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.create_lljit_compiler()
