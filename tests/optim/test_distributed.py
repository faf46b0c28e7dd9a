"""Training spread over two processes: checkpoints of torch.distributed.checkpoint, and ZeRO."""

from __future__ import annotations

import warnings
from functools import partial

import processes
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

import surefoot as sf

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("Adam", {"amsgrad": True, "clip_norm": 0.1}),
    ("AdamW", {"lr": 0.1, "ema": 0.9}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adagrad", {"lr": 0.1, "ema": 0.9}),
]
FULL = StateDictOptions(full_state_dict=True)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def batch(step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]


def train(
    net: nn.Module,
    opt: torch.optim.Optimizer,
    steps: range,
    rank: int = 0,
    world: int = 1,
    max_norm: float | None = None,
) -> None:
    for step in steps:
        opt.zero_grad()
        net(batch(step, rank, world)).square().mean().backward()
        if max_norm is not None:  # torch's norm is that of all parameters, on every rank
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        opt.step()


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def found(net: nn.Module, opt: sf.optim.Optimizer) -> list[torch.Tensor]:
    """The weights and their averages."""
    params = list(net.parameters())
    averages = [opt.state[p]["ema"] for p in params if opt.options.ema]
    return [whole(t.detach()) for t in (*params, *averages)]


# --- torch.distributed.checkpoint ----------------------------------------------------------------------------------


def load(net: nn.Module, opt: sf.optim.Optimizer, folder: str, **options) -> None:
    model_state, state = get_state_dict(net, opt)
    saved = {"model": model_state, "optim": state}
    dcp.load(saved, checkpoint_id=folder, **options)
    set_state_dict(net, opt, model_state_dict=saved["model"], optim_state_dict=saved["optim"])


