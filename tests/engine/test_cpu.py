"""The compiled kernels against the reference backend: any shapes, layouts, options, non-finite numbers and threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from backends import reference_only
from cases import ALL, IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import threads
from surefoot.engine.engine import Engine
from surefoot.engine.lane import CHUNK
from surefoot.engine.options import Clip, Options
from surefoot.engine.update import Update
from surefoot.rules.rule import Rule, X, absolute, maximum, minimum, sign, sqrt, where

BIG = 3 * CHUNK + 5
SHAPES = [(0,), (3, 0), (), (1,), (7,), (5, 3), (2, 3, 4, 5), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (BIG,)]
ENGINE = {
    "plain": {},
    "norm": {"clip_norm": 0.5},
    "largest": {"clip_norm": Clip(0.25, norm_type=math.inf)},
    "per_group": {"clip_norm": Clip(0.5, per_group=True), "skip_nonfinite": True},
    "value": {"clip_value": 0.75},
    "cautious": {"cautious": True, "ema": 0.9},
    "clearing": {"zero_grad_in_step": True},
    "all": {"clip_value": 0.75, "cautious": True, "ema": 0.75, "zero_grad_in_step": True, "skip_nonfinite": True},
}
OTHER_KERNELS = ["value", "cautious", "clearing", "all"]  # compiling one takes time: each rule gets the last


def rule_of(name: str, options: dict) -> Rule:
    opt = getattr(sf.optim, name)([nn.Parameter(torch.ones(1))], **options)
    return opt.rule(opt.param_groups[0])


ONE_EACH = {rule_of(*case): case for case in ALL}.values()
PAIRS = [(case, list(ENGINE)[i % 4]) for i, case in enumerate(ALL)]
PAIRS += [(case, "all") for case in ONE_EACH] + [(("AdamW", {}), engine) for engine in ENGINE]


def is_compiled(opt: sf.optim.Optimizer) -> bool:
    """Whether compiled kernels took all parameters of the last step."""
    return bool(opt._engine._plan.lanes) and not opt._engine._plan.items


def with_gradient(value: Tensor, grad: Tensor) -> nn.Parameter:
    p = nn.Parameter(value.clone())
    p.grad = grad.clone()
    return p


# --- any list of tensors, any gradients, any options ---------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> list[dict]:
    """Shapes, precisions, groups, and in which of the four steps each has a gradient."""
    kinds = st.fixed_dictionaries(
        {
            "shape": st.sampled_from(SHAPES),
            "dtype": st.sampled_from([torch.float32, torch.float64]),
            "group": st.integers(0, 1),
            "steps": st.lists(st.sampled_from([True, True, True, False]), min_size=4, max_size=4),
        }
    )
    return draw(st.lists(kinds, min_size=1, max_size=5))


def trajectory(kinds: list[dict], case: tuple, engine: dict, seed: int, bad_step: int, dtype=None) -> list:
    """What there is to see before and after each of four steps; tensors have their own dtype where none is given.

    Nothing here is so ill-conditioned that one rounding error could show: no gradient is near zero, nor is a sum of
    them weighted as momentum is (odd multiples of a quarter have none), which would decide the cautious update's mask.
    """
    name, options = case
    coupled = name != "AdamW" and options.get("weight_decay", 0) > 0
    generator = torch.Generator().manual_seed(seed)
    params, signs = [], []
    for kind in kinds:
        value = torch.randn(kind["shape"], generator=generator)
        signs.append(value.sign())
        value = value.sign() * (3 + value.abs()) if coupled else value / 10 ** (seed % 4)
        params.append(nn.Parameter(value.to(dtype or kind["dtype"])))
    groups = [{"params": [p for p, kind in zip(params, kinds, strict=True) if kind["group"] == i]} for i in (0, 1)]
    groups[0]["maximize"], groups[1]["maximize"] = options.get("maximize", False), seed % 2 == 1
    groups[1]["lr"] = 3 * options.get("lr", 1e-3)
    opt = getattr(sf.optim, name)(groups, **options, **engine)
    seen = [{"numbers": numbers(params, opt)}]
    for step in range(4):
        for p, kind, up in zip(params, kinds, signs, strict=True):
            grad = (2 * torch.randint(-3, 3, kind["shape"], generator=generator) + 1) / 4
            if not engine.get("cautious"):
                grad += grad.sign() * torch.rand(kind["shape"], generator=generator)
            if coupled:  # the decay, added to the gradient, must not cancel it
                grad = grad.abs() * (-up if groups[kind["group"]]["maximize"] else up)
            if step == bad_step and grad.numel() and engine.get("skip_nonfinite"):
                grad.view(-1)[-1] = math.nan
            p.grad = grad.to(p.dtype) if kind["steps"][step] else None
        opt.step()
        seen.append({"numbers": numbers(params, opt), "facts": facts(params, opt), "norm": opt.last.grad_norm})
    if any(kind["steps"][-1] for kind in kinds) and not opt.last.skipped:
        assert is_compiled(opt) == (dtype is None)
    return seen


def numbers(params: list[nn.Parameter], opt: sf.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that a step may write."""
    found = {f"parameter {i}": p.detach().clone() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        kept = opt.state.get(p, {})
        found |= {f"{name} of {i}": value.clone() for name, value in kept.items() if name != "step"}
    return found


def facts(params: list[nn.Parameter], opt: sf.optim.Optimizer) -> dict[str, object]:
    """What is the same to the last bit in every backend."""
    return {
        "steps": [opt.state[p]["step"].item() if "step" in opt.state.get(p, {}) else None for p in params],
        "cleared": [None if p.grad is None else not p.grad.any().item() for p in params],
        "skipped": opt.last.skipped,
        "reported": sorted(opt.last.update_ratio),
    }


def distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).norm().item()


