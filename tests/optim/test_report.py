"""`opt.last`: each number against its definition, computed in double precision from what can be seen outside."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref

import pytest
import torch
from cases import ALL, CASES, IDS
from torch import Tensor, nn

import surefoot as sf
from surefoot.optim import Clip

BACKENDS = ["compiled", "reference"]
SHAPES = {"a": (4, 3), "b": (5,), "idle": (2,), "c": (2, 3, 2)}  # idle has no gradient
ADAMS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")


def build(name: str, options: dict, backend: str = "compiled", named: bool = True, dtype: torch.dtype = torch.float64):
    """Parameters in two groups, with names or without, and their optimizer."""
    torch.manual_seed(0)
    params = {key: nn.Parameter(torch.randn(shape, dtype=dtype)) for key, shape in SHAPES.items()}
    pairs = list(params.items()) if named else list(params.values())
    lr = options.get("lr", 1e-2)
    options = {**options, "lr": torch.tensor(lr, dtype=torch.float64) if backend == "reference" else lr}
    return params, getattr(sf.optim, name)([{"params": pairs[:3]}, {"params": pairs[3:]}], **options)


def give(params: dict[str, nn.Parameter], seed: int, scale: float = 1.0) -> None:
    torch.manual_seed(seed)
    for name, p in params.items():
        p.grad = None if name == "idle" else torch.randn_like(p) * scale


def wide(tensor: Tensor) -> Tensor:
    """The elements as real numbers in double precision."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()


def cosine(a: Tensor, b: Tensor) -> float:
    return (wide(a) * wide(b)).sum().item() / (wide(a).norm() * wide(b).norm()).item()


def assert_report(opt: sf.optim.Optimizer, params: dict, before: dict, state: str | None, rel: float = 1e-9) -> None:
    """Every number of the last report is what it says it is. `state`: which one is the momentum."""
    moved = {name: p for name, p in params.items() if p.grad is not None}
    norms = {name: wide(p.grad).norm().item() for name, p in moved.items()}
    ratios = {
        name: ((wide(p) - wide(before[name])).norm() / wide(before[name]).norm()).item() for name, p in moved.items()
    }
    signs = {p: -1 if group["maximize"] else 1 for group in opt.param_groups for p in group["params"]}
    cosines = {name: cosine(signs[p] * p.grad, opt.state[p][state]) for name, p in moved.items()} if state else {}
    assert opt.last.grad_norm == pytest.approx(math.hypot(*norms.values()), rel=rel)
    assert opt.last.grad_norms == pytest.approx(norms, rel=rel)
    assert opt.last.update_ratio == pytest.approx(ratios, rel=rel)
    assert opt.last.cosine == pytest.approx(cosines, rel=rel, abs=rel)


def momentum(name: str, options: dict) -> str | None:
    """The state that averages gradients, if there is one."""
    if name in ADAMS:
        return "exp_avg"
    return "momentum_buffer" if options.get("momentum", 0) > 0 else None


# --- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0, "ema": 0.75}], ids=["plain", "clipped"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_the_numbers_are_what_they_say(name, options, backend, engine):
    params, opt = build(name, {**options, **engine}, backend)
    for seed, scale in enumerate((3.0, 0.01, 30.0)):
        before = {key: p.detach().clone() for key, p in params.items()}
        give(params, seed, scale)
        opt.step()
        assert_report(opt, params, before, momentum(name, options), rel=1e-8)
        assert (opt.last.stepped, opt.last.skipped, opt.last.reason) == (True, False, "")
    assert bool(opt._engine._plan.lanes) == (backend == "compiled")


