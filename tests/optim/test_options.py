"""The engine's options on every optimizer, each against torch.optim with the same written out by hand."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import CASES
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import surefoot as sf
from surefoot.optim import Clip, Norms

pytestmark = pytest.mark.usefixtures("numbers_in_double")

NAMES = list(CASES)
RICH = {name: {**each[-1], "lr": 0.05} for name, each in CASES.items()}  # the case with the most options set
SHAPES = [[(4, 3), (5,)], [(2, 3, 2)]]  # of the parameters, group by group
SCALES = [3.0, 0.01, 30.0, 0.3, 1.0]  # of the gradients, step by step: some are clipped and some are not
KINDS = {  # kind: dtype of the parameters, dtype of the torch twin, relative tolerance
    "compiled": (torch.float64, torch.float64, 1e-9),
    "tensor_lr": (torch.float64, torch.float64, 1e-9),
    "complex64": (torch.complex64, torch.complex128, 1e-4),
    "bfloat16": (torch.bfloat16, torch.float32, 2**-6),
}
ENGINE = {
    "norm": {"clip_norm": 1.0},
    "largest": {"clip_norm": Clip(0.5, norm_type=math.inf)},
    "per group": {"clip_norm": Clip(1.0, per_group=True)},
    "largest per group": {"clip_norm": Clip(0.5, norm_type=math.inf, per_group=True)},
    "value": {"clip_value": 0.5},
    "cautious": {"cautious": True},
    "ema": {"ema": 0.75},
    "skipping": {"skip_nonfinite": True},
    "clearing": {"zero_grad_in_step": True},
    "norm, all": {"clip_norm": 1.0, "cautious": True, "ema": 0.75, "skip_nonfinite": True, "zero_grad_in_step": True},
    "value, all": {"clip_value": 0.5, "cautious": True, "ema": 0.75, "skip_nonfinite": True, "zero_grad_in_step": True},
}


def half(norms: Norms) -> float:
    return 0.5


def reals(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of reals: what the optimizers of torch take them for."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class ByHand:
    """torch.optim with our options written out around it, from their definitions."""

    def __init__(self, name: str, groups: list[list], options: dict, engine: dict) -> None:
        self.options, self.engine = options, engine
        self.decoupled = name == "AdamW" or options.get("decoupled_weight_decay", False)
        self.decay = options.get("weight_decay", 1e-2 if self.decoupled else 0)
        if self.decoupled:  # the decay is done below, as cautious updates want it apart
            options = {**options, "weight_decay": 0}
        self.groups, self.params = groups, [p for group in groups for p in group]
        self.optimizer = getattr(torch.optim, name)([{"params": group} for group in groups], **options)
        self.averages = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self) -> None:
        self.clip()
        before = [p.clone() for p in self.params]
        self.optimizer.step()
        lr, ema = self.options["lr"], self.engine.get("ema", 0)
        for p, was, average in zip(self.params, before, self.averages, strict=True):
            direction = (was - p) / lr
            if self.engine.get("cautious"):
                direction = self.cautious(direction, -p.grad if self.options.get("maximize") else p.grad, was)
            if self.decoupled:
                direction = direction + self.decay * was
            p.copy_(was - lr * direction)
            average.copy_(ema * average + (1 - ema) * p)

    def clip(self) -> None:
        clip = self.engine.get("clip_norm")
        clip = Clip(clip) if isinstance(clip, float) else clip
        if isinstance(clip, Clip) and not callable(clip.max_norm):
            for params in self.groups if clip.per_group else [self.params]:
                clip_grad_norm_(params, clip.max_norm, clip.norm_type)
        if "clip_value" in self.engine:
            for p in self.params:
                part = nn.Parameter(reals(p.detach()))
                part.grad = reals(p.grad)  # the same memory
                clip_grad_value_([part], self.engine["clip_value"])

    def cautious(self, direction: Tensor, g: Tensor, was: Tensor) -> Tensor:
        """Liang et al. 2024, algorithm 2."""
        d = reals(direction.resolve_conj())
        g = reals((g if self.decoupled else g + self.decay * was).resolve_neg())
        mask = d * g > 0
        d = d * mask * (mask.numel() / (mask.sum().item() + 1))
        return torch.view_as_complex(d) if direction.is_complex() else d


class Twins:
    """Ours and torch's by hand, on the same parameters with the same gradients."""

    def __init__(self, name: str, engine: dict, kind: str = "compiled", options: dict | None = None) -> None:
        torch.manual_seed(0)
        options = RICH[name] if options is None else options
        self.kind, (self.dtype, wide, self.rtol) = kind, KINDS[kind]
        self.groups = [[nn.Parameter(torch.randn(s, dtype=self.dtype)) for s in group] for group in SHAPES]
        theirs = [[nn.Parameter(p.detach().to(wide, copy=True)) for p in group] for group in self.groups]
        self.params = [p for group in self.groups for p in group]
        self.hand = ByHand(name, theirs, options, engine)
        if kind == "tensor_lr":
            options = {**options, "lr": torch.tensor(options["lr"], dtype=torch.float64)}
        self.opt = getattr(sf.optim, name)([{"params": group} for group in self.groups], **options, **engine)

    def give(self, seed: int, scale: float = 1.0) -> None:
        """The same random gradients to both sides."""
        torch.manual_seed(seed)
        for p, q in zip(self.params, self.hand.params, strict=True):
            p.grad = (torch.randn(p.shape, dtype=q.dtype) * scale).to(p.dtype)
            q.grad = p.grad.to(q.dtype, copy=True)

    def agree(self) -> None:
        """Parameters, states and averages are the same."""
        close = {"rtol": self.rtol, "atol": self.rtol / 10, "check_dtype": False}
        for p, q, average in zip(self.params, self.hand.params, self.hand.averages, strict=True):
            torch.testing.assert_close(p, q, **close)
            for name, value in self.hand.optimizer.state.get(q, {}).items():
                torch.testing.assert_close(self.opt.state[p][name], value, **close)
            if self.opt.options.ema is not None:
                torch.testing.assert_close(self.opt.state[p]["ema"], average, **close)

    @torch.no_grad()
    def align(self) -> None:
        """Let the twin take over our numbers, so that what bfloat16 rounds off does not add up over steps."""
        for p, q, average in zip(self.params, self.hand.params, self.hand.averages, strict=True):
            q.copy_(p)
            for name, value in self.hand.optimizer.state.get(q, {}).items():
                value.copy_(self.opt.state[p][name])
            if self.opt.options.ema is not None:
                average.copy_(self.opt.state[p]["ema"])

    def snapshot(self) -> tuple:
        """All that a skipped step must not change."""
        return [p.detach().clone() for p in self.params], copy.deepcopy(self.opt.state_dict())


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through all containers."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# --- every option, alone and together ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("name", NAMES)
def test_options_are_what_one_writes_by_hand(name, engine, kind):
    twins = Twins(name, ENGINE[engine], kind)
    for seed, scale in enumerate(SCALES):
        twins.give(seed, scale)
        twins.opt.step()
        twins.hand.step()
        twins.agree()
        if kind == "bfloat16":
            twins.align()
    assert bool(twins.opt._engine._plan.lanes) == (
        kind in ("compiled", "bfloat16")
    )  # or else the backend is not the one meant


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_stay_as_they_are_unless_they_are_to_be_cleared(name, engine, kind):
    twins = Twins(name, ENGINE[engine], kind)
    for maximize in (False, True):
        for group in twins.opt.param_groups:
            group["maximize"] = maximize
        twins.give(seed=1, scale=30.0)
        tensors, before = [p.grad for p in twins.params], [p.grad.clone() for p in twins.params]
        twins.opt.step()
        assert all(p.grad is tensor for p, tensor in zip(twins.params, tensors, strict=True))
        if ENGINE[engine].get("zero_grad_in_step"):
            assert not any(p.grad.any() for p in twins.params)
        else:
            assert same([p.grad for p in twins.params], before)