@pytest.mark.parametrize(("case", "engine"), PAIRS, ids=[f"{IDS[ALL.index(case)]}-{engine}" for case, engine in PAIRS])
@settings(max_examples=6, deadline=None)
@given(kinds=tensors(), seed=st.integers(0, 1000), bad_step=st.integers(0, 9))
def test_the_error_is_at_most_twice_the_references(case, engine, kinds, seed, bad_step):
    """Against the reference backend in double precision; fp64 tensors make an error as much smaller as their ulp is."""
    name, options = case
    if engine in OTHER_KERNELS and name != "AdamW":
        kinds = [{**kind, "dtype": torch.float32} for kind in kinds]
        if "weight_decay" in options:
            options = {**options, "weight_decay": 0}  # added to the gradient, it could bring a sum of them near zero
    arguments = (kinds, (name, options), ENGINE[engine], seed, bad_step)
    ours = trajectory(*arguments)
    with reference_only():
        truth, single = (trajectory(*arguments, dtype) for dtype in (torch.float64, torch.float32))
    largest: dict[str, float] = {}
    for step, (a, b, c) in enumerate(zip(ours, truth, single, strict=True)):
        if step:
            assert a["facts"] == b["facts"]
            assert a["norm"] == pytest.approx(b["norm"], rel=1e-6, nan_ok=True)
        assert a["numbers"].keys() == b["numbers"].keys()
        # of all parameters together, of all momenta ...: the rounding of a single element is a matter of luck
        errors: dict[tuple, list[float]] = {}
        for key, found in a["numbers"].items():
            right, single_ = b["numbers"][key], c["numbers"][key]
            eps = torch.finfo(found.dtype).eps
            size = max(largest.get(key, 0.0), right.abs().max().item() if right.numel() else 0.0)
            largest[key] = size
            theirs = distance(single_, right) * eps / torch.finfo(torch.float32).eps
            ulps = max(4 * step * eps, 1e-13)  # in fp64 the norm's sum, in another order, has an error of its own
            each = (distance(found, right), theirs, ulps * size * math.sqrt(right.numel()))
            kind = (found.dtype, *key.split()[:-1])
            errors[kind] = [x + y**2 for x, y in zip(errors.get(kind, [0.0] * 3), each, strict=True)]
        for kind, (ours_, theirs, floor) in errors.items():
            assert ours_**0.5 <= max(2 * theirs**0.5, floor**0.5), (kind, step)


# --- where tensors lie ---------------------------------------------------------------------------------------------


