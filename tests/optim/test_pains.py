"""Where torch.optim hurts, and that ours does not. Where it is cheap, each test shows the pain in torch, too.

The pains and their numbers are those of a survey of issue trackers (P-13 and so on); each docstring says what it is.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import math
import pickle
import subprocess
import sys

import pytest
import torch
from cases import CASES
from test_options import same
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import threads

NAMES = list(CASES)


def pair(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    """Two parameters of one shape, which only their names tell apart."""
    return {"a": nn.Parameter(torch.ones(2, dtype=dtype)), "b": nn.Parameter(torch.full((2,), 2.0, dtype=dtype))}


def stepped(module, params: dict[str, nn.Parameter], name: str = "Adam", steps: int = 1, **options):
    """An optimizer that has seen gradients of 1 for a, and of 10 for b."""
    opt = getattr(module, name)(params.items(), **options)
    for _ in range(steps):
        for key, p in params.items():
            p.grad = torch.full_like(p, 1.0 if key == "a" else 10.0)
        opt.step()
    return opt


# --- P-13: reordered parameters swap their states ------------------------------------------------------------------


def test_p13_states_follow_the_names_of_their_parameters():
    """P-13: torch matches states by position, also where both sides have names, and takes the checkpoint's names."""
    for module, swapped in ((torch.optim, True), (sf.optim, False)):
        saved = stepped(module, pair()).state_dict()
        params = pair()
        opt = module.Adam([("b", params["b"]), ("a", params["a"])])
        opt.load_state_dict(saved)
        moments = {name: opt.state[p]["exp_avg"][0].item() for name, p in params.items()}
        assert moments == pytest.approx({"a": 1.0, "b": 0.1} if swapped else {"a": 0.1, "b": 1.0})
        assert (opt.param_groups[0]["param_names"] == ["a", "b"]) == swapped


# --- P-14: nothing is checked --------------------------------------------------------------------------------------


def test_p14_a_state_of_another_shape_is_refused():
    """P-14: in torch a state of 4 elements loads into a parameter of 9."""
    for module in (torch.optim, sf.optim):
        p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 3))
        p.grad = torch.ones(2, 2)
        opt, other = module.Adam([p]), module.Adam([q])
        opt.step()
        if module is torch.optim:
            other.load_state_dict(opt.state_dict())
            assert other.state[q]["exp_avg"].shape == (2, 2)
        else:
            with pytest.raises(sf.UserError, match=r"shape \(2, 2\), the parameter \(3, 3\)"):
                other.load_state_dict(opt.state_dict())
            assert not other.state


def test_p14_a_state_of_another_algorithm_is_refused_when_it_is_loaded():
    """P-14: torch notices by a KeyError, when the optimizer is already spoilt."""
    for module in (torch.optim, sf.optim):
        saved = stepped(module, pair(), "SGD", momentum=0.9).state_dict()
        params = pair()
        opt = stepped(module, params, "Adam")
        if module is torch.optim:
            with pytest.raises(KeyError, match="step"):
                opt.load_state_dict(saved)
            with pytest.raises(KeyError):
                opt.step()
        else:
            with pytest.raises(sf.UserError, match="the checkpoint is not of Adam"):
                opt.load_state_dict(saved)
            opt.step()  # nothing is spoilt
            assert opt.state[params["a"]]["step"] == 2


def test_p14_a_checkpoint_does_not_turn_adam_into_adamw():
    """P-14: an AdamW checkpoint makes torch's Adam decay in AdamW's way."""
    for module, turned in ((torch.optim, True), (sf.optim, False)):
        opt = stepped(module, pair(), "Adam")
        opt.load_state_dict(stepped(module, pair(), "AdamW").state_dict())
        assert opt.param_groups[0]["decoupled_weight_decay"] == turned


# --- P-15: loading overrides what the constructor was told ---------------------------------------------------------


def test_p15_loading_leaves_flags_and_what_is_to_be_kept():
    """P-15: in torch `AdamW(fused=True, lr=9e-3)` becomes fused=None, lr=1e-3."""
    for module, arguments in ((torch.optim, {}), (sf.optim, {"keep": ("lr",)})):
        saved = stepped(module, pair(), "AdamW").state_dict()
        opt = module.AdamW(pair().items(), lr=9e-3, fused=True)
        opt.load_state_dict(saved, **arguments)
        found = (opt.param_groups[0]["fused"], opt.param_groups[0]["lr"])
        assert found == ((None, 1e-3) if module is torch.optim else (True, 9e-3))


