"""Every rule keeps to the form that all backends can run (`surefoot.rules.rule`)."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import surefoot.rules
from surefoot.rules.rule import OPERATIONS, Rule

ALLOWED = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.Name,
    ast.Call, ast.Compare, ast.Load, ast.Store, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.Lt, ast.LtE,
    ast.Gt, ast.GtE,
)  # fmt: skip


def every_rule() -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    for module in pkgutil.iter_modules(surefoot.rules.__path__, "surefoot.rules."):
        for value in vars(importlib.import_module(module.name)).values():
            for rule in value.values() if isinstance(value, dict) else (value,):
                if isinstance(rule, Rule):
                    found[rule.name] = rule
    return found


RULES = every_rule()


def test_the_rules_are_found():
    assert {"SGD", "Adam", "AMSGrad", "RMSprop", "centred RMSprop with momentum", "Adagrad"} <= set(RULES)


def problems(function) -> list[str]:
    """What in a function's source some backend could not run."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    for argument in tree.args.args:
        argument.annotation = None
    found = [type(node).__name__ for node in ast.walk(tree) if not isinstance(node, ALLOWED)]
    found += [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func.id not in OPERATIONS]
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = {a.arg for a in tree.args.args} | set(OPERATIONS)
    known |= {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets}
    return found + sorted(assigned - known)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_direction_keeps_to_the_form(rule):
    assert problems(rule.direction) == []
    assert rule.direction.__closure__ is None
    arguments = list(inspect.signature(rule.direction).parameters)
    scalars = rule.scalars(1, *(0.5 for _ in rule.hyper))
    assert arguments[:2] == ["g", "p"]
    assert len(arguments) == 2 + len(rule.states) + len(scalars)


def test_the_walk_sees_what_it_forbids():
    factor = 2.0

    def literal(g, p):
        return 2 * g

    def power(g, p):
        return g**p

    def ternary(g, p):
        return g if g > p else p

    def builtin_max(g, p):
        return max(g, p)

    def closure(g, p):
        return g * factor

    for bad in (literal, power, ternary, builtin_max, closure):
        assert problems(bad), bad.__name__


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules_run_on_plain_floats(rule):
    hyper = [0.5 for _ in rule.hyper]
    direction, *states = rule.direction(1.0, 2.0, *(0.25 for _ in rule.states), *rule.scalars(3, *hyper))
    assert isinstance(direction, float)
    assert len(states) == len(rule.states)