def misaligned(*shape: int) -> Tensor:
    """A view one element into its storage: the vector unit's loads are not aligned."""
    return torch.randn(math.prod(shape) + 1, dtype=torch.float64)[1:].view(shape)


LAYOUTS: dict[str, tuple[Callable[[], Tensor], bool]] = {  # and whether the kernels can take it
    "contiguous": (lambda: torch.randn(5, 7, dtype=torch.float64), True),
    "transposed": (lambda: torch.randn(5, 7, dtype=torch.float64).t(), True),
    "channels_last": (
        lambda: torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
        True,
    ),
    "permuted": (lambda: torch.randn(2, 3, 4, dtype=torch.float64).permute(2, 0, 1), True),
    "misaligned": (lambda: misaligned(5, 7), True),
    "one long dimension among ones": (lambda: torch.randn(1, 9, 1, dtype=torch.float64).transpose(0, 1), True),
    "every second element": (lambda: torch.randn(5, 14, dtype=torch.float64)[:, ::2], False),
    "rows with gaps": (lambda: torch.randn(5, 14, dtype=torch.float64)[:, :7], False),
    "flat": (lambda: torch.randn(35, dtype=torch.float64), True),
}


def run(
    make: Callable[[], list[nn.Parameter]], grads: Callable[[nn.Parameter], Tensor], **options
) -> tuple[list, list]:
    """The parameters after three steps of AdamW, and which of them kernels took."""
    torch.manual_seed(0)
    params = make()
    opt = sf.optim.AdamW(params, lr=0.1, weight_decay=0.1, **options)
    for _ in range(3):
        for p in params:
            p.grad = grads(p)
        opt.step()
    compiled = {id(item.p) for lane in opt._engine._plan.lanes for item in lane.items}
    return [p.detach().clone() for p in params], [id(p) in compiled for p in params]


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient", ["as the parameter", "contiguous", "transposed", "misaligned", "strided"])
def test_any_layout_of_parameter_and_gradient(layout, gradient):
    """Kernels take what is dense and alike; the rest runs as torch operations; the numbers are the same."""

    def grads(p: nn.Parameter) -> Tensor:
        values = torch.arange(p.numel(), dtype=p.dtype).sin().view(p.shape)
        if gradient == "as the parameter":
            return torch.empty_like(p).copy_(values)
        if gradient == "transposed":
            return values.mT.contiguous().mT if p.dim() > 1 else values
        if gradient == "misaligned":
            return torch.empty_strided((p.numel() + 1,), (1,), dtype=p.dtype)[1:].view(p.shape).copy_(values)
        if gradient == "strided":
            return torch.stack([values, values], -1)[..., 0]
        return values

    def make() -> list[nn.Parameter]:
        return [nn.Parameter(LAYOUTS[layout][0]()), nn.Parameter(torch.randn(3, dtype=torch.float64))]

    ours, compiled = run(make, grads, clip_norm=0.5)
    with reference_only():
        theirs, _ = run(make, grads, clip_norm=0.5)
    assert_close(ours, theirs)
    if gradient == "as the parameter":
        assert compiled == [LAYOUTS[layout][1], True]
    if gradient == "strided":
        assert compiled == [False, False]


def test_neighbours_in_memory_are_not_touched():
    """What lies before, between and after parameters in one storage stays as it is."""
    storage = torch.full((3 * CHUNK,), 7.0)
    params = [nn.Parameter(storage[a:b]) for a, b in ((1, 10), (11, 12), (13, CHUNK + 20), (2 * CHUNK, 3 * CHUNK - 1))]
    opt = sf.optim.SGD(params, lr=1.0, momentum=0.9, clip_norm=1.0, zero_grad_in_step=True)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    assert is_compiled(opt)
    moved = torch.cat([p.detach() for p in params])
    assert (moved != 7).all()
    assert (storage == 7).sum() == len(storage) - len(moved)


def views(of: Callable[[Tensor], list[Tensor]], **options) -> Callable[[], Tensor]:
    """Two steps of SGD with momentum on parameters that are views of one storage."""

    def scenario() -> Tensor:
        storage = torch.arange(1.0, 13.0, dtype=torch.float64)
        params = [nn.Parameter(view) for view in of(storage)]
        groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(params)]
        opt = sf.optim.SGD(groups, **options)
        for _ in range(2):
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, i + 1)
            opt.step()
        return storage

    return scenario