@pytest.mark.parametrize("engine", [{"cautious": True}, {"clip_value": 0.5}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_update_is_the_one_that_options_have_made(backend, engine):
    params, opt = build("AdamW", {"lr": 0.1, "weight_decay": 0.1, **engine}, backend)
    for seed in range(3):
        before = {key: p.detach().clone() for key, p in params.items()}
        give(params, seed)
        opt.step()
        assert_report(opt, params, before, "exp_avg", rel=1e-6)


@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0}], ids=["plain", "clipped"])
def test_one_report_tells_of_parameters_of_every_kind(engine):
    """Compiled and not, in single, double and half precision, complex and with a sparse gradient."""
    torch.manual_seed(0)
    dtypes = [torch.bfloat16, torch.float32, torch.complex64, torch.float64, torch.float32, torch.float16]
    params = {f"{i} {dtype}": nn.Parameter(torch.randn(50, dtype=dtype)) for i, dtype in enumerate(dtypes)}
    table = nn.Embedding(6, 2, sparse=True)
    params["sparse"] = table.weight
    opt = sf.optim.Adam(params.items(), lr=0.1, **engine)
    for seed in range(2):
        torch.manual_seed(seed)
        before = {key: p.detach().clone() for key, p in params.items()}
        for p in params.values():
            p.grad = torch.randn_like(p)
        opt.zero_grad()
        table(torch.tensor([1, 1, 4])).square().sum().backward()
        for name, p in params.items():
            p.grad = p.grad if name == "sparse" else torch.randn_like(p)
        opt.step()
        assert list(opt.last.grad_norms) == list(opt.last.update_ratio)
        assert_report(opt, params, before, "exp_avg", rel=2e-2)  # half precision rounds what can be seen


@pytest.mark.parametrize("engine", [{}, {"clip_norm": math.inf}], ids=["plain", "measured"])
def test_many_small_elements_are_not_lost_beside_a_large_one(engine):
    p = nn.Parameter(torch.ones(1_000_001))
    p.grad = torch.full((1_000_001,), 1.0)
    p.grad[0] = 1e4  # its square plus 1 is, in single precision, its square
    opt = sf.optim.SGD([p], lr=1e-9, **engine)
    opt.step()
    assert opt.last.grad_norm == pytest.approx(math.sqrt(1e8 + 1e6), rel=1e-4)


@pytest.mark.parametrize("size", [1e30, 1e-30])
@pytest.mark.parametrize("kind", ["compiled", "tensor_lr", "bfloat16", "complex64"])
def test_a_norm_is_no_infinity_and_no_zero_before_the_gradient_is(kind, size):
    """The squares are out of single precision's range, the gradient and its norm are not."""
    p = nn.Parameter(torch.ones(4, dtype={"bfloat16": torch.bfloat16, "complex64": torch.complex64}.get(kind)))
    p.grad = torch.full_like(p, size)
    opt = sf.optim.SGD([p], lr=torch.tensor(0.5) if kind == "tensor_lr" else 0.5, clip_norm=size)
    opt.step()
    assert opt.last.grad_norm == pytest.approx(2 * size, rel=1e-2, abs=0)
    assert opt.last.clip_factor == pytest.approx(size / (2 * size + 1e-6), rel=1e-2, abs=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_cosine_is_positive_where_momentum_agrees_with_where_it_goes(name, maximize, backend):
    options = {"maximize": maximize, **({"momentum": 0.9} if name == "SGD" else {})}
    params, opt = build(name, options, backend)
    for sign in (1, 1, 1, -1):
        give(params, seed=1, scale=sign)
        opt.step()
        assert opt.last.cosine == pytest.approx({"a": sign, "b": sign, "c": sign})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n, o in ALL if momentum(n, o) is None], ids=lambda value: str(value)
)
def test_where_there_is_no_momentum_there_is_no_cosine(name, options, backend):
    params, opt = build(name, options, backend)
    give(params, seed=0)
    opt.step()
    assert opt.last.cosine == {}
    assert opt.last.update_ratio


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_element_may_be_the_norm(backend):
    params, opt = build("Adam", {"clip_norm": Clip(0.5, norm_type=math.inf)}, backend)
    give(params, seed=0)
    opt.step()
    largest = {name: p.grad.abs().max().item() for name, p in params.items() if p.grad is not None}
    assert opt.last.grad_norms == largest
    assert opt.last.grad_norm == max(largest.values())
    assert opt.last.cosine  # which is of the usual norm all the same
    assert all(abs(value) <= 1 + 1e-12 for value in opt.last.cosine.values())


