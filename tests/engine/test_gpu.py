"""The GPU's kernels do what the CPU's do: on a GPU where there is one, else through Triton's interpreter."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from backends import on_gpu
from cases import ALL, IDS, MORE, MORE_IDS
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import gpu
from surefoot.engine.cpu import CpuLane
from surefoot.engine.gpu import GpuLane
from surefoot.engine.lane import CHUNK
from surefoot.optim import Clip

FULL, HALVES = [torch.float32, torch.float64], [torch.bfloat16, torch.float16]
OPTIONS = {
    "none": {},
    "norm": {"clip_norm": 0.5},
    "largest": {"clip_norm": Clip(0.1, norm_type=math.inf)},
    "per group": {"clip_norm": Clip(0.5, per_group=True)},
    "largest per group": {"clip_norm": Clip(0.1, norm_type=math.inf, per_group=True)},
    "function": {"clip_norm": lambda norms: 1 / (1 + norms.total)},
    "value": {"clip_value": 0.5},
    "skipping": {"skip_nonfinite": True},
    "cautious": {"cautious": True},
    "ema": {"ema": 0.75},
    "clearing": {"zero_grad_in_step": True},
    "narrow states": {"state_dtype": "bf16"},
    "master": {"master_weights": True},
    "by chance": {"rounding": "stochastic", "rounding_seed": 3, "state_dtype": "fp16"},
    "all": {
        "clip_norm": 1.0, "skip_nonfinite": True, "cautious": True, "ema": 0.5, "zero_grad_in_step": True,
        "rounding": "stochastic", "master_weights": True, "state_dtype": "fp32",
    },
}  # fmt: skip
SHAPES = [(190, 3), (5,), (0,), (), (4, 3, 2, 2)]


class Sides:
    """The same parameters on the GPU and on the CPU, in two groups, and an optimizer for each side."""

    def __init__(self, name: str, options: dict, dtype: torch.dtype, shapes=SHAPES) -> None:
        torch.manual_seed(0)
        self.on_cpu = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
        with on_gpu() as device:
            self.on_gpu = [nn.Parameter(p.detach().to(device, copy=True)) for p in self.on_cpu]
        self.opts = []
        for params in (self.on_gpu, self.on_cpu):
            groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1, "lr": 0.02}]
            self.opts.append(getattr(sf.optim, name)(groups, **options))

    def give(self, seed: int, missing=()) -> None:
        """New gradients, but for some parameters."""
        torch.manual_seed(seed)
        for i, (p, q) in enumerate(zip(self.on_cpu, self.on_gpu, strict=True)):
            g = torch.randn(p.shape).to(p.dtype)
            p.grad, q.grad = (None, None) if i in missing else (g, g.to(q.device, copy=True))

    def step(self) -> None:
        with on_gpu():
            self.opts[0].step()
        self.opts[1].step()

    def agree(self, exactly=False) -> None:
        """Parameters, gradients and states are alike, and all on their backends."""
        assert all(type(lane) is GpuLane for lane in self.opts[0]._engine._plan.lanes)
        assert all(type(lane) is CpuLane for lane in self.opts[1]._engine._plan.lanes)
        assert not any(opt._engine._plan.items for opt in self.opts)
        for p, q in zip(self.on_cpu, self.on_gpu, strict=True):
            kept = [self.opts[1].state.get(p, {}), self.opts[0].state.get(q, {})]
            assert kept[0].keys() == kept[1].keys()
            pairs = {"parameter": (p, q), **{key: (kept[0][key], kept[1][key]) for key in kept[0]}}
            pairs |= {"gradient": (p.grad, q.grad)} if p.grad is not None else {}
            # the last digits of the arithmetic may differ, and then rounding to half precision may go the other way
            eps = max(torch.finfo(a.dtype).eps for key, (a, _) in pairs.items() if key != "step")
            for key, (a, b) in pairs.items():
                same(a.detach(), b.detach().cpu(), key, 0 if exactly else 8 * eps)

    def tell(self) -> None:
        """Their reports are alike."""
        ours, theirs = (opt.last for opt in self.opts)
        assert ours.reason == theirs.reason
        assert ours.clip_factors == pytest.approx(theirs.clip_factors, nan_ok=True)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, nan_ok=True)
        for name in ("grad_norms", "update_ratio", "cosine"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-3, abs=1e-6, nan_ok=True)


def same(a: Tensor, b: Tensor, what: str, near: float) -> None:
    if what == "step":
        assert a.item() == b.item()
        return
    assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), what
    size = a.nan_to_num().abs().max().item() if a.numel() else 0.0
    assert torch.allclose(a, b, rtol=near, atol=near * size, equal_nan=True), what


EVERY = dict(zip([*IDS, *MORE_IDS], [*ALL, *MORE], strict=True))
EVERY = {id: case for id, case in EVERY.items() if case[0] != "Muon"}  # for matrices alone: tests/optim/test_muon.py


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_every_optimizer(case):
    sides = Sides(case[0], case[1], torch.float32)
    for seed in range(2):
        sides.give(seed)
        sides.step()
        sides.agree()
        sides.tell()


@pytest.mark.parametrize(
    ("name", "dtype"), [*(("AdamW", dtype) for dtype in (*FULL, *HALVES)), ("SGD", torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option(name, options, dtype):
    if dtype == torch.float64 and "state_dtype" in options:
        pytest.skip("states in single precision of parameters in double are no lane's")
    given = {"momentum": 0.9, "dampening": 0.5, "nesterov": False, "lr": 0.1} if name == "SGD" else {}
    sides = Sides(name, {**given, **options}, dtype)
    for seed in range(2):
        sides.give(seed)
        sides.step()
        sides.agree()
        sides.tell()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_chance_is_the_same_on_both(dtype):
    """Where the arithmetic leaves no choice, so does it: one subtraction."""
    sides = Sides("SGD", {"lr": 0.125, "rounding": "stochastic", "rounding_seed": 5}, dtype)
    for group in (group for opt in sides.opts for group in opt.param_groups):
        group["lr"], group["weight_decay"] = 0.125, 0.0
    for seed in range(4):
        sides.give(seed)
        sides.step()
        sides.agree(exactly=True)


def test_tensors_of_several_chunks_and_memory_without_alignment():
    sides = Sides("AdamW", {"clip_norm": 1.0}, torch.float32, shapes=[(CHUNK + 700,), (600,), (3,)])
    for params in (sides.on_cpu, sides.on_gpu):
        whole = torch.zeros(1201, device=params[1].device)
        params[1].data = whole[1:601].copy_(params[1].data)
    for seed in range(2):
        sides.give(seed)
        whole = torch.zeros(1201, device=sides.on_gpu[0].device)
        sides.on_gpu[1].grad = whole[3:603].copy_(sides.on_gpu[1].grad)
        sides.step()
        sides.agree()
        sides.tell()


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "zero_grad_in_step": True}], ids=["plain", "measured"])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_who_has_no_gradient_does_not_move_and_is_not_counted(name, options):
    sides = Sides(name, {**options, **({"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {})}, torch.float32)
    for seed, missing in enumerate([(), (1,), (0, 2, 3), range(5), (), (4,)]):
        sides.give(seed, missing)
        sides.step()
        sides.agree()
        sides.tell()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("skip", [True, False])
def test_what_is_no_number(skip, largest, bad):
    """Skipped if asked; else it goes into the parameters, as in torch."""
    clip = Clip(1.0, norm_type=math.inf) if largest else 1.0
    sides = Sides("AdamW", {"clip_norm": clip, "skip_nonfinite": skip, "zero_grad_in_step": True}, torch.float32)
    sides.give(0)
    sides.step()
    sides.give(1)
    for params in (sides.on_cpu, sides.on_gpu):
        params[4].grad[1, 1] = bad
    sides.step()
    assert sides.opts[0].last.skipped == skip
    assert ("group 1, parameter 2" in sides.opts[0].last.reason) == skip
    sides.agree()
    sides.tell()
    if skip:
        sides.give(2)
        sides.step()
        sides.agree()


def test_a_huge_gradient_is_no_reason_to_skip():
    sides = Sides("SGD", {"skip_nonfinite": True, "lr": 0.1}, torch.float64)
    sides.give(0)
    for params in (sides.on_cpu, sides.on_gpu):
        params[0].grad[1, 1] = 1e200  # its square is infinite
    sides.step()
    assert sides.opts[0].last.stepped
    sides.agree()


def test_a_first_step_that_is_skipped_counts_for_nothing():
    sides = Sides("SGD", {"momentum": 0.9, "dampening": 0.5, "skip_nonfinite": True, "lr": 0.1}, torch.float32)
    for seed in range(3):
        sides.give(seed)
        if seed == 0:
            for params in (sides.on_cpu, sides.on_gpu):
                params[0].grad[0, 0] = math.nan
        sides.step()
    sides.agree()


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_loss_scaler_is_heard(found):
    sides = Sides("AdamW", {"clip_norm": 1.0, "zero_grad_in_step": True}, torch.float32)
    for seed, overflow in enumerate([0.0, found, 0.0]):
        sides.give(seed)
        for p in (*sides.on_cpu, *sides.on_gpu):
            p.grad *= 1024
        for opt, params in zip(sides.opts, (sides.on_gpu, sides.on_cpu), strict=True):
            opt.grad_scale = torch.full((), 1024.0, device=params[0].device)
            opt.found_inf = torch.full((), overflow, device=params[0].device)
        sides.step()
        for opt in sides.opts:
            opt.grad_scale *= 2  # what the scaler does before anybody reads the report
        sides.agree()
        assert sides.opts[0].last.skipped == bool(overflow)
        if overflow:
            assert sides.opts[0].last.reason == sides.opts[1].last.reason
        else:
            sides.tell()


def test_tensors_may_be_hyper_parameters():
    """So that a captured step follows them."""
    sides = Sides("AdamW", {"lr": 1e-2}, torch.float32)
    device = sides.on_gpu[0].device
    rates = [torch.tensor(1e-2, device=device, dtype=torch.float64), torch.tensor(2e-2, device=device)]
    for group, rate in zip(sides.opts[0].param_groups, rates, strict=True):
        group["lr"], group["betas"] = rate, (torch.tensor(0.9, device=device, dtype=torch.float64), 0.999)
    for seed in range(3):
        for rate in rates:
            rate /= 2
        for group in sides.opts[1].param_groups:
            group["lr"] /= 2
        sides.give(seed)
        sides.step()
        sides.agree()


def test_factors_of_parameters():
    sides = Sides("AdamW", {}, torch.float32)
    for opt in sides.opts:
        opt.param_groups[1].update(lr_factors=[0.5, 1, 1, 2], decay_factors=[0, 1, 1, 3])
    for seed in range(2):
        sides.give(seed)
        sides.step()
        sides.agree()


def test_several_kinds_of_parameter_share_one_norm():
    """Each has a lane of its own, and what it measures is put together where it is."""
    sides = Sides("AdamW", {"clip_norm": 0.5, "skip_nonfinite": True}, torch.float32)
    for params in (sides.on_cpu, sides.on_gpu):
        params[0].data, params[4].data = params[0].data.bfloat16(), params[4].data.double()
    for seed in range(2):
        sides.give(seed)
        sides.step()
        assert len(sides.opts[0]._engine._plan.lanes) == 3
        sides.agree()
        sides.tell()


def test_states_go_from_one_to_the_other_and_back():
    """The CPU's checkpoint goes on on the GPU, and the GPU's on the CPU, as if nothing had happened."""
    sides, straight = (Sides("Adam", {"ema": 0.9, "amsgrad": True}, torch.float32) for _ in range(2))
    for seed in range(4):
        for each in (sides, straight):
            each.give(seed)
            each.step()
        saved = [opt.state_dict() for opt in sides.opts]
        for state in saved:
            assert all(kept["step"].dim() == 0 for kept in state["state"].values())
        sides.agree()
        sides.opts[0].load_state_dict(saved[1])
        sides.opts[1].load_state_dict(saved[0])
    for a, b in zip(sides.on_cpu + sides.on_gpu, straight.on_cpu + straight.on_gpu, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert sides.opts[0].state_dict("torch")["state"][0]["step"].dtype == torch.float32
    theirs = torch.optim.Adam(sides.on_gpu, amsgrad=True)
    state = sides.opts[0].state_dict("torch")
    merged = {**state, "param_groups": [{**state["param_groups"][0], "params": list(range(len(SHAPES)))}]}
    theirs.load_state_dict(merged)
    theirs.step()


def test_a_copy_goes_on_alike():
    sides = Sides("AdamW", {"clip_norm": 1.0}, torch.float32)
    sides.give(0)
    sides.step()
    params, opt = copy.deepcopy((sides.on_gpu, sides.opts[0]))
    sides.give(1)
    with on_gpu():
        for p, q in zip(params, sides.on_gpu, strict=True):
            p.grad = q.grad.clone()
        opt.step()
    sides.step()
    for p, q in zip(params, sides.on_gpu, strict=True):
        assert torch.equal(p, q)


def test_nothing_is_waited_for(monkeypatch):
    """Where all is on the device, a step reads nothing from there; the report reads it later."""
    sides = Sides("AdamW", {"clip_norm": 1.0, "skip_nonfinite": True, "ema": 0.9, "cautious": True}, torch.float32)
    sides.give(0)
    sides.step()
    sides.give(1)
    sides.opts[0].grad_scale = torch.full((), 2.0, device=sides.on_gpu[0].device)
    sides.opts[0].found_inf = torch.zeros((), device=sides.on_gpu[0].device)

    def waits(*_):
        raise AssertionError("a step has read from the device")

    with on_gpu(), monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
            patch.setattr(Tensor, name, waits)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        try:
            sides.opts[0].step()
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
    assert sides.opts[0].last.stepped
    assert sides.opts[0].last.grad_norm > 0


def test_numbers_are_sent_only_where_they_have_changed(monkeypatch):
    sides = Sides("AdamW", {}, torch.float32)
    sides.give(0)
    sides.step()
    sent = []
    real = gpu.sent
    monkeypatch.setattr(gpu, "sent", lambda values, device: sent.append(values.shape) or real(values, device))
    sides.step()
    assert not sent
    sides.opts[0].param_groups[0]["lr"] = sides.opts[1].param_groups[0]["lr"] = 0.5
    sides.step()
    assert len(sent) == 1
    for params in (sides.on_cpu, sides.on_gpu):
        params[0].grad = params[0].grad.clone()
    sides.step()
    assert len(sent) == 2
    sides.agree()


def test_a_captured_step_keeps_its_own_numbers(monkeypatch):
    """A graph's replays must find what was known when it was captured, whatever was sent since."""
    sides = Sides("AdamW", {"clip_norm": 1.0}, torch.float32)
    for seed in range(4):
        sides.give(seed)
        with on_gpu(), monkeypatch.context() as patch:
            if seed in (1, 2):
                patch.setattr(gpu, "capturing", lambda: True)
                patch.setattr(gpu, "sent", lambda *_: pytest.fail("sent while a graph was captured"))
            sides.opts[0].step()
        sides.opts[1].step()
        sides.agree()


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "take a few steps before"), ({"clip_norm": lambda norms: 1.0}, "a clip function")],
    ids=["first", "function"],
)
def test_a_step_that_a_graph_cannot_hold_is_refused_and_moves_nothing(options, words, monkeypatch):
    sides = Sides("AdamW", options, torch.float32)
    sides.give(0)
    if options:
        sides.step()
    before = [p.detach().clone() for p in sides.on_gpu]
    monkeypatch.setattr(gpu, "capturing", lambda: True)
    with pytest.raises(sf.UserError, match=words), on_gpu():
        sides.opts[0].step()
    assert all(torch.equal(a, b) for a, b in zip(before, sides.on_gpu, strict=True))


