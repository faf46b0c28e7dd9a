"""Importing is light: what is heavy is loaded when it is used, if ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = """numba triton scipy sklearn matplotlib rich tensorboard torch._dynamo torch.utils.tensorboard sqlite3
safetensors torch.distributed.tensor""".split()

IMPORT = "import torch, surefoot as sf"
STEP = """
model = torch.nn.Linear(2, 2)
for name in set(sf.optim.names()) - {"lbfgs"}:  # torch's own
    opt = sf.optim.create(name, model)
    sched = sf.schedule.drive(opt, lr="cosine(10)")
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1, 1))], "param_names": ["extra"]})
    opt.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    sched.step()
    opt.load_state_dict(opt.state_dict())
"""


@pytest.mark.parametrize("use", ["", STEP], ids=["import", "optimizers and schedules"])
def test_nothing_heavy_is_loaded(use):
    check = f"import sys; print(sorted(set({HEAVY}) & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", f"{IMPORT}\n{use}\n{check}"], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_once_dynamo_is_loaded_torchs_own_methods_run():
    code = """
import torch, torch._dynamo, surefoot as sf
opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))])
opt.zero_grad()
print(hasattr(torch.optim.Optimizer.zero_grad.__wrapped__, "__dynamo_disable"))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"