# --- clipping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_function_sees_all_norms_and_returns_a_factor(kind):
    seen = []

    def function(norms: Norms) -> float:
        seen.append(norms)
        return 0.25

    twins = Twins("SGD", {"clip_norm": function}, kind, {"lr": 0.1})
    twins.give(seed=0)
    twins.opt.step()
    for q in twins.hand.params:
        q.grad.mul_(0.25)
    twins.hand.step()
    twins.agree()
    norms = [[p.grad.to(torch.complex128).norm().item() for p in group] for group in twins.groups]
    by_group = [math.hypot(*group) for group in norms]
    assert seen[0].total == pytest.approx(math.hypot(*by_group))
    assert seen[0].groups == pytest.approx(by_group)
    names = ["group 0, parameter 0", "group 0, parameter 1", "group 1, parameter 0"]
    assert seen[0].tensors == pytest.approx(dict(zip(names, [*norms[0], *norms[1]], strict=True)))
    assert twins.opt.last.clip_factors == [0.25, 0.25]


def test_a_clip_function_may_return_a_factor_for_each_group():
    twins = Twins("SGD", {"clip_norm": lambda norms: (0.5, 2.0)}, options={"lr": 0.1})
    twins.give(seed=0)
    twins.opt.step()
    for group, factor in zip(twins.hand.groups, (0.5, 2.0), strict=True):
        for q in group:
            q.grad.mul_(factor)
    twins.hand.step()
    twins.agree()
    assert (twins.opt.last.clip_factors, twins.opt.last.clip_factor) == ([0.5, 2.0], 0.5)


