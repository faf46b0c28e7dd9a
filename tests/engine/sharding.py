"""What one of several processes does in test_shards.py. Arguments: rank, number of processes, folder.

Every case returns parameters, what else is to be the same bit for bit, and numbers that are nearly so, however many
processes there are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import surefoot as sf
from surefoot.engine import plan, scan, witness

SHAPES = [
    (7, 5),
    (1, 9),
    (6, 4, 3),
    (64,),
    (1,),
    (3, 2),
]  # of which some do not divide by two, and two leave a process nothing
WORLD: dict[str, int] = {}

Found = tuple[list, list, list]
Placements = Callable[[DeviceMesh], list[Any]]


def whole(t: Any) -> Any:
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def shard(t: torch.Tensor, mesh: DeviceMesh | None, placements: list[Any]) -> torch.Tensor:
    return t if mesh is None else distribute_tensor(t, mesh, placements, src_data_rank=None)


def trained(mesh: DeviceMesh | None, placements: list[Any], dtype=torch.float32, rate=float, **options: Any) -> Found:
    """Parameters, states and numbers after steps with the same gradients, however many processes hold them."""
    torch.manual_seed(0)
    params = [nn.Parameter(shard(torch.randn(shape).to(dtype), mesh, placements)) for shape in SHAPES]
    named = [(f"p{i}", p) for i, p in enumerate(params)]
    groups = [{"params": named[:2]}, {"params": named[2:], "lr": rate(0.02)}]
    opt = sf.optim.AdamW(groups, lr=rate(0.01), weight_decay=0.1, **options)
    numbers = []
    for step in range(4):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i)).to(dtype)
            p.grad = None if (step, i) == (2, 1) else shard(grad, mesh, placements)
            if step == 1 and "skip_nonfinite" in options:
                poison(p, i)
        opt.step()
        poisoned = step == 1 and "skip_nonfinite" in options
        assert opt.last.reason == ("the gradient of p0 holds a NaN or an infinity" if poisoned else "")
        numbers += [opt.last.grad_norm, *opt.last.grad_norms.values(), *opt.last.clip_factors]
        numbers += [*opt.last.update_ratio.values(), *opt.last.cosine.values()]
    lanes = opt._engine._plan.lanes
    assert bool(lanes) == (not opt._engine._plan.items) == (rate is float)  # the reference backend takes tensor rates
    assert all((lane.form.split is None) == (mesh is None) for lane in lanes)
    kept = [whole(value) for p in params for value in opt.state[p].values()]
    return [whole(p.detach()) for p in params], [*kept, *(whole(p.grad) for p in params)], numbers


def poison(p: torch.Tensor, i: int) -> None:
    """A NaN in one element: of the last process only."""
    if i == 0 and WORLD["rank"] == WORLD["world"] - 1:
        (p.grad._local_tensor if isinstance(p.grad, DTensor) else p.grad)[-1, -1] = math.nan


def option(**options: Any) -> Callable[[], Found]:
    def case() -> Found:
        return trained(mesh(), [Shard(0)], **options)

    return case


def mesh(*shape: int) -> DeviceMesh | None:
    return init_device_mesh("cpu", shape or (WORLD["world"],)) if dist.is_initialized() else None


def placed(placements: Placements, shape: Callable[[int], tuple[int, ...]], **options: Any) -> Callable[[], Found]:
    def case() -> Found:
        found = mesh(*shape(WORLD["world"]))
        return trained(found, placements(found), **options)

    return case


def checkpoint() -> Found:
    """An optimizer that takes up another's state goes its way."""
    sides = []
    for resumed in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        if dist.is_initialized():
            fully_shard(model, mesh=mesh())
        make = lambda model=model: sf.optim.AdamW(model.named_parameters(), lr=0.1, ema=0.9, clip_norm=1.0)  # noqa: E731
        opt = make()
        for step in range(6):
            if step == 3 and resumed:
                saved, opt = opt.state_dict(), make()
                opt.load_state_dict(saved)
            opt.zero_grad()
            model(torch.ones(4, 5)).square().mean().backward()
            opt.step()
        assert not opt._engine._plan.items
        sides.append([whole(t) for p, kept in opt.state.items() for t in (p.detach(), kept["ema"])])
    assert all(map(torch.equal, *sides))
    return sides[0], [], []