def sharded(rank: int, world: int, folder: str) -> None:
    """Save after three steps and train three more; then load in every way, train as much, and be at the same place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))

    def build(seed: int) -> tuple[nn.Module, sf.optim.Optimizer]:
        net = fully_shard(model(seed), mesh=mesh)
        return net, getattr(sf.optim, name)(net.parameters(), **options)

    for i, (name, options) in enumerate(OPTIMIZERS):
        net, opt = build(0)
        train(net, opt, range(3), rank, world)
        model_state, state = get_state_dict(net, opt)
        dcp.save({"model": model_state, "optim": state}, checkpoint_id=f"{folder}/{i}")
        full = get_state_dict(net, opt, options=FULL)
        if rank == 0:
            torch.save(full, f"{folder}/{i}.pt")
        train(net, opt, range(3, 6), rank, world)
        right = found(net, opt)
        if rank == 0:
            torch.save(right, f"{folder}/{i}-right.pt")

        # torch asks the states where a whole one is to go, and SGD without momentum has none
        for way in ("shards", "whole") if state["state"] else ("shards",):
            other = build(1)
            if way == "shards":
                load(*other, f"{folder}/{i}")
            else:
                set_state_dict(*other, model_state_dict=full[0], optim_state_dict=full[1], options=FULL)
            train(*other, range(3, 6), rank, world)
            assert all(map(torch.equal, right, found(*other))), (name, options, way)


def test_a_sharded_checkpoint_goes_on_in_two_processes_and_in_one(tmp_path):
    processes.run(sharded, tmp_path)
    for i, (name, options) in enumerate(OPTIMIZERS):
        right = torch.load(tmp_path / f"{i}-right.pt")
        for way in ("shards", "whole"):
            net = model(1)
            opt = getattr(sf.optim, name)(net.parameters(), **options)
            if way == "shards":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # that this is one process
                    load(net, opt, str(tmp_path / str(i)), no_dist=True)
            else:
                states = torch.load(tmp_path / f"{i}.pt")
                set_state_dict(net, opt, model_state_dict=states[0], optim_state_dict=states[1])
            train(net, opt, range(3, 6))
            for a, b in zip(found(net, opt), right, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- ZeRO ----------------------------------------------------------------------------------------------------------

OF_ONE = {"ema": 0.9, "cautious": True, "clip_value": 0.01, "zero_grad_in_step": True}  # options that see one parameter


def lone() -> nn.Module:
    """A single parameter, so that one of two processes has none."""
    torch.manual_seed(0)
    return nn.Linear(6, 3, bias=False)


SPREAD = [
    (model, "AdamW", {"lr": 0.1}, {}),
    (model, "AdamW", {"lr": 0.1}, {"parameters_as_bucket_view": True}),
    (model, "AdamW", {"lr": 0.1, **OF_ONE}, {}),
    (model, "SGD", {"lr": 0.1, "momentum": 0.9}, {}),
    (model, "Adagrad", {"lr": 0.1}, {}),
    (lone, "AdamW", {"lr": 0.1}, {}),
]


def zero(rank: int, world: int, folder: str) -> None:
    """Train, save, train more; then go back, load, train as much, and be at the same place."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    for i, (make, name, options, own) in enumerate(SPREAD):
        net = DistributedDataParallel(make())

        build = partial(ZeroRedundancyOptimizer, optimizer_class=getattr(sf.optim, name), **options, **own)
        opt = build(net.parameters())
        train(net, opt, range(3), rank, world)
        train(net, opt, range(3, 6), rank, world, max_norm=0.1)
        opt.consolidate_state_dict(to=0)
        weights = {key: value.clone() for key, value in net.module.state_dict().items()}
        saved = [opt.state_dict() if rank == 0 else None]
        if rank == 0:
            torch.save([weights, saved[0]], f"{folder}/{i}.pt")

        train(net, opt, range(6, 8), rank, world)
        right = [p.detach().clone() for p in net.parameters()]
        net.module.load_state_dict(weights)
        torch.distributed.broadcast_object_list(saved, src=0)
        opt = build(net.parameters())
        opt.load_state_dict(saved[0])
        train(net, opt, range(6, 8), rank, world)
        assert all(map(torch.equal, right, net.parameters())), (name, options)

    for name, value in (("clip_norm", 1.0), ("skip_nonfinite", True)):
        with pytest.raises(sf.UserError, match=f"{name} needs the whole gradient.*ZeroRedundancyOptimizer"):
            ZeroRedundancyOptimizer(model().parameters(), optimizer_class=sf.optim.AdamW, **{name: value})


def test_zero_goes_the_way_of_one_process(tmp_path):
    processes.run(zero, tmp_path)
    for i, (make, name, options, _) in enumerate(SPREAD):
        net = make()
        opt = getattr(sf.optim, name)(net.parameters(), **options)
        train(net, opt, range(3))
        train(net, opt, range(3, 6), max_norm=0.1)
        weights, state = torch.load(tmp_path / f"{i}.pt")
        torch.testing.assert_close(dict(net.state_dict()), dict(weights), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(opt.state_dict()["state"], state["state"], rtol=1e-4, atol=1e-5)
        opt.load_state_dict(state)
        assert opt.param_groups[0]["lr"] == 0.1


def test_what_needs_the_whole_gradient_is_refused_in_a_group():
    """ZeroRedundancyOptimizer gives the same to the constructor and to each group."""
    params = [nn.Parameter(torch.ones(1))]
    for option in ({"clip_norm": sf.optim.Clip(1.0)}, {"skip_nonfinite": True}):
        with pytest.raises(sf.UserError, match="clip_grad_norm_ before the step"):
            sf.optim.AdamW([{"params": params, **option}], **option)
    sf.optim.AdamW([{"params": params, "ema": 0.9, "clip_norm": None}], ema=0.9)
    with pytest.raises(sf.UserError, match="ema is for the whole optimizer: give it to AdamW, not to a group"):
        sf.optim.AdamW([{"params": params, "ema": 0.9}], ema=0.99)
