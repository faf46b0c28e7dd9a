"""Finding a task by what the command line calls it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from surefoot.errors import UserError, place, unknown
from surefoot.task.builtin import BUILTIN
from surefoot.task.task import Task


def load(reference: str) -> Task:
    """The task that `reference` names.

    Args:
        reference: the name of a built-in task, `path/to/file.py:function` or `module:function`, where the function
            takes nothing and returns a Task

    Raises:
        UserError: where nothing is found, or what is found fails or returns no Task

    >>> load("digits-mlp").name
    'digits-mlp'
    """
    if ":" not in reference:
        if reference in BUILTIN:
            return _make(BUILTIN[reference].factory, reference, source_of(BUILTIN[reference].factory))
        if reference.endswith(".py"):
            raise UserError(f"{reference}: say which function returns the task: {reference}:function")
        raise unknown("task", reference, BUILTIN)
    home = reference.rpartition(":")[0]
    function = function_of(reference)
    source = Path(home).resolve() if home.endswith(".py") else source_of(function)
    return _make(function, Path(reference).as_posix(), source)


def function_of(reference: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` or `module:function` names."""
    home, _, name = reference.rpartition(":")
    if not (home and name):
        raise UserError(f"task {reference}: it must be path/to/file.py:function or module:function")
    module = _from_file(Path(home)) if home.endswith(".py") else _from_name(home)
    function = getattr(module, name, None)
    if function is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise unknown(f"function in {home}:", name, own[:20])
    if not callable(function):
        raise UserError(f"{reference} must be a function that returns a surefoot.Task, not a {type(function).__name__}")
    return function


def same(reference: str, source: Path | None, other: str, other_source: Path | None) -> bool:
    """Whether two references name one task, though one may be written from another folder."""
    function, other_function = reference.rpartition(":")[2], other.rpartition(":")[2]
    return reference == other or (source is not None and source == other_source and function == other_function)


def origin(task: Task) -> Path | None:
    """The file that a task, or else its model, comes from; None where that is none (a notebook, a prompt)."""
    return task.source or source_of(task.model)


def fingerprint(task: Task) -> str | None:
    """The SHA-256 of the file that a task comes from."""
    file = origin(task)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else None


def source_of(function: Callable[..., Any]) -> Path | None:
    """The file that a function was defined in, where there is one."""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:  # a callable object without code of its own, such as a partial
        return None
    return Path(file) if file and Path(file).is_file() else None


def _make(function: Callable[[], Any], reference: str, source: Path | None) -> Task:
    task = _guarded(function, reference)
    if not isinstance(task, Task):
        raise UserError(f"{reference} must return a surefoot.Task; it returned {type(task).__name__}")
    return replace(task, name=reference, source=source)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no task file {path}")
    # its neighbours can be imported, and worker processes find it by its name, which must hide no other module
    taken = path.stem in sys.modules or importlib.util.find_spec(path.stem) is not None
    name = f"task_in_{path.stem}" if taken else path.stem
    sys.path.append(str(path.parent.resolve()))
    spec: Any = importlib.util.spec_from_file_location(name, path)  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _guarded(lambda: spec.loader.exec_module(module), str(path))
    return module


def _from_name(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return _guarded(lambda: importlib.import_module(name), name)


def _guarded(call: Callable[[], Any], what: str) -> Any:
    """Run the user's code; what it raises becomes one line that says where."""
    try:
        return call()
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"task {what} ended the program (sys.exit) instead of returning a task") from error
    except Exception as error:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"task {what} raised {message} ({place(error)})") from error