@pytest.mark.parametrize("options", [{"weight_decay": 0.5}, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.5}])
@pytest.mark.parametrize(
    "of",
    [
        lambda s: [s[:8], s[4:]],
        lambda s: [s, s[3:6]],
        lambda s: [s[3:6], s],
        lambda s: [s[::2], s],  # the first cannot be compiled, the second could
        lambda s: [s, s[::2]],
        lambda s: [s[:6], s[6:]],
        lambda s: [s.view(3, 4).t(), s[:1]],
    ],
    ids=["overlap", "inside", "around", "strided, whole", "whole, strided", "apart", "transposed"],
)
def test_parameters_that_share_a_storage_move_one_after_the_other(of, options):
    ours = views(of, **options)()
    with reference_only():
        assert_close([ours], [views(of, **options)()])


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("first", [1, 2], ids=["overlapping", "neighbours"])
def test_gradients_that_share_memory_are_used_by_all(cleared, first):
    """Before the first of them is cleared."""
    storage = torch.arange(4.0, dtype=torch.float64)
    params = [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3)]
    params[0].grad, params[1].grad, params[2].grad = storage[:2], storage[first : first + 2], storage[:2]
    expected = [(1 - p.grad).tolist() for p in params]
    sf.optim.SGD(params, lr=1.0, zero_grad_in_step=cleared).step()
    assert [p.tolist() for p in params] == expected
    assert all(p.grad.any() != cleared for p in params)


# --- numbers that are not finite, or huge ---------------------------------------------------------------------------

BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 7, 8, 100, CHUNK - 1, CHUNK, CHUNK + 1, BIG]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    largest=st.booleans(),
    data=st.data(),
)
def test_what_is_not_finite_is_counted_wherever_it_is(size, dtype, largest, data):
    places = data.draw(st.dictionaries(st.one_of(st.integers(0, size - 1), st.just(size - 1)), BAD, max_size=3))
    p = with_gradient(torch.zeros(size, dtype=dtype), torch.randn(size, dtype=dtype))
    opt = sf.optim.SGD([p], lr=0.1, skip_nonfinite=True, clip_norm=Clip(1.0, math.inf if largest else 2.0))
    opt.step()
    before = p.detach().clone()
    for place, value in places.items():
        p.grad[place] = value
    opt.step()
    assert is_compiled(opt)
    assert opt._engine._plan.lanes[0].norms(opt.options)[:, 1].sum() == len(places)
    assert opt.last.skipped == bool(places)
    assert torch.equal(p, before) == bool(places)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_a_norm_that_is_not_finite_is_reported_and_refused_in_words(value, norm_type):
    """Also with warnings as errors: numpy must not warn of what the report says."""
    p = with_gradient(torch.zeros(BIG), torch.ones(BIG))
    p.grad[-1] = value
    opt = sf.optim.SGD([("w", p)], lr=0.1, clip_norm=Clip(1.0, norm_type=norm_type, error_if_nonfinite=True))
    with pytest.raises(sf.UserError, match="gradient of w holds a NaN or an infinity"):
        opt.step()
    assert not p.any()
    opt = sf.optim.SGD([p], lr=0.1, skip_nonfinite=True, clip_norm=Clip(1.0, norm_type=norm_type))
    opt.step()
    assert opt.last.grad_norm == pytest.approx(value, nan_ok=True)
    assert opt.last.grad_norms["group 0, parameter 0"] == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(("name", "options"), ONE_EACH)
@pytest.mark.parametrize("place", [0, 5, CHUNK])
def test_a_nan_stays_where_it_is(name, options, place):
    p = with_gradient(torch.ones(CHUNK + 1), torch.ones(CHUNK + 1))
    p.grad[place] = math.nan
    opt = getattr(sf.optim, name)([p], **options)
    opt.step()
    assert is_compiled(opt)
    # the sign of what is no number is 0, in torch's Rprop too: there it does not even reach the parameter
    assert p.isnan().nonzero().tolist() == ([[place]] if name != "Rprop" else [])