def test_a_clip_function_is_told_the_largest_elements_where_that_is_the_norm():
    seen = []
    twins = Twins("SGD", {"clip_norm": Clip(lambda norms: seen.append(norms) or 1.0, norm_type=math.inf)})
    twins.give(seed=0)
    twins.opt.step()
    assert seen[0].groups == [max(p.grad.abs().max().item() for p in group) for group in twins.groups]
    assert seen[0].total == max(seen[0].groups)


@pytest.mark.parametrize("answer", [(), (1.0,), (1.0, 1.0, 1.0), None, "no"], ids=str)
def test_a_clip_functions_wrong_answer_is_refused_and_nothing_moves(answer):
    twins = Twins("Adam", {"clip_norm": lambda norms: answer})
    twins.give(seed=0)
    before = twins.snapshot()
    with pytest.raises(sf.UserError, match="clip_norm"):
        twins.opt.step()
    assert same(twins.snapshot(), before)
    assert not twins.opt.state


def test_what_a_clip_function_raises_comes_through_and_nothing_moves():
    twins = Twins("Adam", {"clip_norm": lambda norms: 1 / 0})
    twins.give(seed=0)
    before = twins.snapshot()
    with pytest.raises(ZeroDivisionError):
        twins.opt.step()
    assert same(twins.snapshot(), before)
    assert not twins.opt.state


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_norm_that_is_not_finite_is_refused_if_asked(name, kind, bad):
    twins = Twins(name, {"clip_norm": Clip(1.0, error_if_nonfinite=True), "ema": 0.75}, kind)
    for seed in range(2):  # before the first step, and before a later one
        twins.give(seed)
        good = [p.grad for p in twins.params]
        twins.params[1].grad = torch.full_like(good[1], bad)
        before = twins.snapshot()
        with pytest.raises(sf.UserError, match="group 0, parameter 1"):
            twins.opt.step()
        assert same(twins.snapshot(), before)
        for p, g in zip(twins.params, good, strict=True):
            p.grad = g
        twins.opt.step()
        twins.hand.step()
        twins.agree()
        if kind == "bfloat16":
            twins.align()


def test_an_infinite_bound_measures_and_lets_everything_through():
    twins = Twins("SGD", {"clip_norm": math.inf})
    twins.give(seed=0, scale=1e6)
    twins.opt.step()
    assert twins.opt.last.clip_factors == [1.0, 1.0]
    assert twins.opt.last.grad_norm > 1e6