# --- P-16: loading casts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_p16_moments_keep_their_precision(dtypes):
    """P-16: torch casts moments to the parameter's dtype, which loses 16 of 24 bits or doubles the memory."""
    parameter, moment = dtypes
    for module, cast in ((torch.optim, True), (sf.optim, False)):
        params = pair(parameter)
        opt = stepped(module, params)
        saved = copy.deepcopy(opt.state_dict())
        for kept in saved["state"].values():
            kept["exp_avg"] = torch.full((2,), 1 / 3, dtype=moment)
        opt.load_state_dict(saved)
        found = opt.state[params["a"]]["exp_avg"]
        assert found.dtype == (parameter if cast else moment)
        assert cast or torch.equal(found, saved["state"][0]["exp_avg"])


# --- P-17: the step count stops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3)], ids=["compiled", "reference"])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad"])
def test_p17_steps_are_counted_beyond_what_single_precision_can(name, lr):
    """P-17: torch's count is in single precision, and 16 777 216 + 1 is 16 777 216 there."""
    for module, counts in ((torch.optim, False), (sf.optim, True)):
        params = pair()
        opt = stepped(module, params, name, lr=lr)
        assert opt.state[params["a"]]["step"].dtype == torch.float32  # as torch has it, as long as that will do
        opt.state[params["a"]]["step"].fill_(2**24)
        opt.step()
        opt.step()
        assert opt.state[params["a"]]["step"].item() == 2**24 + 2 * counts
        assert opt.state[params["b"]]["step"].item() == 3  # each parameter has a count of its own


def test_p17_a_count_below_stays_as_torch_has_it():
    params = pair()
    opt = stepped(sf.optim, params)
    opt.state[params["a"]]["step"].fill_(2**24 - 3)
    opt.step()
    opt.step()
    assert opt.state[params["a"]]["step"].dtype == torch.float32
    assert opt.state[params["a"]]["step"] == 2**24 - 1
    for expected in (2**24, 2**24 + 1, 2**24 + 2):
        opt.step()
        assert opt.state[params["a"]]["step"].item() == expected


def test_p17_large_counts_are_saved_and_loaded():
    params = pair()
    opt = stepped(sf.optim, params)
    opt.state[params["a"]]["step"].fill_(2**24)
    opt.step()
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert opt.state[params["a"]]["step"].item() == 2**24 + 2


# --- P-18: typos pass ----------------------------------------------------------------------------------------------

TYPOS = [
    ("AdamW", "weight_deacy", "weight_decay"),
    ("Adam", "beta", "betas"),
    ("SGD", "momentun", "momentum"),
    ("Adagrad", "Lr", "lr"),
    ("RMSprop", "centred", "centered"),
    ("SGD", "param_name", "param_names"),
    ("AdamW", "lr_factor", "lr_factors"),
]


@pytest.mark.parametrize("how", ["constructor", "add_param_group"])
@pytest.mark.parametrize(("name", "typo", "meant"), TYPOS)
def test_p18_a_misspelt_key_of_a_group_is_refused(name, typo, meant, how):
    """P-18: torch takes {'params': ..., 'weight_deacy': 0}, and decays."""
    getattr(torch.optim, name)([{"params": [nn.Parameter(torch.ones(1))], typo: 0.5}])
    group = {"params": [nn.Parameter(torch.ones(1))], typo: 0.5}
    opt = getattr(sf.optim, name)([nn.Parameter(torch.ones(1))])
    with pytest.raises(sf.UserError, match=f"{typo}: did you mean {meant}\\?"):
        getattr(sf.optim, name)([group]) if how == "constructor" else opt.add_param_group(group)
    assert len(opt.param_groups) == 1


SCHEDULERS = ["initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"]