def test_a_clipped_nan_stays_a_nan():
    """Clipping by value must not turn it into the bound."""
    p = with_gradient(torch.ones(9), torch.full((9,), math.nan))
    opt = sf.optim.SGD([p], lr=0.1, clip_value=1.0)
    opt.step()
    assert is_compiled(opt)
    assert p.isnan().all()


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_huge_and_tiny_gradients_have_the_right_norm(size):
    """Their squares are beyond fp32: the first pass sums in double precision."""
    p = with_gradient(torch.zeros(BIG), torch.full((BIG,), size))
    opt = sf.optim.SGD([p], lr=1.0, skip_nonfinite=True, clip_norm=1.0)
    opt.step()
    assert is_compiled(opt)
    assert not opt.last.skipped
    assert opt.last.grad_norm == pytest.approx(size * math.sqrt(BIG), rel=1e-6)
    expected = min(1.0, 1 / (size * math.sqrt(BIG) + 1e-6)) * size
    torch.testing.assert_close(p.detach(), torch.full((BIG,), -expected), rtol=1e-5, atol=0)


def test_a_norm_beyond_double_precision_is_not_called_a_bad_gradient():
    grad = torch.full((9,), 1e200, dtype=torch.float64)
    p, q = (with_gradient(torch.zeros_like(grad), grad) for _ in range(2))
    opt = sf.optim.SGD([p, q], lr=1.0, skip_nonfinite=True)
    opt.step()
    assert not opt.last.skipped
    assert opt.last.grad_norm == math.inf
    assert (p == -1e200).all()


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_the_report_has_the_right_norm_without_a_first_pass(size):
    p = with_gradient(torch.zeros(BIG), torch.full((BIG,), size))
    opt = sf.optim.SGD([p], lr=1.0)
    opt.step()
    assert opt.last.grad_norm == pytest.approx(size * math.sqrt(BIG), rel=1e-6)


# --- the report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_the_report_is_the_references(norm_type):
    """Norms, ratios and cosines per tensor, of tensors of one chunk, of many, and of none."""

    def scenario() -> sf.optim.Optimizer:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (5, BIG, 0, CHUNK)]
        opt = sf.optim.AdamW(params, maximize=True, clip_norm=Clip(0.1, norm_type=norm_type))
        for _ in range(2):
            for p in params:
                p.grad = torch.randn_like(p)
            params[0].grad *= 3
            opt.step()
        return opt

    ours = scenario()
    with reference_only():
        theirs = scenario()
    assert is_compiled(ours)
    for name in ("grad_norm", "grad_norms", "clip_factor", "update_ratio", "cosine"):
        assert getattr(ours.last, name) == pytest.approx(getattr(theirs.last, name), rel=1e-9, nan_ok=True), name
    grad = ours.param_groups[0]["params"][1].grad
    assert ours.last.grad_norms["group 0, parameter 1"] == pytest.approx(torch.linalg.vector_norm(grad, norm_type))


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["norm", "all"])
def test_results_do_not_depend_on_the_number_of_threads(engine, monkeypatch):
    """Bit for bit, also on Python's threads where torch's cannot be had."""

    def scenario(number: int) -> tuple[list[Tensor], float]:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(n)) for n in (BIG, 5, 4 * CHUNK + 1, 0)]
        opt = sf.optim.AdamW(params, **ENGINE[engine])
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            torch.set_num_threads(number)
            opt.step()
            torch.set_num_threads(1)
        return list(numbers(params, opt).values()), opt.last.grad_norm

    expected, norm = scenario(1)
    assert scenario(1)[1] == norm  # or else this test shows nothing
    for pool in ("torch's", "Python's"):
        if pool == "Python's":
            monkeypatch.setattr(threads, "torchs_pool", lambda: None)
        for number in (2, 3):
            found, found_norm = scenario(number)
            assert found_norm == norm, (pool, number)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), (pool, number)


# --- rules ----------------------------------------------------------------------------------------------------------

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.0, 1e-30, -1e30, 3e-39, 1.0]
RESULTS = ("root", "chosen", "larger", "smaller", "size", "direction")