# --- clip factors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_factors_are_those_of_the_groups(backend):
    def factors(clip: object, scale: float) -> list[float]:
        params, opt = build("SGD", {"clip_norm": clip}, backend)
        give(params, 0, scale)
        opt.step()
        return [*opt.last.clip_factors, opt.last.clip_factor]

    params, _ = build("SGD", {})
    give(params, seed=0)
    first = math.hypot(params["a"].grad.norm(), params["b"].grad.norm())
    second, total = params["c"].grad.norm().item(), math.hypot(first, params["c"].grad.norm())
    assert factors(0.5, 1.0) == pytest.approx([0.5 / (total + 1e-6)] * 3)
    each = [0.5 / (first + 1e-6), 0.5 / (second + 1e-6)]
    assert factors(Clip(0.5, per_group=True), 1.0) == pytest.approx([*each, min(each)])
    assert factors(0.5, 1e-3) == [1.0, 1.0, 1.0]  # within the bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_clipping_the_factor_is_one(backend):
    params, opt = build("SGD", {}, backend)
    give(params, seed=0)
    opt.step()
    assert (list(opt.last.clip_factors), opt.last.clip_factor) == ([1.0, 1.0], 1.0)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("named", [True, False])
def test_parameters_go_by_their_names_or_by_their_place(named, backend):
    params, opt = build("Adam", {}, backend, named)
    give(params, seed=0)
    opt.step()
    places = ["group 0, parameter 0", "group 0, parameter 1", "group 1, parameter 0"]
    expected = ["a", "b", "c"] if named else places  # what has no gradient is left out
    for numbers in (opt.last.grad_norms, opt.last.update_ratio, opt.last.cosine):
        assert list(numbers) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_has_a_gradient_may_change_from_step_to_step(backend):
    params, opt = build("Adam", {}, backend)
    reports = []
    for with_gradients in ("abc", "b", "idle c"):
        give(params, seed=0)
        params["idle"].grad = torch.ones_like(params["idle"])
        for name, p in params.items():
            p.grad = p.grad if name in with_gradients else None
        opt.step()
        reports.append(opt.last)
    assert [sorted(report.update_ratio) for report in reports] == [["a", "b", "c"], ["b"], ["c", "idle"]]
    assert [sorted(report.grad_norms) for report in reports] == [["a", "b", "c"], ["b"], ["c", "idle"]]


# --- steps that were not taken, and odd ones -----------------------------------------------------------------------


def test_before_the_first_step_there_is_no_report():
    assert build("SGD", {})[1].last is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_skipped_step_says_why_and_what_it_has_seen(steps, backend):
    params, opt = build("Adam", {"skip_nonfinite": True}, backend)
    for seed in range(steps):
        give(params, seed)
        opt.step()
    give(params, seed=9)
    params["b"].grad[2] = math.nan
    opt.step()
    last = opt.last
    assert (last.stepped, last.skipped) == (False, True)
    assert last.reason == "the gradient of b holds a NaN or an infinity"
    assert math.isnan(last.grad_norm)
    assert last.grad_norms["a"] == pytest.approx(params["a"].grad.norm().item())
    assert math.isnan(last.grad_norms["b"])
    assert (last.update_ratio, last.cosine, last.clip_factor) == ({}, {}, 1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reason_is_short_where_many_gradients_are_bad(backend):
    params = {f"p{i}": nn.Parameter(torch.ones(2)) for i in range(8)}
    lr = 0.1 if backend == "compiled" else torch.tensor(0.1)
    opt = sf.optim.SGD(params.items(), lr=lr, skip_nonfinite=True)
    for p in params.values():
        p.grad = torch.full((2,), math.inf)
    opt.step()
    assert opt.last.reason == "the gradient of p0, p1, p2 and 5 more holds a NaN or an infinity"


@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0, "skip_nonfinite": True}], ids=["plain", "measured"])
def test_a_step_without_any_gradient_is_taken_and_moves_nothing(engine):
    _, opt = build("Adam", engine)
    opt.step()
    assert opt.last.stepped
    assert opt.last.grad_norm == 0
    assert (opt.last.grad_norms, opt.last.update_ratio, opt.last.cosine) == ({}, {}, {})