@pytest.mark.parametrize("kind", [np.int64, np.float64])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 100), (128,)])
def test_numbers_can_be_placed_by_kernels(kind, shape):
    values = (np.random.default_rng(0).standard_normal(shape) * 1e12).astype(kind)
    with on_gpu() as device:
        assert np.array_equal(gpu.place(values, device).cpu().numpy(), values)


def test_a_rule_without_a_source_file_runs_as_torch_operations(caplog):
    """As one typed into an interpreter: Triton wants to read it."""
    import dataclasses

    from surefoot.rules.sgd import sgd

    names: dict = {}
    exec("def direction(g, p):\n    return (g,)", names)

    class Typed(sf.optim.SGD):
        def rule(self, group):
            return rule

    rule = dataclasses.replace(sgd, direction=names["direction"])
    with on_gpu() as device:
        p = nn.Parameter(torch.ones(3, device=device))
        p.grad = torch.ones_like(p)
        opt = Typed([p], lr=0.5)
        opt.step()
    assert not opt._engine._plan.lanes
    assert p.tolist() == [0.5] * 3
    assert "no source file" in caplog.text


def test_where_triton_does_not_run_torch_operations_do(monkeypatch, caplog):
    gpu.works.cache_clear()
    monkeypatch.setattr(gpu, "place", lambda *_: (_ for _ in ()).throw(RuntimeError("no C compiler")))
    with on_gpu() as device:
        p = nn.Parameter(torch.ones(3, device=device))
        p.grad = torch.ones_like(p)
        sf.optim.SGD([p], lr=0.5).step()
    gpu.works.cache_clear()
    assert p.tolist() == [0.5] * 3
    assert "no C compiler" in caplog.text