# --- gradients that are no numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad_step", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_step_might_as_well_not_have_been(name, kind, bad_step):
    engine = {"skip_nonfinite": True, "clip_norm": 1.0, "ema": 0.75}
    with_it, without = Twins(name, engine, kind), Twins(name, engine, kind)
    for seed in range(4):
        if seed == bad_step:
            with_it.give(seed=99)
            with_it.params[2].grad.view(-1)[1] = (math.nan, math.inf, -math.inf)[NAMES.index(name) % 3]
            before = with_it.snapshot()
            with_it.opt.step()
            assert same(with_it.snapshot(), before)
            assert with_it.opt.last.skipped
            assert "group 1, parameter 0" in with_it.opt.last.reason
        for side in (with_it, without):
            side.give(seed)
            side.opt.step()
            assert side.opt.last.stepped
        assert same(with_it.snapshot(), without.snapshot())


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_skipped_at_the_very_first_creates_no_state(kind):
    twins = Twins("Adam", {"skip_nonfinite": True, "ema": 0.75}, kind)
    twins.give(seed=0)
    twins.params[0].grad.view(-1)[0] = math.nan
    twins.opt.step()
    assert not any(twins.opt.state.values())


def test_a_huge_gradient_is_no_reason_to_skip():
    """Its square is beyond single precision, and the gradient is a number all the same."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.full((3,), 1e30)
    opt = sf.optim.SGD([p], lr=1e-30, skip_nonfinite=True)
    opt.step()
    assert opt.last.stepped
    assert p.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_after_a_skipped_step_where_only_the_step_clears_gradients(kind):
    """A NaN that stayed in .grad would be added to by every later backward pass: no step would be taken again."""
    twins = Twins("SGD", {"skip_nonfinite": True, "zero_grad_in_step": True}, kind)
    twins.give(seed=0)
    twins.params[0].grad.view(-1)[0] = math.nan
    twins.opt.step()
    assert twins.opt.last.skipped
    sum(reals(p).square().sum() for p in twins.params).backward()
    twins.opt.step()
    assert twins.opt.last.stepped


# --- clearing ------------------------------------------------------------------------------------------------------


def on_shared_gradients(layout: str) -> list[nn.Parameter]:
    """Two parameters of 4 elements with gradients in memory that they share."""
    torch.manual_seed(0)
    params, memory = [nn.Parameter(torch.randn(4)) for _ in range(2)], torch.randn(8)
    if layout == "one tensor":
        params[0].grad = params[1].grad = memory[:4]
    else:  # as views of a bucket, as DistributedDataParallel has them; or overlapping
        start = 4 if layout == "bucket" else 2
        params[0].grad, params[1].grad = memory[:4], memory[start : start + 4]
    return params


@pytest.mark.parametrize("lrs", [(0.1, 0.2), (0.1, torch.tensor(0.2)), (torch.tensor(0.1), torch.tensor(0.2))])
@pytest.mark.parametrize("layout", ["one tensor", "bucket", "overlapping"])
def test_gradients_that_share_memory_are_all_read_before_they_are_cleared(layout, lrs):
    params = on_shared_gradients(layout)
    expected = [p.detach() - float(lr) * p.grad for p, lr in zip(params, lrs, strict=True)]
    opt = sf.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)], zero_grad_in_step=True)
    for _ in range(2):  # the second step finds zeros
        opt.step()
        torch.testing.assert_close([p.detach() for p in params], expected)
        assert not any(p.grad.any() for p in params)


def test_only_the_gradients_are_cleared_and_not_what_lies_between_them():
    memory = torch.ones(9)
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    params[0].grad, params[1].grad = memory[:3], memory[6:]
    sf.optim.SGD(params, zero_grad_in_step=True).step()
    assert memory.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_clearing_leaves_missing_gradients_missing():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    a.grad = torch.ones(2)
    sf.optim.SGD([a, b], zero_grad_in_step=True).step()
    assert b.grad is None


def test_gradients_accumulate_into_what_was_cleared():
    p = nn.Parameter(torch.ones(2))
    opt = sf.optim.SGD([p], lr=0.1, zero_grad_in_step=True)
    for _ in range(3):
        (2 * p).sum().backward()
        assert p.grad.tolist() == [2, 2]
        opt.step()
    assert p.tolist() == pytest.approx([0.4, 0.4])


# --- sparse gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINE)
def test_options_take_sparse_gradients_for_the_dense_ones_they_stand_for(engine):
    torch.manual_seed(0)
    tables = [nn.Embedding(8, 3, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    for table in tables:
        opt = sf.optim.Adam(table.parameters(), lr=0.1, **ENGINE[engine])
        for rows in (torch.tensor([1, 1, 5]), torch.tensor([5, 2, 1])):  # a row that is there twice is added up
            opt.zero_grad()
            table(rows).square().sum().mul(3).backward()
            opt.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight)


# --- averages ------------------------------------------------------------------------------------------------------


def test_averages_of_half_precision_move():
    """A thousandth of the way is less than half precision can tell: an average in it would stay where it began."""
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    opt = sf.optim.SGD([p], lr=1.0, ema=0.999)
    p.grad = torch.ones_like(p)
    for _ in range(1000):
        opt.step()
        p.grad.zero_()
    with opt.averaged():
        assert p.tolist() == pytest.approx([0.999**1000] * 3, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_averages_take_the_parameters_place_and_give_it_back(kind):
    twins = Twins("AdamW", {"ema": 0.75}, kind)
    for seed in range(3):
        twins.give(seed)
        twins.opt.step()
    params, averages = twins.snapshot()[0], [twins.opt.state[p]["ema"].clone() for p in twins.params]
    assert not same(params, [average.to(p.dtype) for p, average in zip(params, averages, strict=True)])
    with twins.opt.averaged():
        assert same([p.detach() for p in twins.params], [average.to(twins.dtype) for average in averages])
    assert same([p.detach() for p in twins.params], params)
    assert same([twins.opt.state[p]["ema"] for p in twins.params], averages)


def test_averages_give_the_place_back_after_an_error():
    twins = Twins("SGD", {"ema": 0.75})
    twins.give(seed=0)
    twins.opt.step()
    before = twins.snapshot()
    with pytest.raises(KeyError), twins.opt.averaged():
        raise KeyError
    assert same(twins.snapshot(), before)
    twins.opt.step()  # it is left, so steps are allowed again


def test_parameters_that_never_moved_are_their_own_average():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = sf.optim.SGD([a, b], lr=1.0, ema=0.5)
    with opt.averaged():
        assert (a.tolist(), b.tolist()) == ([1, 1], [1, 1])
    a.grad = torch.ones(2)
    opt.step()
    with opt.averaged():
        assert (a.tolist(), b.tolist()) == ([0.5, 0.5], [1, 1])


INSIDE = {
    "enter": lambda opt, saved: opt.averaged().__enter__(),
    "step": lambda opt, saved: opt.step(),
    "save": lambda opt, saved: opt.state_dict(),
    "load": lambda opt, saved: opt.load_state_dict(saved),
    "copy": lambda opt, saved: copy.deepcopy(opt),
    "pickle": lambda opt, saved: pickle.dumps(opt),
}


@pytest.mark.parametrize("do", INSIDE)
def test_what_would_take_averages_for_parameters_is_refused(do):
    twins = Twins("SGD", {"ema": 0.75})
    twins.give(seed=0)
    twins.opt.step()
    before = twins.snapshot()
    with twins.opt.averaged(), pytest.raises(sf.UserError, match="averaged"):
        INSIDE[do](twins.opt, before[1])
    assert same(twins.snapshot(), before)


def test_averages_that_were_not_kept_cannot_be_had():
    opt = Twins("SGD", {}).opt
    with pytest.raises(sf.UserError, match=r"ema=0\.999"), opt.averaged():
        pass


# --- copies, other constructors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("engine", [*ENGINE, "function"])
def test_copies_have_the_options(engine, clone):
    twins = Twins("Adam", ENGINE.get(engine, {"clip_norm": half}))
    twins.give(seed=0, scale=30.0)
    twins.opt.step()
    twin = clone(twins.opt)
    assert twin.options == twins.opt.options
    copies = [p for group in twin.param_groups for p in group["params"]]
    twins.give(seed=1, scale=30.0)
    for p, q in zip(twins.params, copies, strict=True):
        q.grad = p.grad.clone()
    twins.opt.step()
    twin.step()
    assert same(copies, twins.params)


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("name", NAMES)
def test_optimizers_by_name_take_the_options(name, engine):
    model = nn.Linear(2, 2)
    by_class = getattr(sf.optim, name)(model.parameters(), **ENGINE[engine])
    assert sf.optim.create(name.lower(), model, **ENGINE[engine]).options == by_class.options


def test_recipes_take_the_options():
    engine = {"clip_value": 0.5, "cautious": True, "ema": 0.75, "skip_nonfinite": True, "zero_grad_in_step": True}
    recipe = sf.Recipe(optimizer="adam", ema=0.75, options={k: v for k, v in engine.items() if k != "ema"})
    assert recipe.create_optimizer(nn.Linear(2, 2)).options == sf.optim.Options(**engine)
    assert sf.Recipe.from_toml(recipe.to_toml()).create_optimizer(nn.Linear(2, 2)).options.ema == 0.75
    with pytest.raises(sf.UserError, match="ema is a key of its own"):
        sf.Recipe(optimizer="adam", options=engine)


def test_recipes_clip_by_the_norm_with_a_key_of_their_own():
    assert sf.Recipe(clip_norm=0.5).create_optimizer(nn.Linear(2, 2)).options.clip_norm == Clip(0.5)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip_norm": 0}, "clip_norm=0: it must be a number above 0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0"),
        ({"clip_norm": math.nan}, "clip_norm=nan"),
        ({"clip_norm": "1"}, "clip_norm='1'"),
        ({"clip_norm": True}, "clip_norm=True"),
        ({"clip_value": 0}, "clip_value=0: it must be a number above 0"),
        ({"clip_value": -1}, "clip_value=-1"),
        ({"clip_value": math.nan}, "clip_value=nan"),
        ({"clip_value": lambda norms: 1.0}, "clip_value=<function"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "clip by norm or by value, not both"),
        ({"skip_nonfinite": 1}, "skip_nonfinite=1: it must be True or False"),
        ({"zero_grad_in_step": None}, "zero_grad_in_step=None"),
        ({"cautious": "yes"}, "cautious='yes'"),
        ({"ema": 0}, "ema=0: it must be a number between 0 and 1"),
        ({"ema": 1}, "ema=1"),
        ({"ema": -0.5}, "ema=-0.5"),
        ({"ema": math.nan}, "ema=nan"),
        ({"ema": True}, "ema=True"),
        ({"clip_nrom": 1.0}, "clip_nrom: did you mean clip_norm?"),
        ({"skip_nonfinte": True}, "skip_nonfinte: did you mean skip_nonfinite?"),
        ({"emma": 0.9}, "emma: did you mean ema?"),
        ({"weight_deacy": 0.1}, "weight_deacy: did you mean weight_decay?"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split(":")[0],
)
@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_named_with_the_class(name, options, words):
    with pytest.raises(sf.UserError) as error:
        getattr(sf.optim, name)([nn.Parameter(torch.ones(1))], **options)
    if name == "Rprop":  # which has no weight decay to suggest
        words = words.removesuffix(": did you mean weight_decay?")
    assert words in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_norm": 0}, "clip_norm=0"),
        ({"max_norm": 1.0, "norm_type": 1}, "norm_type=1: it must be 2 or infinity"),
        ({"max_norm": 1.0, "norm_type": "inf"}, "norm_type='inf'"),
    ],
)
def test_mistakes_in_a_clip_are_named(arguments, words):
    with pytest.raises(sf.UserError, match=words):
        Clip(**arguments)


@pytest.mark.parametrize(
    "option", ["clip_norm", "clip_value", "skip_nonfinite", "zero_grad_in_step", "cautious", "ema"]
)
def test_an_option_is_for_the_whole_optimizer_and_not_for_a_group(option):
    group = {"params": [nn.Parameter(torch.ones(1))], option: 0.5}
    with pytest.raises(sf.UserError, match=f"{option} is for the whole optimizer: give it to AdamW"):
        sf.optim.AdamW([group])
    opt = sf.optim.AdamW([nn.Parameter(torch.ones(1))])
    with pytest.raises(sf.UserError, match=option):
        opt.add_param_group(group)
    assert len(opt.param_groups) == 1


# --- torch.amp.GradScaler ------------------------------------------------------------------------------------------


class Scaled:
    """Ours and torch's, each under a scaler of its own."""

    def __init__(self, name: str, engine: dict, lr: float | Tensor = 0.05) -> None:
        torch.manual_seed(0)
        self.ours = [nn.Parameter(torch.randn(s)) for s in ((4, 3), (5,))]
        self.theirs = [nn.Parameter(p.detach().clone()) for p in self.ours]
        self.opt = getattr(sf.optim, name)(self.ours, **{**RICH[name], "lr": lr}, **engine)
        self.reference = getattr(torch.optim, name)(self.theirs, **RICH[name])
        self.scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) for _ in range(2)]

    def backward(self, seed: int, bad: float = 0.0) -> None:
        """Gradients times the scale, on both sides."""
        for params, scaler in zip((self.ours, self.theirs), self.scalers, strict=True):
            torch.manual_seed(seed)
            loss = sum((p * torch.randn_like(p)).sum() for p in params) + bad * params[1][0]
            for p in params:
                p.grad = None
            scaler.scale(loss).backward()

    def agree(self) -> None:
        torch.testing.assert_close(self.ours, self.theirs, rtol=1e-5, atol=1e-6)
        assert self.scalers[0].get_scale() == self.scalers[1].get_scale()
        assert not hasattr(self.opt, "grad_scale")
        assert not hasattr(self.opt, "found_inf")