@pytest.mark.parametrize("key", [*SCHEDULERS, "name", "lr_scale", "tag", "layer", "no_decay", "group_name"])
@pytest.mark.parametrize("name", NAMES)
def test_p18_keys_of_schedulers_and_of_ones_own_pass(name, key):
    opt = getattr(sf.optim, name)([{"params": [nn.Parameter(torch.ones(1))], key: 0.5}])
    opt.add_param_group({"params": [nn.Parameter(torch.ones(1))], key: 0.25})
    assert [group[key] for group in opt.param_groups] == [0.5, 0.25]


# --- P-19: hooks are lost, and the state is empty before the first step --------------------------------------------

heard: list[str] = []


def before_step(opt, args, kwargs):
    heard.append("before step")


def after_step(opt, args, kwargs):
    heard.append("after step")


def before_save(opt):
    heard.append("before save")


def after_save(opt, state_dict):
    heard.append("after save")


def before_load(opt, state_dict):
    heard.append("before load")


def after_load(opt):
    heard.append("after load")


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_p19_hooks_live_on_in_copies(clone):
    """P-19: copies of torch's optimizers have no hooks."""
    for module, lost in ((torch.optim, True), (sf.optim, False)):
        opt = module.SGD([nn.Parameter(torch.ones(1))])
        opt.register_step_pre_hook(before_step)
        opt.register_step_post_hook(after_step)
        opt.register_state_dict_pre_hook(before_save)
        opt.register_state_dict_post_hook(after_save)
        opt.register_load_state_dict_pre_hook(before_load)
        opt.register_load_state_dict_post_hook(after_load)
        twin = clone(opt)
        heard.clear()
        twin.step()
        twin.load_state_dict(twin.state_dict())
        all_six = ["before step", "after step", "before save", "after save", "before load", "after load"]
        assert heard == ([] if lost else all_six)


def test_p19_hooks_of_copies_are_their_own():
    opt = sf.optim.SGD([nn.Parameter(torch.ones(1))])
    twin = copy.deepcopy(opt)
    twin.register_step_post_hook(after_step)
    heard.clear()
    opt.step()
    assert heard == []


