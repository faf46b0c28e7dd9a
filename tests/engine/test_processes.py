"""Two processes that share their gradients go the way of one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

CODE = """
    import sys, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel
    import surefoot as sf

    rank, world, folder, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    whole = lambda t: t.full_tensor() if hasattr(t, "full_tensor") else t
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
        if kind == "DDP":
            model = DistributedDataParallel(model)
        else:
            fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    options = {"clip_norm": 0.1, "skip_nonfinite": True, "ema": 0.9}
    opt = sf.optim.AdamW(model.named_parameters(), lr=1e-2, **options)
    for step in range(20):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()
    assert not opt._engine._plan.items  # shards or not, compiled kernels take all
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    kept = {name: whole(opt.state[p]["ema"]) for name, p in model.named_parameters()}
    numbers = [opt.last.grad_norm, *opt.last.update_ratio.values(), *opt.last.cosine.values()]
    torch.save([weights, kept, numbers], f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_data_parallel_training_goes_the_way_of_one_process(tmp_path, kind):
    def start(rank: int, world: int) -> subprocess.Popen:
        arguments = [str(rank), str(world), str(tmp_path), kind]
        return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CODE), *arguments])

    started = [start(0, 1), start(0, 2), start(1, 2)]
    assert [each.wait(timeout=100) for each in started] == [0, 0, 0]
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for parts in zip(one[:2], first[:2], second[:2], strict=True):
        for a, b, c in zip(*(part.values() for part in parts), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
            assert torch.equal(b, c)
    assert one[2] == pytest.approx(first[2], rel=1e-3)
    assert first[2] == second[2]
