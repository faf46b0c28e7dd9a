"""What is saved, and how it finds its way back: by name or by place, checked, copied, in the dtype it had."""

from __future__ import annotations

import copy
import io
import math
from contextlib import nullcontext

import pytest
import torch
from backends import reference_only
from cases import ALL, CASES, IDS
from test_dropin import SINGLE, layout
from test_options import same
from torch import Tensor, nn

import surefoot as sf

NAMES = list(CASES)
SHAPES = {"a": (4, 3), "b": (5,), "c": (2, 2)}


def parameters(names: str = "abc", dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    """Parameters whose first values depend on their names alone."""
    return {name: nn.Parameter(noise(name, 0).to(dtype)) for name in names}


def noise(name: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + ord(name))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64)


def steps(params: dict[str, nn.Parameter], opt: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps of this range, with gradients that depend on the step and on the parameter's name alone."""
    for seed in range(first + 1, last + 1):
        for name, p in params.items():
            p.grad = noise(name, seed).to(p.dtype)
        opt.step()


def trained(cls: type, options: dict | None = None, names: str = "abc") -> tuple[dict, torch.optim.Optimizer]:
    """Parameters with names, and their optimizer after three steps."""
    params = parameters(names)
    opt = cls(params.items(), **options or {})
    steps(params, opt, 0, 3)
    return params, opt


def put(params: dict[str, nn.Parameter], values: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(values[name])


def through_a_file(saved: dict) -> dict:
    """Saved with torch.save and read back as torch recommends, without pickle's powers."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """To the last bit, whatever the order."""
    assert same({k: v.detach() for k, v in a.items()}, {k: v.detach() for k, v in b.items()})


def is_compiled(opt: sf.optim.Optimizer) -> bool:
    return bool(opt._engine._plan.lanes) and not opt._engine._plan.items


def assert_refused(opt: sf.optim.Optimizer, saved: dict, words: str, **arguments) -> None:
    """Loading is refused in these words, and nothing changes."""
    before, state, groups = opt.state_dict(), dict(opt.state), list(opt.param_groups)
    given = copy.deepcopy(saved)
    with pytest.raises(sf.UserError, match=words):
        opt.load_state_dict(saved, **arguments)
    assert same(opt.state_dict(), before)
    assert same(saved, given)
    assert all(opt.state[p] is kept for p, kept in state.items())
    assert all(a is b for a, b in zip(opt.param_groups, groups, strict=True))


# --- which state goes where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_states_go_by_name(name, options):
    """The same parameters in another order go on as if they had never stopped."""
    cls = getattr(sf.optim, name)
    params, opt = trained(cls, options)
    others = parameters("cab")
    other = cls(others.items(), **options)
    put(others, params)
    other.load_state_dict(opt.state_dict())
    steps(params, opt, 3, 6)
    steps(others, other, 3, 6)
    assert_equal(params, others)
    assert other.param_groups[0]["param_names"] == ["c", "a", "b"]  # and not the checkpoint's


def test_groups_go_by_the_names_in_them():
    def build(order: list[str]) -> tuple[dict, sf.optim.Optimizer]:
        params, lrs = parameters(), {"ab": 0.1, "c": 0.01, "ba": 0.1}
        groups = [{"params": [(n, params[n]) for n in names], "lr": lrs[names]} for names in order]
        return params, sf.optim.Adam(groups)

    params, opt = build(["ab", "c"])
    opt.param_groups[0]["weight_decay"] = 0.5
    steps(params, opt, 0, 3)
    others, other = build(["c", "ba"])
    put(others, params)
    other.load_state_dict(opt.state_dict())
    assert [group["weight_decay"] for group in other.param_groups] == [0, 0.5]
    assert [group["param_names"] for group in other.param_groups] == [["c"], ["b", "a"]]
    steps(params, opt, 3, 6)
    steps(others, other, 3, 6)
    assert_equal(params, others)


@pytest.mark.parametrize("prefixes", [("_orig_mod.", ""), ("", "_orig_mod."), ("net._orig_mod.", "net.")], ids=str)
def test_what_compiling_puts_before_names_does_not_matter(prefixes):
    sides = []
    for prefix, order in zip(prefixes, ("abc", "cba"), strict=True):
        params = parameters(order)
        sides.append((params, sf.optim.Adam([(prefix + name, p) for name, p in params.items()])))
    (params, opt), (others, other) = sides
    steps(params, opt, 0, 3)
    put(others, params)
    other.load_state_dict(opt.state_dict())
    steps(params, opt, 3, 5)
    steps(others, other, 3, 5)
    assert_equal(params, others)
    assert other.param_groups[0]["param_names"] == [prefixes[1] + name for name in "cba"]


@pytest.mark.parametrize(
    ("saved", "here", "words"),
    [("ab", "abc", "it lacks c"), ("abc", "ab", "it has besides c"), ("ab", "ac", "it lacks c")],
)
def test_other_names_are_refused(saved, here, words):
    checkpoint = trained(sf.optim.Adam, names=saved)[1].state_dict()
    assert_refused(trained(sf.optim.Adam, names=here)[1], checkpoint, words)


def test_parameters_that_were_in_several_groups_are_refused_in_one():
    params = parameters()
    opt = sf.optim.Adam([{"params": [("a", params["a"])]}, {"params": [("b", params["b"]), ("c", params["c"])]}])
    assert_refused(trained(sf.optim.Adam)[1], opt.state_dict(), "group 0 were in several groups")


@pytest.mark.parametrize("named", ["saved", "here", "neither"])
def test_states_go_by_place_where_one_side_has_no_names(named):
    params, others = parameters(), parameters()
    opt = sf.optim.Adam(params.items() if named == "saved" else params.values())
    other = sf.optim.Adam(others.items() if named == "here" else others.values())
    steps(params, opt, 0, 3)
    put(others, params)
    other.load_state_dict(opt.state_dict())
    steps(params, opt, 3, 5)
    steps(others, other, 3, 5)
    assert_equal(params, others)
    assert ("param_names" in other.param_groups[0]) == (named == "here")


@pytest.mark.parametrize("named", [True, False])
def test_other_shapes_are_refused(named):
    opt = trained(sf.optim.Adam)[1]
    others = parameters()
    others["b"] = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    other = sf.optim.Adam(others.items() if named else others.values())
    words = rf"exp_avg of {'b' if named else 'parameter 1'} has shape \(5,\), the parameter \(6,\)"
    assert_refused(other, opt.state_dict(), words)


@pytest.mark.parametrize(
    "groups",
    [["ab"], ["abc", "d"], ["a", "bc"], []],
    ids=["fewer parameters", "more groups", "other groups", "no groups"],
)
def test_other_groups_are_refused_where_there_are_no_names(groups):
    params = dict(zip("abcd", [*parameters().values(), nn.Parameter(torch.ones(1))], strict=True))
    saved = sf.optim.Adam([{"params": [params[name] for name in names]} for names in groups or ["a"]]).state_dict()
    saved["param_groups"] = saved["param_groups"] if groups else []
    opt = sf.optim.Adam(parameters().values())
    assert_refused(opt, saved, "build the same groups")


@pytest.mark.parametrize("saved", [{}, nn.Linear(2, 2).state_dict(), {"state": {}, "param_groups": 3}], ids=range(3))
def test_what_is_no_optimizers_state_is_refused(saved):
    assert_refused(trained(sf.optim.Adam)[1], saved, "state_dict|checkpoint")


# --- other algorithms ----------------------------------------------------------------------------------------------

OTHERS = {
    "SGD with momentum": ("SGD", {"momentum": 0.9}),
    "RMSprop, all": ("RMSprop", {"momentum": 0.9, "centered": True}),
    **{name: (name, {}) for name in NAMES},
}
ADAMS = ("Adam", "AdamW")
# who finds in these others' checkpoints all that it needs: RAdam also Adam's moments, which mean the same there
AT_HOME = {"RAdam": ADAMS, "Adam": ADAMS, "AdamW": ADAMS}
AT_HOME_BEFORE_THE_FIRST_STEP = {  # there are hyper-parameters alone, and those of Adam with others besides
    **AT_HOME,
    "RAdam": (*ADAMS, "Adamax", "NAdam"),
    "Adamax": (*ADAMS, "NAdam", "RAdam"),
}
PAIRS = [
    (theirs, ours, stepped)
    for theirs in OTHERS
    for ours in NAMES
    for stepped in (True, False)
    if theirs not in (AT_HOME if stepped else AT_HOME_BEFORE_THE_FIRST_STEP).get(ours, ())
    if OTHERS[theirs][0] != ours
]


@pytest.mark.parametrize(("theirs", "ours", "stepped"), PAIRS)
def test_a_checkpoint_of_another_algorithm_is_refused(theirs, ours, stepped):
    name, options = OTHERS[theirs]
    params = parameters()
    other = getattr(torch.optim, name)(params.values(), **options)
    if stepped:
        steps(params, other, 0, 2)
    opt = trained(getattr(sf.optim, ours))[1]
    assert_refused(opt, other.state_dict(), f"not of {ours}")


@pytest.mark.parametrize("name", NAMES)
def test_a_state_with_something_strange_in_it_is_refused(name):
    """Such as that of an algorithm with the same hyper-parameters."""
    opt = trained(getattr(sf.optim, name))[1]
    saved = opt.state_dict()
    strange = "exp_inf" if name != "Adamax" else "exp_avg_sq"
    saved["state"].setdefault(1, {})[strange] = torch.zeros(5)
    assert_refused(opt, saved, f"not of {name}: for b it holds {strange}")


def test_an_amsgrad_state_that_is_not_whole_is_refused():
    opt = trained(sf.optim.Adam, {"amsgrad": True})[1]
    saved = opt.state_dict()
    del saved["state"][1]["max_exp_avg_sq"]
    assert_refused(opt, saved, "no max_exp_avg_sq")


@pytest.mark.parametrize("pair", [("Adam", "AdamW"), ("AdamW", "Adam")])
def test_adam_and_adamw_stay_what_they_are(pair):
    """They take each other's moments, and each decays in its own way: in torch the checkpoint's way is taken."""
    name, other = pair
    params, opt = trained(getattr(sf.optim, other), {"weight_decay": 0.3})
    others = parameters()
    here = getattr(sf.optim, name)(others.items(), weight_decay=0.3)
    put(others, params)
    here.load_state_dict(opt.state_dict())
    assert here.param_groups[0]["decoupled_weight_decay"] == (name == "AdamW")
    twins = {key: nn.Parameter(p.detach().clone()) for key, p in params.items()}
    reference = getattr(torch.optim, name)(twins.values(), weight_decay=0.3)
    reference.load_state_dict({**reference.state_dict(), "state": opt.state_dict()["state"]})
    steps(others, here, 3, 5)
    steps(twins, reference, 3, 5)
    torch.testing.assert_close(list(others.values()), list(twins.values()), rtol=1e-12, atol=1e-14)


# --- what a loaded state is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("parameter", [torch.bfloat16, torch.float32, torch.float64])
def test_states_keep_the_dtype_they_were_saved_in(parameter, state):
    params = parameters(dtype=parameter)
    opt = sf.optim.Adam(params.items())
    steps(params, opt, 0, 1)
    saved = opt.state_dict()
    for kept in saved["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            kept[name] = (torch.rand_like(kept[name], dtype=torch.float64) + 0.1).to(state)
    opt.load_state_dict(through_a_file(saved))
    assert same(opt.state_dict()["state"], saved["state"])
    steps(params, opt, 1, 2)  # and in the steps that follow, whose numbers are computed in single precision at least
    wide = torch.promote_types(torch.promote_types(parameter, state), torch.float32)
    for i, (name, p) in enumerate(params.items()):
        found = opt.state[p]["exp_avg"]
        was, grad = saved["state"][i]["exp_avg"].to(wide), noise(name, 2).to(parameter).to(wide)
        assert found.dtype == state
        rtol = 1e-2 if state.itemsize == 2 else 1e-5
        torch.testing.assert_close(found, (0.9 * was + 0.1 * grad).to(state), rtol=rtol, atol=1e-6)


def test_states_are_laid_out_as_the_parameter_so_that_compiled_kernels_take_them():
    values = torch.randn(2, 3, 4, 5)
    contiguous, last = (nn.Parameter(values.clone()), nn.Parameter(values.to(memory_format=torch.channels_last)))
    sides = [(p, sf.optim.Adam([p], lr=0.1)) for p in (contiguous, last)]
    grads = [torch.randn(2, 3, 4, 5) for _ in range(2)]
    contiguous.grad = grads[0]
    sides[0][1].step()
    with torch.no_grad():
        last.copy_(contiguous)
    sides[1][1].load_state_dict(sides[0][1].state_dict())
    state = sides[1][1].state[last]
    assert all(state[name].is_contiguous(memory_format=torch.channels_last) for name in ("exp_avg", "exp_avg_sq"))
    for p, opt in sides:
        p.grad = grads[1].to(memory_format=torch.channels_last if p is last else torch.contiguous_format)
        opt.step()
        assert is_compiled(opt)
    assert torch.equal(contiguous, last)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_is_a_copy(name):
    params = parameters()
    opt = getattr(sf.optim, name)(params.items(), lr=torch.tensor(0.1), ema=0.75)
    steps(params, opt, 0, 2)
    saved = opt.state_dict()
    before = copy.deepcopy(saved)
    steps(params, opt, 2, 4)
    opt.param_groups[0]["lr"].fill_(0.2)
    assert same(saved, before)  # later steps do not show in it
    now = opt.state_dict()
    vandalize(saved)
    assert same(opt.state_dict(), now)  # nor does changing it show here


@pytest.mark.parametrize("name", NAMES)
def test_what_was_loaded_is_a_copy(name):
    params = parameters()
    opt = getattr(sf.optim, name)(params.items(), lr=torch.tensor(0.1), ema=0.75)
    steps(params, opt, 0, 2)
    saved = opt.state_dict()
    before = copy.deepcopy(saved)
    opt.load_state_dict(saved)
    steps(params, opt, 2, 4)
    opt.param_groups[0]["lr"].fill_(0.2)
    assert same(saved, before)
    now = opt.state_dict()
    vandalize(saved)
    assert same(opt.state_dict(), now)


def vandalize(saved: dict) -> None:
    """Change everything in a state_dict."""
    for kept in saved["state"].values():
        for value in kept.values():
            value.fill_(7)
        kept.clear()
    for group in saved["param_groups"]:
        group["lr"].fill_(7)
        group["param_names"].clear()
        group["weight_decay"] = 7


# --- numbers that go on from step to step --------------------------------------------------------------------------

NUMBERS = {"NAdam": ("mu_product",), "ASGD": ("eta", "mu")}


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("plain", [False, True], ids=["tensors", "plain"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_taken_up_in_double_precision(name, plain, backend):
    """torch saves them in single, and some of its versions as plain numbers."""
    params, reference = trained(getattr(torch.optim, name))
    saved = copy.deepcopy(reference.state_dict())
    for kept in saved["state"].values():
        kept |= {key: kept[key].item() if plain else kept[key].reshape(1) for key in NUMBERS[name]}
    others = parameters()
    opt = getattr(sf.optim, name)(others.items())
    put(others, params)
    opt.load_state_dict(saved)
    for p, q in zip(others.values(), params.values(), strict=True):
        for key in NUMBERS[name]:
            value = opt.state[p][key]
            assert (value.dtype, value.shape, value.device.type) == (torch.float64, (), "cpu")
            assert value.item() == reference.state[q][key].item()
    with reference_only() if backend == "reference" else nullcontext():
        steps(others, opt, 3, 5)
    steps(params, reference, 3, 5)
    torch.testing.assert_close(others, params, rtol=1e-6, atol=1e-8)
    assert is_compiled(opt) == (backend == "compiled")


@pytest.mark.parametrize("value", [torch.ones(3), "1", None], ids=["tensor", "text", "None"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused(name, value):
    opt = trained(getattr(sf.optim, name))[1]
    saved = opt.state_dict()
    saved["state"][1][NUMBERS[name][-1]] = value
    assert_refused(opt, saved, f"does not fit: {NUMBERS[name][-1]} of b must be a number")


# --- torch's format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_torchs_format_is_torchs(name, options):
    """With averages and factors, which torch knows nothing of, and with a step count beyond single precision."""
    ours, theirs = parameters(), parameters()
    groups = [{"params": list(ours.items())[:2], "lr_factors": [1, 1], "decay_factors": [1, 1]}]
    groups.append({"params": list(ours.items())[2:]})
    opt = getattr(sf.optim, name)(groups, ema=0.9, **options)
    reference = getattr(torch.optim, name)(
        [{"params": list(theirs.items())[:2]}, {"params": list(theirs.items())[2:]}], **options
    )
    steps(ours, opt, 0, 3)
    steps(theirs, reference, 0, 3)
    for params, o in ((ours, opt), (theirs, reference)):
        for p in params.values():
            if "step" in o.state[p]:
                o.state[p]["step"].fill_(2**24)
    steps(ours, opt, 3, 4)
    steps(theirs, reference, 3, 4)
    saved = opt.state_dict(format="torch")
    assert layout(saved) == layout(reference.state_dict())
    reference.load_state_dict(saved)
    put(theirs, ours)
    steps(ours, opt, 4, 6)
    steps(theirs, reference, 4, 6)
    rtol = 1e-6 if name in SINGLE else 1e-9
    torch.testing.assert_close(list(ours.values()), list(theirs.values()), rtol=rtol, atol=rtol / 1000)


def test_our_format_has_the_averages_and_the_factors():
    params = parameters("a")
    opt = sf.optim.SGD([{"params": list(params.values()), "lr_factors": [2.0]}], ema=0.9)
    steps(params, opt, 0, 1)
    saved = opt.state_dict()
    assert "ema" in saved["state"][0]
    assert saved["param_groups"][0]["lr_factors"] == [2.0]


def test_an_unknown_format_is_refused():
    opt = trained(sf.optim.SGD)[1]
    with pytest.raises(sf.UserError, match=r"format of state_dict troch: did you mean torch\?"):
        opt.state_dict(format="troch")


# --- what stays as the constructor said ----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [(), ("lr",), ["betas"], ("lr", "betas", "weight_decay", "eps")], ids=str)
@pytest.mark.parametrize("named", [True, False])
def test_kept_hyperparameters_stay_and_the_others_are_those_saved(keep, named):
    saved = {"lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.3, "eps": 1e-6}
    here = {"lr": 0.2, "betas": (0.7, 0.9), "weight_decay": 0.4, "eps": 1e-5}
    checkpoint = trained(sf.optim.Adam, saved)[1].state_dict()
    params = parameters()
    opt = sf.optim.Adam(params.items() if named else params.values(), **here)
    opt.load_state_dict(checkpoint, keep=keep)
    assert {name: opt.param_groups[0][name] for name in here} == {**saved, **{name: here[name] for name in keep}}
    assert opt.state[params["a"]]["step"] == 3  # the states are loaded all the same


@pytest.mark.parametrize(
    ("keep", "words"), [(("lrr",), r"lrr: did you mean lr\?"), (("momentum",), "momentum"), (("params",), "params")]
)
def test_what_cannot_be_kept_is_refused(keep, words):
    opt = trained(sf.optim.Adam)[1]
    assert_refused(opt, trained(sf.optim.Adam)[1].state_dict(), words, keep=keep)


@pytest.mark.parametrize("flags", [{"foreach": True}, {"fused": True}, {"differentiable": True}], ids=str)
def test_how_it_runs_stays_as_the_constructor_said(flags):
    opt = sf.optim.AdamW(parameters().items(), **flags)
    opt.load_state_dict(sf.optim.AdamW(parameters().items()).state_dict())
    assert {name: opt.param_groups[0][name] for name in flags} == flags
    plain = sf.optim.AdamW(parameters().items())
    plain.load_state_dict(opt.state_dict())
    assert not any(plain.param_groups[0][name] for name in flags)


def test_factors_stay_as_the_constructor_said():
    params, others = parameters("ab"), parameters("ab")
    opt = sf.optim.SGD([{"params": list(params.items()), "lr_factors": [1.0, 2.0]}])
    other = sf.optim.SGD([{"params": list(others.items()), "lr_factors": [3.0, 4.0]}])
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["lr_factors"] == [3.0, 4.0]


def test_keys_of_the_users_own_are_loaded():
    params, others = parameters("a"), parameters("a")
    opt = sf.optim.SGD([{"params": list(params.values()), "name": "head", "initial_lr": 0.5}])
    other = sf.optim.SGD(others.values())
    other.load_state_dict(opt.state_dict())
    assert (other.param_groups[0]["name"], other.param_groups[0]["initial_lr"]) == ("head", 0.5)


# --- hooks ---------------------------------------------------------------------------------------------------------


def heard(module) -> list[str]:
    """What hooks of all kinds hear when a state is saved and loaded again."""
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    opt = module.Adam([p])
    opt.step()
    log: list[str] = []

    def hook(kind: str):
        def call(optimizer, *state_dict):
            assert optimizer is opt
            log.append(f"{kind} {[sorted(each) for each in state_dict]}")

        return call

    def relabel(optimizer, state_dict):
        log.append("relabel")
        return {**state_dict, "label": "seen"}

    opt.register_state_dict_pre_hook(hook("save 1"))
    opt.register_state_dict_pre_hook(hook("save 0"), prepend=True)
    opt.register_state_dict_post_hook(hook("saved 1"))
    opt.register_state_dict_post_hook(relabel, prepend=True)
    opt.register_load_state_dict_pre_hook(hook("load 1"))
    opt.register_load_state_dict_pre_hook(relabel, prepend=True)
    opt.register_load_state_dict_post_hook(hook("loaded 1"))
    opt.register_load_state_dict_post_hook(hook("loaded 0"), prepend=True)
    opt.register_load_state_dict_post_hook(hook("never")).remove()
    opt.load_state_dict(opt.state_dict())
    return log


def test_hooks_hear_what_they_hear_in_torch():
    ours = heard(sf.optim)
    assert ours == heard(torch.optim)
    assert len(ours) == 8


def test_a_load_hook_may_return_another_state():
    opt = trained(sf.optim.Adam)[1]
    other = trained(sf.optim.Adam, {"lr": 0.5})[1].state_dict()
    opt.register_load_state_dict_pre_hook(lambda optimizer, state_dict: other)
    opt.load_state_dict(opt.state_dict())
    assert opt.param_groups[0]["lr"] == 0.5


def test_a_load_hook_cannot_change_the_callers_dict():
    opt = trained(sf.optim.Adam)[1]
    saved = opt.state_dict()
    opt.register_load_state_dict_pre_hook(lambda optimizer, state_dict: state_dict.update(extra=1))
    opt.load_state_dict(saved)
    assert "extra" not in saved


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("engine", [{}, {"ema": 0.75, "clip_norm": 1.0}], ids=["plain", "averaged"])
@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_a_run_that_was_saved_and_loaded_is_the_one_that_never_stopped(name, options, engine, named):
    def build() -> tuple[dict, sf.optim.Optimizer]:
        params = parameters()
        given = params.items() if named else params.values()
        return params, getattr(sf.optim, name)(given, **options, **engine)

    params, opt = build()
    steps(params, opt, 0, 3)
    others, other = build()
    put(others, params)
    other.load_state_dict(through_a_file(opt.state_dict()))
    steps(params, opt, 3, 6)
    steps(others, other, 3, 6)
    assert_equal(params, others)
    assert same(opt.state_dict(), other.state_dict())
    assert math.isfinite(sum(p.sum().item() for p in params.values()))


def test_a_state_saved_before_the_first_step_loads():
    params, opt = trained(sf.optim.Adam)
    opt.load_state_dict(sf.optim.Adam(parameters().items()).state_dict())
    steps(params, opt, 3, 4)
    assert opt.state[params["a"]]["step"] == 1


def test_averages_start_at_the_parameters_where_the_checkpoint_has_none():
    params, opt = trained(sf.optim.SGD, {"lr": 1.0})
    others = parameters()
    other = sf.optim.SGD(others.items(), lr=1.0, ema=0.75)
    put(others, params)
    other.load_state_dict(opt.state_dict())
    before = others["b"].detach().clone()
    steps(others, other, 3, 4)
    torch.testing.assert_close(other.state[others["b"]]["ema"], 0.75 * before + 0.25 * others["b"].detach())


def test_averages_are_loaded_by_who_keeps_none_and_saved_again():
    params = parameters()
    opt = sf.optim.SGD(params.items(), ema=0.75)
    steps(params, opt, 0, 2)
    saved = opt.state_dict()
    plain = sf.optim.SGD(parameters().items())
    plain.load_state_dict(saved)
    assert same(plain.state_dict()["state"], saved["state"])
