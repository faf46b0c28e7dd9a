"""The plan is used as long as it fits, and whatever a user changes between two steps is noticed."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import weakref
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from backends import reference_only
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine.lane import CHUNK

Change = Callable[[nn.Module, torch.optim.Optimizer], None]


class Model(nn.Module):
    """A square matrix, a vector, and a parameter that has no gradient until `awake`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.late = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.awake = False

    def groups(self) -> list[dict]:
        return [{"params": [self.w, self.b]}, {"params": [self.late], "lr": 0.02}]


def backward(model: Model, opt: torch.optim.Optimizer, seed: int) -> None:
    """New gradients, laid out as their parameters, for all that the optimizer holds."""
    torch.manual_seed(seed)
    for group in opt.param_groups:
        for p in group["params"]:
            here = p.requires_grad and (p is not model.late or model.awake)
            p.grad = torch.randn(p.shape, dtype=torch.float64).to(p.dtype) if here else None
            if here and p.dim() == 2 and not p.is_contiguous():
                p.grad = p.grad.t().contiguous().t()


def run(make: Callable[[list[dict]], torch.optim.Optimizer], change: Change) -> dict[str, Tensor]:
    """Parameters and states after three steps, a change, and three more."""
    model = Model()
    opt = make(model.groups())
    for seed in range(3):
        backward(model, opt, seed)
        opt.step()
    change(model, opt)
    for seed in range(3, 6):
        backward(model, opt, seed)
        opt.step()
    return results(model, opt)