def no_scalars(t: X):
    return ()


def six(g: X, p: X, a: X, b: X, r1: X, r2: X, r3: X, r4: X, r5: X, r6: X):
    return g, a, b, sqrt(a), where(a > b, a, b), maximum(a, b), minimum(a, b), absolute(a), sign(a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_six_operations_are_torchs(dtype):
    rule = Rule("six operations", no_scalars, six, ("a", "b", *RESULTS), counted=False)
    pairs = torch.cartesian_prod(*2 * [torch.tensor(SPECIAL, dtype=dtype)]).repeat(3, 1)[:-5]  # not a whole vector
    a, b = (column.contiguous() for column in pairs.T)
    kept = {"a": a.clone(), "b": b.clone(), **{name: torch.zeros_like(a) for name in RESULTS}}
    p = with_gradient(torch.zeros_like(a), torch.zeros_like(a))
    engine = Engine()
    with torch.no_grad():
        engine.step([Update(rule, [p], None, {}, 0.0, 0.0)], {p: kept}, Options())
    assert len(engine._plan.lanes) == 1
    expected = (a.sqrt(), torch.where(a > b, a, b), a.maximum(b), a.minimum(b), a.abs(), a.sign())
    for name, right in zip(RESULTS, expected, strict=True):
        torch.testing.assert_close(kept[name], right, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


def awkward_scalars(t: X):
    return tuple(float(i) for i in range(1, 13))


def awkward(
    g: X,
    p: X,
    s0: X,
    share: X,
    lr: X,
    scale: X,
    update: X,
    x: X,
    raw: X,
    i: X,
    d: X,
    coupled: X,
    h: X,
    a: X,
    rescale: X,
):
    s0 = share + lr * scale + update * x + raw * i + d * coupled + h * a + rescale
    return g, s0


def test_a_rule_may_name_its_numbers_as_it_likes():
    """The kernels' own names are not the rules' business."""
    rule = Rule("awkward", awkward_scalars, awkward, ("s",), counted=False)

    def scenario() -> list[Tensor]:
        p = with_gradient(torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
        state = {p: {}}
        with torch.no_grad():
            Engine().step([Update(rule, [p], None, {}, 0.25, 0.5)], state, Options(ema=0.75))
        return [p.detach(), state[p]["s"], state[p]["ema"]]

    ours = scenario()
    with reference_only():
        assert_close(ours, scenario())


@pytest.mark.parametrize("lr", [Fraction(1, 10), np.float32(0.1), np.longdouble(0.1), True])
def test_any_kind_of_number_is_a_rate(lr):
    p = with_gradient(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    sf.optim.SGD([p], lr=lr).step()
    assert p.tolist() == [-float(lr)] * 3


# --- autograd -------------------------------------------------------------------------------------------------------


def test_autograd_notices_the_step():
    p = with_gradient(torch.ones(3), torch.ones(3))
    loss = (p**2).sum()  # keeps p for the backward pass
    version = p._version
    opt = sf.optim.SGD([p], lr=0.1)
    opt.step()
    assert is_compiled(opt)
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_without_a_gradient_are_not_marked_as_written():
    p, idle = with_gradient(torch.ones(3), torch.ones(3)), with_gradient(torch.ones(3), torch.ones(3))
    opt = sf.optim.Adam([p, idle])
    opt.step()
    idle.grad = None
    loss = (idle**2).sum()
    opt.step()
    loss.backward()
    assert idle.grad is not None


def test_autograd_notices_that_a_gradient_was_cleared():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * p.grad).sum()  # keeps the gradient
    sf.optim.SGD([p], lr=0.1, zero_grad_in_step=True).step()
    assert not p.grad.any()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_cleared_gradient_lets_go_of_its_graph():
    """As torch's zero_grad(set_to_none=False) does."""
    p = nn.Parameter(torch.ones(3))
    p.grad = (p**3).detach() * p  # what backward(create_graph=True) leaves
    assert p.grad.grad_fn is not None
    opt = sf.optim.SGD([p], lr=0.1, zero_grad_in_step=True)
    opt.step()
    assert not p.grad.any()
    assert p.grad.grad_fn is None
    assert not p.grad.requires_grad