def quiet() -> Found:
    """While FSDP2 trains, nothing is asked from Python: neither objects nor gradients, of empty shards no more."""
    asked: list[str] = []
    for owner, name in ((plan.Plan, "_same"), (scan.Scan, "_recognises")):
        real = getattr(owner, name)
        setattr(owner, name, lambda *args, name=name, real=real: asked.append(name) or real(*args))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 1))
    if dist.is_initialized():
        fully_shard(model, mesh=mesh())
    opt = sf.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        opt.zero_grad()
        model(torch.ones(4, 5)).square().mean().backward()
        opt.step()
    assert asked == ["_same"], asked
    return [whole(p.detach()) for p in model.parameters()], [], []


def changes() -> Found:
    """Whatever is changed between two steps counts, seen by the scan and the witness or asked from Python."""
    found = []
    for compiled in (True, False):
        if not compiled:
            scan.sharded_interface = witness.sharded_layout = lambda mesh: None
        torch.manual_seed(0)
        mine = mesh()
        params = [nn.Parameter(shard(torch.randn(shape), mine, [Shard(0)])) for shape in SHAPES]
        opt = sf.optim.AdamW(params, lr=0.1, clip_norm=1.0)
        for step in range(16):
            for i, p in enumerate(params):
                grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
                p.grad = shard(grad, mine, [Shard(0)])
            change(step, params, opt)
            opt.step()
        assert len(opt._engine._plan.items) == (step == 9 and mine is not None)
        lanes = opt._engine._plan.lanes
        if mine is not None and compiled:
            assert [lane._scan is not None for lane in lanes] == [True] * len(lanes)
        found += [whole(p.detach()) for p in params]
    assert all(map(torch.equal, found[: len(SHAPES)], found[len(SHAPES) :]))
    return found, [], []


def change(step: int, params: list, opt: Any) -> None:
    p, last = params[0], params[3]
    here = lambda t: t._local_tensor if isinstance(t, DTensor) else t  # noqa: E731
    if step == 4 and isinstance(p, DTensor):  # as FSDP2 does when a model was moved
        p._local_tensor = p._local_tensor.clone()
    elif step == 5:
        here(p).data = here(p).detach().clone()
    elif step == 6:
        opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].clone()
    elif step == 7 and isinstance(p, DTensor):
        opt.state[p]["exp_avg"]._local_tensor = opt.state[p]["exp_avg"]._local_tensor * 1
    elif step == 8 and isinstance(p, DTensor):  # laid out otherwise, which only a process with several rows can tell
        for each in (p, params[5]):
            each.grad._local_tensor = each.grad._local_tensor.t().contiguous().t()
    elif step == 9 and isinstance(last, DTensor):  # a gradient that every process has in full
        last.grad = last.grad.redistribute(placements=[Replicate()])
    elif step == 10:
        params[2].grad = None
    elif step == 11:
        torch.utils.swap_tensors(params[1], nn.Parameter(params[1].detach().clone()))
        params[1].grad = params[1].detach() * 0.5
    elif step == 12:
        here(last.grad).data = here(last.grad) * 2


CASES: dict[str, Callable[[], Found]] = {
    "plain": option(),
    "clip_norm": option(clip_norm=0.5),
    "per group": option(clip_norm=sf.optim.Clip(0.5, per_group=True)),
    "inf norm": option(clip_norm=sf.optim.Clip(0.5, norm_type=math.inf)),
    "function": option(clip_norm=sf.optim.Clip(lambda norms: [0.1 / norms.groups[0], 0.1 / norms.tensors["p3"]])),
    "skip": option(skip_nonfinite=True),
    "skip, inf norm": option(skip_nonfinite=True, clip_norm=sf.optim.Clip(0.5, norm_type=math.inf)),
    "cautious": option(cautious=True),
    "zero_grad_in_step": option(zero_grad_in_step=True),
    "averages": option(ema=0.9, clip_value=0.5),
    "master weights": option(dtype=torch.bfloat16, master_weights=True),
    "states in half precision": option(state_dtype="bf16"),
    "by chance": option(dtype=torch.bfloat16, rounding="stochastic"),
    "by chance, reference": option(dtype=torch.bfloat16, rounding="stochastic", rate=torch.tensor),
    "states by chance": option(state_dtype="bf16", rounding="stochastic"),
    "replicated": placed(lambda mesh: [Replicate()], lambda n: (n,), clip_norm=0.5),
    "hybrid, 1 x n": placed(lambda mesh: [Replicate(), Shard(0)], lambda n: (1, n), clip_norm=0.5),
    "hybrid, n x 1": placed(lambda mesh: [Replicate(), Shard(0)], lambda n: (n, 1), clip_norm=0.5),
    "checkpoint": checkpoint,
    "quiet": quiet,
    "changes": changes,
}


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    WORLD.update(rank=rank, world=world)
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        found[name] = case()
        torch.save(found, f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