@pytest.mark.parametrize("engine", [{}, {"ema": 0.75, "clip_norm": 1.0, "skip_nonfinite": True}], ids=["plain", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_p19_distributed_checkpoints_find_a_state_before_the_first_step(name, engine):
    """P-19: torch.distributed.checkpoint takes a step with a rate of 0 to have states; nothing may move by it."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    options = {**({} if name == "Rprop" else {"weight_decay": 0.1}), **engine}
    options |= {"momentum": 0.9} if name == "SGD" else {}

    def build() -> tuple[nn.Module, sf.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, getattr(sf.optim, name)(model.parameters(), lr=0.1, **options)

    model, opt = build()
    before = copy.deepcopy(model.state_dict())
    saved = get_optimizer_state_dict(model, opt)
    assert same(dict(model.state_dict()), dict(before))
    kept = opt.rule(opt.param_groups[0]).states
    assert set(saved["state"]) == {"weight", "bias"}
    assert all(set(kept) <= saved["state"][key].keys() for key in saved["state"])
    assert opt.param_groups[0]["lr"] == 0.1

    def train(model: nn.Module, opt: sf.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            opt.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            opt.step()

    train(model, opt, range(3))
    saved = get_optimizer_state_dict(model, opt)
    other, here = build()
    other.load_state_dict(model.state_dict())
    before = copy.deepcopy(other.state_dict())
    set_optimizer_state_dict(other, here, saved)
    assert same(dict(other.state_dict()), dict(before))
    train(model, opt, range(3, 5))
    train(other, here, range(3, 5))
    assert same(dict(model.state_dict()), dict(other.state_dict()))


# --- P-25, P-26: rates and launches --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_p25_each_group_has_its_own_tensor_for_a_rate(name):
    """P-25: torch's fused path takes a rate for each device and not for each group; its foreach path takes none."""
    rates = [0.1, 0.01, 0.2]
    for lrs in (list(map(torch.tensor, rates)), [0.1, torch.tensor(0.01), 0.2]):
        sides = []
        for module, values in ((torch.optim, rates), (sf.optim, lrs)):
            params = [nn.Parameter(torch.ones(3)) for _ in rates]
            opt = getattr(module, name)([{"params": [p], "lr": lr} for p, lr in zip(params, values, strict=True)])
            for _ in range(2):
                for p in params:
                    p.grad = torch.arange(1.0, 4.0)
                opt.step()
            sides.append(params)
        torch.testing.assert_close(*sides)


def test_p25_a_rate_that_groups_share_is_theirs_together():
    lr = torch.tensor(0.1)
    params = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = sf.optim.SGD([{"params": [p]} for p in params], lr=lr)
    lr.fill_(0.5)
    for p in params:
        p.grad = torch.ones(1)
    opt.step()
    assert [p.item() for p in params] == [0.5, 0.5]


def test_p26_a_group_for_each_parameter_costs_no_launch_of_its_own(monkeypatch):
    """P-26: in torch every group is a batch of its own, and hundreds of them take back what batching gave."""
    launches = []
    run = threads.run
    monkeypatch.setattr(threads, "run", lambda *arguments: launches.append(arguments) or run(*arguments))
    params = [nn.Parameter(torch.ones(3)) for _ in range(100)]
    opt = sf.optim.AdamW([{"params": [p], "lr": 0.1 / (i + 1), "weight_decay": i} for i, p in enumerate(params)])
    for _ in range(2):
        launches.clear()
        for p in params:
            p.grad = torch.ones(3)
        opt.step()
        assert len(launches) == 1


def memory(key: str) -> float:
    """A figure of this process, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("engine", [{}, {"clip_norm": 1.0, "ema": 0.9, "cautious": True}], ids=["plain", "all"])
def test_p26_a_step_needs_no_memory_for_copies(engine):
    """P-26: torch's foreach path holds another copy of all parameters while it steps; here they are 32 MB."""

    def growth(module, **options) -> float:
        params = [nn.Parameter(torch.ones(1_000_000)) for _ in range(8)]
        for p in params:
            p.grad = torch.ones_like(p)
        opt = module.AdamW(params, **options)
        for _ in range(2):
            opt.step()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free but not given back would hide what is taken
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is counted from here
        before = memory("VmRSS")
        opt.step()
        return memory("VmHWM") - before

    assert growth(sf.optim, **engine) < 2
    assert growth(torch.optim, foreach=True) > 16


# --- P-28: averages go astray --------------------------------------------------------------------------------------


def test_p28_averages_of_a_compiled_model_find_the_plain_one():
    """P-28: AveragedModel matches by position, and its names have a prefix where the model is compiled."""
    params, others = pair(), pair()
    opt = sf.optim.SGD([(f"_orig_mod.{name}", p) for name, p in params.items()], lr=1.0, ema=0.5)
    for p, grad in zip(params.values(), (1.0, 10.0), strict=True):
        p.grad = torch.full((2,), grad)
    opt.step()
    other = sf.optim.SGD([("b", others["b"]), ("a", others["a"])], lr=1.0, ema=0.5)
    other.load_state_dict(opt.state_dict())
    with other.averaged():
        assert (others["a"][0].item(), others["b"][0].item()) == (0.5, -3.0)


# --- P-29: a NaN stays for ever ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Rprop"])  # the sign of a NaN is 0
def test_p29_one_bad_gradient_does_not_poison_the_state(name):
    """P-29: after one NaN torch's parameter is NaN for good."""
    for module, options in ((torch.optim, {}), (sf.optim, {"skip_nonfinite": True})):
        p = nn.Parameter(torch.ones(2))
        opt = getattr(module, name)([p], **options)
        for grad in (1.0, math.nan, 1.0, 1.0):
            p.grad = torch.full((2,), grad)
            opt.step()
        assert bool(p.isfinite().all()) == (module is sf.optim)
        assert module is torch.optim or all(finite(value) for value in opt.state[p].values())


def finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


# --- P-31: start-up ------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, torch, surefoot as sf
for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"):
    model = torch.nn.Linear(2, 2)
    opt = getattr(sf.optim, name)(model.parameters(), clip_norm=1.0)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    for _ in range(2):
        opt.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        opt.step()
    opt.last.update_ratio
    opt.load_state_dict(opt.state_dict())
print("torch._dynamo" in sys.modules)
torch.optim.SGD(model.parameters())
print("torch._dynamo" in sys.modules)
"""


def test_p31_the_first_optimizer_does_not_import_the_compiler():
    """P-31: torch's first optimizer imports torch._dynamo, which takes a second."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