LRS = [0.05, torch.tensor(0.05)]  # compiled, and as torch operations


@pytest.mark.parametrize("lr", LRS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_scale_is_removed_within_the_step(name, lr):
    sides = Scaled(name, {}, lr)
    for seed in range(5):  # the scale grows on the way
        sides.backward(seed, bad=math.inf if seed == 2 else 0.0)
        before = [p.grad.clone() for p in sides.ours]
        for scaler, optimizer in zip(sides.scalers, (sides.opt, sides.reference), strict=True):
            scaler.step(optimizer)
            scaler.update()
        sides.agree()
        torch.testing.assert_close([p.grad for p in sides.ours], before, rtol=0, atol=0, equal_nan=True)
        assert sides.opt.last.skipped == (seed == 2)
        if seed != 2:
            total = math.hypot(*(p.grad.norm().item() for p in sides.theirs))  # torch has unscaled them in place
            assert sides.opt.last.grad_norm == pytest.approx(total, rel=1e-5)
            assert list(sides.opt.last.grad_norms.values()) == pytest.approx(
                [p.grad.norm().item() for p in sides.theirs], rel=1e-5
            )


@pytest.mark.parametrize("lr", LRS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_under_a_loss_scale_it_is_the_true_norm_that_is_clipped(name, lr):
    sides = Scaled(name, {"clip_norm": 1.0}, lr)
    for seed in range(3):
        sides.backward(seed)
        sides.scalers[0].step(sides.opt)
        sides.scalers[1].unscale_(sides.reference)
        total = clip_grad_norm_(sides.theirs, 1.0).item()
        sides.scalers[1].step(sides.reference)
        for scaler in sides.scalers:
            scaler.update()
        sides.agree()
        assert sides.opt.last.grad_norm == pytest.approx(total, rel=1e-5)
        assert sides.opt.last.clip_factor == pytest.approx(1 / total, rel=1e-4)


def test_under_a_loss_scale_it_is_the_true_value_that_is_clipped():
    sides = Scaled("SGD", {"clip_value": 0.5})
    for seed in range(3):
        sides.backward(seed)
        sides.scalers[0].step(sides.opt)
        sides.scalers[1].unscale_(sides.reference)
        clip_grad_value_(sides.theirs, 0.5)
        sides.scalers[1].step(sides.reference)
        for scaler in sides.scalers:
            scaler.update()
        sides.agree()


@pytest.mark.parametrize("name", NAMES)
def test_unscaling_and_clipping_by_hand_work_as_well(name):
    """The scale must not be removed twice."""
    sides = Scaled(name, {})
    for seed in range(3):
        sides.backward(seed)
        for scaler, optimizer, params in zip(
            sides.scalers, (sides.opt, sides.reference), (sides.ours, sides.theirs), strict=True
        ):
            scaler.unscale_(optimizer)
            clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
        sides.agree()
        assert sides.opt.last.grad_norm == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_scaler_finds_is_skipped_and_the_scale_halved(name, bad):
    sides = Scaled(name, {"ema": 0.75, "clip_norm": 1.0})
    for seed in range(2):  # before the first step and after it
        sides.backward(seed, bad)
        before = [p.detach().clone() for p in sides.ours], sides.opt.state_dict()
        scale = sides.scalers[0].get_scale()
        sides.scalers[0].step(sides.opt)
        sides.scalers[0].update()
        assert sides.opt.last.skipped
        assert "infinity or a NaN" in sides.opt.last.reason
        assert sides.scalers[0].get_scale() == scale / 2
        assert same(([p.detach() for p in sides.ours], sides.opt.state_dict()), before)
        sides.backward(seed)
        sides.scalers[0].step(sides.opt)
        sides.scalers[0].update()
        assert sides.opt.last.stepped


def test_a_step_that_the_scaler_has_skipped_clears_gradients_as_well():
    """Else an infinity stayed in .grad for ever, and the scale went to zero."""
    sides = Scaled("SGD", {"zero_grad_in_step": True})
    sides.backward(0, math.inf)
    sides.scalers[0].step(sides.opt)
    assert not any(p.grad.any() for p in sides.ours)


def test_gradients_that_overflow_only_with_their_scale_are_measured_right():
    """The norm of the scaled gradient is beyond single precision, that of the gradient is not."""
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.full((4,), 2.0**126)
    opt = sf.optim.SGD([p], lr=1.0, clip_norm=10.0)
    opt.grad_scale = torch.tensor(2.0**126)
    opt.step()
    assert opt.last.grad_norm == 2.0
    assert p.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", [int, np.float32, np.int64, Fraction])
def test_any_real_number_is_an_option(kind):
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = sf.optim.SGD([w], lr=1.0, ema=np.float32(0.1), clip_value=kind(2))
    w.grad = torch.full_like(w, -5)
    opt.step()
    assert w.item() == 2
    assert opt.state[w]["ema"].item() == 2 * (1 - float(np.float32(0.1)))
    opt = sf.optim.SGD([w], lr=1.0, clip_norm=kind(2))
    w.grad = torch.full_like(w, 10)
    opt.step()
    assert w.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("factor", [math.nan, -1.0, math.inf])
def test_a_clip_functions_answer_must_make_sense(factor):
    w = nn.Parameter(torch.ones(2))
    opt = sf.optim.AdamW([w], clip_norm=lambda norms: factor)
    w.grad = torch.ones(2)
    with pytest.raises(sf.UserError, match="factors from 0 to below infinity"):
        opt.step()
    assert w.tolist() == [1, 1]
    assert not opt.state


def test_what_an_optimizer_shows_of_itself():
    w = nn.Parameter(torch.ones(2))
    assert "All groups" not in repr(sf.optim.SGD([w], lr=0.1))
    shown = repr(sf.optim.SGD([w], lr=0.1, clip_norm=2, ema=0.9))
    assert "clip_norm: Clip(max_norm=2" in shown
    assert "ema: 0.9" in shown
    assert "cautious" not in shown
