from __future__ import annotations

import sys

import pytest

import surefoot as sf
from surefoot.task.load import fingerprint, load, same

GOOD = """
import torch, surefoot as sf
from helper_of_the_task import SIZE
x = torch.randn(8, SIZE)
def make(): return sf.Task(model=lambda: torch.nn.Linear(SIZE, 1), loss=torch.nn.MSELoss(), train=(x, x[:, :1]))
def nothing(): return 5
def leaves(): raise SystemExit
def broken():
    return 1 / 0
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper_of_the_task.py").write_text("SIZE = 3")
    path = tmp_path / "my_task.py"
    path.write_text(GOOD)
    yield path
    for name in ("my_task", "helper_of_the_task"):
        sys.modules.pop(name, None)


def test_from_a_file_and_from_a_module(file):
    by_path, by_name = load(f"{file}:make"), load("my_task:make")
    assert by_path.name == f"{file}:make"
    assert by_path.source == by_name.source == file
    before = fingerprint(by_path)
    assert before == fingerprint(by_name)
    file.write_text(GOOD + "\n# changed")
    assert fingerprint(load(f"{file}:make")) not in (None, before)
    assert fingerprint(sf.Task(model=dict, loss=print, train=[1])) is None  # a task made in a notebook


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("digits-cn", "unknown task digits-cn: did you mean digits-cnn?"),
        ("my_task.py", "my_task.py:function"),
        ("none.py:make", "there is no task file none.py"),
        ("my_task.py:mak", "unknown function in my_task.py: mak: did you mean make?"),
        ("my_task.py:nothing", "must return a surefoot.Task; it returned int"),
        ("my_task.py:broken", "raised ZeroDivisionError: division by zero"),
        ("no_such_module:make", "raised ModuleNotFoundError"),
        ("my_task.py:x", "my_task.py:x must be a function that returns a surefoot.Task, not a Tensor"),
        (":", "must be path/to/file.py:function or module:function"),
        ("my_task.py:leaves", "ended the program (sys.exit)"),
    ],
)
def test_mistakes_are_named(file, reference, words):
    with pytest.raises(sf.UserError) as error:
        load(reference)
    assert words in str(error.value)


def test_a_file_hides_no_other_module_of_its_name(file):
    import random

    for name in ("random", "tensorboard"):
        (file.parent / f"{name}.py").write_text(GOOD)
        assert load(f"{name}.py:make").name == f"{name}.py:make"
    assert sys.modules["random"] is random


def test_a_task_is_the_same_from_another_folder(file, monkeypatch):
    here = load("./my_task.py:make")
    assert here.name == "my_task.py:make"
    monkeypatch.chdir("/")
    there = load(f"{file}:make")
    assert same(here.name, here.source, there.name, there.source)
    assert not same(here.name, here.source, f"{file}:nothing", there.source)


def test_a_file_that_raises_is_named_with_its_line(file):
    file.write_text("import torch\n\nraise RuntimeError('no data here')")
    with pytest.raises(sf.UserError, match=r"RuntimeError: no data here \(.*my_task.py, line 3\)"):
        load(f"{file}:make")
    file.write_text("def f(:")
    with pytest.raises(sf.UserError, match=r"SyntaxError"):
        load(f"{file}:make")