@pytest.mark.parametrize("clip", [None, 1.0, Clip(1.0, norm_type=math.inf), Clip(1.0, per_group=True)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("only", [True, False], ids=["alone", "beside another"])
def test_empty_parameters_have_a_norm_of_zero(only, backend, clip):
    """And no warning of a division by zero appears: pytest would make an error of it."""
    params = {"none": nn.Parameter(torch.zeros(0, 3))}
    if not only:
        params["some"] = nn.Parameter(torch.ones(4))
    opt = sf.optim.Adam(params.items(), lr=0.1 if backend == "compiled" else torch.tensor(0.1), clip_norm=clip)
    for p in params.values():
        p.grad = torch.ones_like(p)
    opt.step()
    assert opt.last.grad_norms["none"] == 0
    assert opt.last.grad_norm == (0 if only else 1 if clip and clip != 1.0 and clip.norm_type == math.inf else 2)
    assert math.isnan(opt.last.update_ratio["none"])
    assert "none" not in opt.last.cosine


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_divide_without_a_warning(backend):
    """A gradient of zeros has no direction, and a parameter of zeros no size to compare an update with."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    opt = sf.optim.SGD([("a", a), ("b", b)], lr=0.1 if backend == "compiled" else torch.tensor(0.1), momentum=0.9)
    a.grad, b.grad = torch.zeros(2), torch.ones(2)
    opt.step()
    assert opt.last.update_ratio == {"a": 0, "b": math.inf}
    assert opt.last.cosine == pytest.approx({"b": 1.0})


# --- reports that are kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0}], ids=["plain", "clipped"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_report_that_is_kept_tells_of_its_own_step(backend, engine):
    """Its numbers are worked out when they are read, here after four more steps with other gradients and parameters."""
    kept = []
    for read_at in (0, 5):
        params, opt = build("Adam", {"lr": 0.1, **engine}, backend)
        reports = []
        for seed in range(5):
            give(params, seed, scale=10.0**seed)
            if seed == 3:  # another plan
                params["idle"].grad = torch.ones(2, dtype=torch.float64)
            opt.step()
            opt.param_groups[0]["weight_decay"] = seed / 10
            reports.append(opt.last)
            if read_at == 0:
                numbers(opt.last)
        opt.add_param_group({"params": [("more", nn.Parameter(torch.ones(1)))]})
        kept.append([numbers(report) for report in reports])
    assert kept[0] == kept[1]


def numbers(report: sf.optim.Report) -> tuple:
    return (report.grad_norm, report.grad_norms, report.update_ratio, report.cosine, list(report.clip_factors))


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_a_report_nor_the_optimizer_holds_gradients(backend, engine, read):
    params, opt = build("Adam", engine, backend)
    for bad in (False, bool(engine.get("skip_nonfinite"))):
        give(params, seed=0)
        if bad:
            params["a"].grad[0] = math.nan
        grads = [weakref.ref(p.grad) for p in params.values() if p.grad is not None]
        opt.step()
        assert opt.last.skipped == bad
        if read:
            numbers(opt.last)
        opt.zero_grad()
        gc.collect()
        assert not any(ref() for ref in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_report_does_not_hold_parameters_and_states(backend):
    params, opt = build("Adam", {}, backend)
    give(params, seed=0)
    opt.step()
    report = opt.last
    held = [weakref.ref(p) for p in params.values()] + [weakref.ref(opt.state[params["a"]]["exp_avg"])]
    del params, opt
    gc.collect()
    assert not any(ref() is not None for ref in held)
    assert set(report.update_ratio) == {"a", "b", "c"}


@pytest.mark.parametrize("name", CASES)
def test_optimizers_are_copied_and_pickled_without_their_report(name):
    params, opt = build(name, {"clip_norm": 1.0})
    give(params, seed=0)
    opt.step()
    assert copy.deepcopy(opt).last is None
    assert pickle.loads(pickle.dumps(opt)).last is None
