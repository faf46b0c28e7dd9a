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
    scalars, _, factors = rule.counts
    assert arguments[:2] == ["g", "p"]
    assert scalars + len(rule.numbers) == len(rule.scalars(1, *(0.5 for _ in (*rule.hyper, *rule.numbers))))
    assert factors == (0 if rule.factors is None else len(made(rule)))
    assert not rule.whole or arguments[-2:] == ["lr", "decay"]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_scalars_keep_to_what_triton_compiles(rule):
    """Numbers and powers are allowed there, but neither functions of one's own nor stars nor comprehensions."""
    nodes = [*ast.walk(ast.parse(textwrap.dedent(inspect.getsource(rule.scalars))))]
    called = {node.func.id for node in nodes if isinstance(node, ast.Call)}
    assert called <= {*OPERATIONS, "log"}
    assert not any(isinstance(node, ast.Starred | ast.GeneratorExp | ast.ListComp | ast.IfExp) for node in nodes)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.terms], ids=lambda rule: rule.name)
def test_terms_keep_to_the_form(rule):
    assert problems(rule.terms) == []
    assert list(inspect.signature(rule.terms).parameters)[:2] == ["g", "p"]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_is_short(rule):
    """At most 15 lines of arithmetic."""
    functions = [each for each in (rule.scalars, rule.terms, rule.factors, rule.direction) if each is not None]
    bodies = [ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body for function in functions]
    assert sum(len(body) for body in bodies) <= 20  # the returns count, too
    assert len(ast.parse(textwrap.dedent(inspect.getsource(rule.direction))).body[0].body) <= 15


def made(rule: Rule) -> tuple:
    """What a rule makes of sums that are all 1."""
    scalars, sums, _ = rule.counts
    if rule.common:
        return rule.factors(*(1.0 for _ in range(sums)), *(0.5 for _ in rule.hyper))
    return rule.factors(4.0, *(1.0 for _ in range(sums)), *(0.5 for _ in range(scalars + 2 * rule.whole)))


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
    numbers = rule.scalars(3, *(0.5 for _ in (*rule.hyper, *rule.numbers)))[: rule.counts[0]]
    factors = made(rule) if rule.factors else ()
    given = [1.0] if rule.given else []
    whole = (0.1, 0.5) if rule.whole else ()
    direction, *states = rule.direction(1.0, 2.0, *given, *(0.25 for _ in rule.states), *numbers, *factors, *whole)
    assert isinstance(direction, float)
    assert len(states) == len(rule.states)