def results(model: Model, opt: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All numbers, by the parameters' places."""
    params = [*model.parameters(), *(p for group in opt.param_groups for p in group["params"])]
    found = {f"parameter {i}": p.detach().clone() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        found |= {f"{name} of {i}": value.clone() for name, value in opt.state.get(p, {}).items() if value is not None}
    return found


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        torch.testing.assert_close(
            found,
            theirs[name],
            rtol=1e-12,
            atol=1e-14,
            check_dtype=name[:4] != "step",
            msg=lambda m, n=name: f"{n}: {m}",
        )


def is_compiled(opt: sf.optim.Optimizer) -> bool:
    return bool(opt._engine._plan.lanes) and not opt._engine._plan.items


# --- what a user may change between two steps; w has lr 0.1, and each change means the same to torch's optimizer -----


def nothing(model, opt):
    """Gradients are new tensors at each step."""


def wake(model, opt):
    """A first gradient, later than the others'."""
    model.awake = True


def replace_data(model, opt):
    model.w.data = torch.ones(4, 4, dtype=torch.float64)


def replace_data_in_another_layout(model, opt):
    model.w.data = model.w.data.t().contiguous().t()


def transpose_data_in_place(model, opt):
    """The address stays; the order of the elements does not."""
    model.w.data = model.w.data.t()


def write_data_in_place(model, opt):
    with torch.no_grad():
        model.w.copy_(torch.ones(4, 4))


def go_to_single_and_back(model, opt):
    model.to(torch.float32).to(torch.float64)


def swap_in_new_parameters(model, opt):
    """As `module.to` does under this flag of torch's."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    model.zero_grad()
    try:
        model.to(torch.float32).to(torch.float64)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def swap_tensors(model, opt):
    model.w.grad = None
    other = nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    torch.utils.swap_tensors(model.w, other)


def freeze(model, opt):
    model.b.requires_grad_(False)


def add_a_group(model, opt):
    model.extra = nn.Parameter(torch.ones(5, dtype=torch.float64))
    opt.add_param_group({"params": [model.extra], "lr": 0.3})


def replace_a_parameter(model, opt):
    model.w = nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    opt.param_groups[0]["params"][0] = model.w


def replace_the_lists_of_parameters(model, opt):
    opt.param_groups[0]["params"] = [model.w]


def move_a_parameter_to_the_next_group(model, opt):
    """The parameters, one after the other, are the same as before."""
    opt.param_groups[0]["params"], opt.param_groups[1]["params"] = [model.w], [model.b, model.late]


def reorder_groups(model, opt):
    opt.param_groups.reverse()


def clear_state(model, opt):
    opt.state.clear()


def clear_one_state(model, opt):
    del opt.state[model.w]


def replace_state(model, opt):
    opt.state = defaultdict(dict)


def replace_all_inner_dicts(model, opt):
    for p in list(opt.state):
        opt.state[p] = {name: value.clone() for name, value in opt.state[p].items()}


def states_of(model, opt) -> list[tuple[dict, str]]:
    return [(opt.state[model.w], name) for name in opt.state[model.w] if name != "step"]


def replace_state_tensors(model, opt):
    for kept, name in states_of(model, opt):
        kept[name] = torch.ones_like(kept[name])


def replace_data_of_states(model, opt):
    for kept, name in states_of(model, opt):
        kept[name].data = kept[name].data * 2


def write_states_in_place(model, opt):
    for kept, name in states_of(model, opt):
        kept[name].fill_(0.5)


def transpose_states_in_place(model, opt):
    for kept, name in states_of(model, opt):
        kept[name].data = kept[name].data.t()


def share_states(model, opt):
    for kept, name in states_of(model, opt):
        kept[name].share_memory_()


def share_everything(model, opt):
    """As training in several processes does (`SharedAdam`)."""
    model.share_memory()
    for kept in opt.state.values():
        for value in kept.values():
            value.share_memory_()


def share_steps(model, opt):
    """Their memory moves, and what lay there before is free for others to write."""
    for kept in opt.state.values():
        if "step" in kept:
            kept["step"].share_memory_()
    model.others = [torch.full((4,), 1e6) for _ in range(1000)]


def replace_step(model, opt):
    if "step" in opt.state[model.w]:
        opt.state[model.w]["step"] = torch.tensor(10.0)


def fill_step(model, opt):
    if "step" in opt.state[model.w]:
        opt.state[model.w]["step"].fill_(10)


def replace_data_of_step(model, opt):
    if "step" in opt.state[model.w]:
        opt.state[model.w]["step"].data = torch.tensor(10.0)


def load_own_state(model, opt):
    """One of after the first step, into the optimizer as it is now."""
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))


def load_weights(model, opt):
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})


def assign_weights(model, opt):
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()}, assign=True)
    opt.param_groups[0]["params"][:] = [model.w, model.b]
    opt.param_groups[1]["params"][:] = [model.late]


def change_rate(model, opt):
    opt.param_groups[0]["lr"] = 0.5


def change_decay(model, opt):
    opt.param_groups[0]["weight_decay"] = 0.5


def change_betas(model, opt):
    opt.param_groups[0].update({"betas": (0.5, 0.6)} if "betas" in opt.param_groups[0] else {"momentum": 0.5})


def turn_round(model, opt):
    opt.param_groups[0]["maximize"] = True


def rate_becomes_a_tensor(model, opt):
    for group in opt.param_groups:
        group["lr"] = torch.tensor(0.05, dtype=torch.float64)


CHANGES = [
    nothing, wake, replace_data, replace_data_in_another_layout, transpose_data_in_place, write_data_in_place,
    go_to_single_and_back, swap_in_new_parameters, swap_tensors, freeze, add_a_group, replace_a_parameter,
    replace_the_lists_of_parameters, move_a_parameter_to_the_next_group, reorder_groups, clear_state, clear_one_state,
    replace_state, replace_all_inner_dicts, replace_state_tensors, replace_data_of_states, write_states_in_place,
    transpose_states_in_place, share_states, share_everything, share_steps, replace_step, fill_step,
    replace_data_of_step, load_own_state, load_weights, assign_weights, change_rate, change_decay, change_betas,
    turn_round, rate_becomes_a_tensor,
]  # fmt: skip
OPTIMIZERS = {
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_change_between_steps_means_what_it_means_to_torch(name, change):
    ours, theirs = (run(lambda g, m=m: getattr(m.optim, name)(g, **OPTIMIZERS[name]), change) for m in (sf, torch))
    assert_same(ours, theirs)


# --- changes that torch's optimizer has not, or refuses: the same as in the reference backend ------------------------


def switch_momentum_on(model, opt):
    opt.param_groups[0]["momentum"] = 0.9


def switch_momentum_on_for_those_without_gradient(model, opt):
    """Their first buffer is then their first gradient, undampened, even if the plan is made anew before."""
    late, model.awake = model.late, False
    opt.param_groups[1]["momentum"] = 0.9
    backward(model, opt, 50)
    opt.step()
    opt.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.float64))]})
    backward(model, opt, 51)
    opt.step()
    assert late is model.late
    model.awake = True


def factors(model, opt):
    opt.param_groups[0]["lr_factors"] = [0.5, 2.0]
    opt.param_groups[0]["decay_factors"] = [3.0, 0.0]


def other_options(model, opt):
    opt.options = dataclasses.replace(opt.options, clip_value=0.5)


def state_in_half_precision(model, opt):
    """At the same address: a kernel that took it for doubles would write past its end."""
    kept = opt.state[model.w]
    half = kept["momentum_buffer"].view(torch.float16).view(-1)[:16].view(4, 4)
    kept["momentum_buffer"] = half.copy_(kept["momentum_buffer"].to(torch.float16))


def stay_in_single(model, opt):
    """The states stay in double precision."""
    model.to(torch.float32)


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ({}, switch_momentum_on),
        ({"ema": 0.9, "dampening": 0.5}, switch_momentum_on),
        ({"ema": 0.9, "dampening": 0.5}, switch_momentum_on_for_those_without_gradient),
        ({"momentum": 0.9, "weight_decay": 0.1}, factors),
        ({"momentum": 0.9}, other_options),
        ({"momentum": 0.9}, state_in_half_precision),
        ({"momentum": 0.9}, stay_in_single),
    ],
)
def test_a_change_between_steps_means_what_it_means_to_the_reference(start, change):
    def changed(model, opt):
        if "ema" in start:  # so that it has a state
            model.awake = True
            backward(model, opt, 40)
            opt.step()
        change(model, opt)

    ours = run(lambda groups: sf.optim.SGD(groups, lr=0.1, **start), changed)
    with reference_only():
        theirs = run(lambda groups: sf.optim.SGD(groups, lr=0.1, **start), changed)
    assert_same(ours, theirs)


# --- gradients of another kind for one step -------------------------------------------------------------------------


def sparse(grad: Tensor) -> Tensor:
    return grad.to_sparse()


def expanded(grad: Tensor) -> Tensor:
    return grad[:1].expand(4, 4)


def transposed(grad: Tensor) -> Tensor:
    return grad.t().contiguous().t()


def subclass(grad: Tensor) -> Tensor:
    return grad.as_subclass(type("Marked", (Tensor,), {}))


def missing(grad: Tensor) -> None:
    return None


@pytest.mark.parametrize("kind", [sparse, expanded, transposed, subclass, missing])
@pytest.mark.parametrize("engine", [{}, {"clip_norm": 0.5, "skip_nonfinite": True}], ids=["plain", "clipped"])
def test_a_gradient_of_another_kind_for_one_step(kind, engine):
    def scenario() -> dict[str, Tensor]:
        model = Model()
        opt = sf.optim.AdamW(model.groups(), lr=0.1, **engine)
        for seed in range(4):
            backward(model, opt, seed)
            if seed == 2:
                model.w.grad = kind(model.w.grad)
            opt.step()
        return results(model, opt)

    ours = scenario()
    with reference_only():
        assert_same(ours, scenario())


def test_a_gradient_of_another_precision():
    def scenario() -> dict[str, Tensor]:
        model = Model()
        model.float()
        model.w.grad_dtype = None  # any
        opt = sf.optim.SGD(model.groups(), lr=0.1, momentum=0.9)
        for seed in range(4):
            backward(model, opt, seed)
            if seed > 1:
                model.w.grad = model.w.grad.double()
            opt.step()
        return results(model, opt)

    ours = scenario()
    with reference_only():
        theirs = scenario()
    for name, found in ours.items():
        torch.testing.assert_close(found, theirs[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("of", ["parameter", "state"])
def test_a_tensor_of_another_size_is_an_error_and_not_a_write_past_its_end(of):
    model = Model()
    opt = sf.optim.SGD(model.groups(), lr=0.1, momentum=0.9)
    backward(model, opt, 0)
    opt.step()
    tensor = model.b if of == "parameter" else opt.state[model.b]["momentum_buffer"]
    tensor.data = tensor.data[:2]  # at the same address
    before = results(model, opt)
    with pytest.raises((RuntimeError, sf.UserError)):
        opt.step()
    assert results(model, opt)["parameter 1"].tolist() == before["parameter 1"].tolist()


def test_a_shared_step_count_stays_shared():
    """Processes that train one model together count its steps together, if their states were shared before."""
    (p,) = many(1)
    opt = sf.optim.Adam([p])
    opt.state[p].update(step=torch.tensor(0.0), exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3))
    mine = [value.share_memory_() for value in opt.state[p].values()]
    for _ in range(2):
        opt.step()
    assert mine[0].item() == 2
    assert all(value.is_shared() for value in opt.state[p].values())


# --- the plan itself ------------------------------------------------------------------------------------------------


def many(n: int, size: int = 3, dtype=torch.float32) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(size, dtype=dtype)) for _ in range(n)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def test_the_plan_is_kept_while_nothing_moves():
    params = many(5)
    opt = sf.optim.AdamW([{"params": [p]} for p in params], clip_norm=1.0)
    opt.step()
    plan = opt._engine._plan
    for i in range(5):
        for p in params:
            p.grad = torch.randn_like(p)
        params[i].grad = None  # a gradient may be missing
        opt.param_groups[0].update(lr=0.1 * i, betas=(0.5, 0.1 * i), weight_decay=0.1 * i, maximize=i % 2 == 1)
        opt.step()
        assert opt._engine._plan is plan


def test_a_skipped_step_keeps_the_plan_and_a_skipped_first_step_leaves_no_state():
    (p,) = many(1)
    opt = sf.optim.AdamW([p], skip_nonfinite=True, ema=0.9)
    p.grad[0] = torch.nan
    opt.step()
    assert opt.last.skipped
    assert not opt.state.get(p)
    p.grad = torch.ones(3)
    opt.step()
    plan = opt._engine._plan
    p.grad = torch.full((3,), torch.nan)
    opt.step()
    assert opt.state[p]["step"] == 1
    p.grad = torch.ones(3)
    opt.step()
    assert opt._engine._plan is plan
    assert opt.state[p]["step"] == 2


@pytest.mark.parametrize(
    ("engine", "passes"), [({}, 1), ({"clip_norm": 1.0}, 2), ({"clip_norm": 1.0, "cautious": True}, 3)]
)
def test_all_groups_are_one_launch(engine, passes, launches):
    params = many(50)
    opt = sf.optim.AdamW([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)], **engine)
    opt.step()
    launches.clear()
    opt.step()
    assert len(launches) == passes
    (lane,) = opt._engine._plan.lanes
    assert [id(item.p) for item in lane.items] == [id(p) for p in params]


def test_a_lane_for_each_rule_and_precision(launches):
    plain, double, momentum = many(3), many(2, dtype=torch.float64), many(4)
    half = many(1, dtype=torch.bfloat16)
    groups = [{"params": [*plain, *double, *half]}, {"params": momentum, "momentum": 0.9}]
    opt = sf.optim.SGD(groups, lr=0.1)
    opt.step()
    assert len(launches) == 4
    forms = [(lane.form.rule.name, lane.form.stored[0]) for lane in opt._engine._plan.lanes]
    members = [[id(item.p) for item in lane.items] for lane in opt._engine._plan.lanes]
    assert dict(zip(forms, members, strict=True)) == {
        ("SGD", "float32"): [id(p) for p in plain],
        ("SGD", "float64"): [id(p) for p in double],
        ("SGD", "bfloat16"): [id(p) for p in half],
        ("SGD with heavy-ball momentum", "float32"): [id(p) for p in momentum],
    }
    assert opt._engine._plan.items == []


def test_factors_for_each_parameter_are_as_separate_groups():
    lr_factors, decay_factors = [0.5, 1.0, 3.0], [0.0, 2.0, 1.0]
    torch.manual_seed(1)
    ours = many(3, CHUNK + 1)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    together = sf.optim.AdamW(
        [{"params": ours, "lr_factors": lr_factors, "decay_factors": decay_factors}], lr=0.1, weight_decay=0.2
    )
    apart = sf.optim.AdamW(
        [
            {"params": [p], "lr": 0.1 * lr_factor, "weight_decay": 0.2 * decay_factor}
            for p, lr_factor, decay_factor in zip(theirs, lr_factors, decay_factors, strict=True)
        ]
    )
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        together.step()
        apart.step()
    assert is_compiled(together)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


# --- what is held ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0, "skip_nonfinite": True}], ids=["plain", "measured"])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_no_gradient_is_kept_alive(engine, read):
    """Not by the plan and not by the report, of whichever backend."""
    strided = nn.Parameter(torch.randn(6)[::2])
    strided.grad = torch.randn(3)
    params = [*many(3), strided]
    opt = sf.optim.AdamW(params, **engine)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn_like(p)
        opt.step()
    grads = [weakref.ref(p.grad) for p in params]
    report = opt.last
    if read:
        assert len(report.grad_norms) == len(report.update_ratio) == 4
    opt.zero_grad()
    del p
    gc.collect()
    assert [ref() for ref in grads] == [None] * 4
    assert report.grad_norm > 0


def test_parameters_and_states_are_let_go_with_the_optimizer():
    params = many(3)
    opt = sf.optim.AdamW(params)
    opt.step()
    refs = [weakref.ref(p) for p in params] + [weakref.ref(opt.state[p]["exp_avg"]) for p in params]
    del params, opt
    gc.collect()
    assert [ref() for ref in refs] == [None] * 6


def test_a_clip_function_is_let_go_with_the_optimizer():
    """It may hold a whole model."""
    (p,) = many(1)
    held = nn.Linear(1, 1)
    opt = sf.optim.SGD([p], lr=0.1, clip_norm=lambda norms, held=held: 1.0)
    opt.step()
    assert is_compiled(opt)
    ref = weakref.ref(held)
    del held, opt
    gc.collect()
    assert ref() is None


@dataclasses.dataclass
class Half:
    """A clip function that, as an instance of a plain dataclass, has no hash."""

    share: float = 0.5

    def __call__(self, norms: sf.optim.Norms) -> float:
        return self.share


def test_a_clip_function_needs_no_hash():
    (p,) = many(1)
    p.data.zero_()
    p.grad.fill_(1)
    opt = sf.optim.SGD([p], lr=1.0, clip_norm=Half())
    opt.step()
    opt.step()
    assert is_compiled(opt)
    assert p.tolist() == [-1.0] * 3


def kilobytes(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's account of memory")
@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0, "skip_nonfinite": True}], ids=["plain", "measured"])
def test_a_step_needs_no_memory_of_its_own(engine):
    """No temporary of a tensor's size, and nothing that piles up: the tensors here have 8 MB each."""
    params = many(3, 2**21)
    opt = sf.optim.AdamW(params, ema=0.9, **engine)
    for _ in range(3):
        opt.step()
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted from here on
    before = kilobytes("VmRSS")
    for _ in range(50):
        opt.step()
    assert kilobytes("VmHWM") - before < 2048
    assert kilobytes("VmRSS") - before < 2048
