"""Kernels run on torch's own threads, on as many as torch is told to use, and never hang."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import threads
from surefoot.engine.lane import CHUNK

LARGE = 4 * CHUNK + 3  # well above threads.SERIAL
OPTIONS = {"lr": 0.1, "clip_norm": 1.0, "cautious": True, "ema": 0.9}


def optimizer(size: int, seed: int = 0) -> sf.optim.Optimizer:
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(size, generator=generator))
    p.grad = torch.randn(size, generator=generator)
    return sf.optim.AdamW([p], **OPTIONS)


def stepped(opt: sf.optim.Optimizer, times: int) -> Tensor:
    for _ in range(times):
        opt.step()
    return opt.param_groups[0]["params"][0].detach()


@pytest.fixture(params=["torch's", "Python's"])
def pool(request, monkeypatch) -> str:
    """Either pool of threads."""
    if request.param == "Python's":
        monkeypatch.setattr(threads, "torchs_pool", lambda: None)
    return request.param


def test_torchs_number_of_threads_is_read_at_every_step(launches):
    opt = optimizer(LARGE)
    for number in (1, 2, 1, 3):
        launches.clear()
        torch.set_num_threads(number)
        opt.step()
        assert set(launches) == {number}


def test_small_work_is_done_alone(launches, pool):
    torch.set_num_threads(2)
    sizes = [10] * 100
    params = [nn.Parameter(torch.ones(size)) for size in sizes]
    for p in params:
        p.grad = torch.ones_like(p)
    opt = sf.optim.AdamW(params, **OPTIONS)
    before = set(threading.enumerate())
    tasks = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    opt.step()
    assert set(launches) == {1}
    assert set(threading.enumerate()) == before
    assert sys.platform != "linux" or len(os.listdir("/proc/self/task")) == tasks


def test_many_small_tensors_are_work_for_all(launches):
    """What counts is how many elements a launch has, not how large a tensor is."""
    torch.set_num_threads(2)
    params = [nn.Parameter(torch.ones(100)) for _ in range(1 + threads.SERIAL // 100)]
    for p in params:
        p.grad = torch.ones_like(p)
    sf.optim.SGD(params, lr=1.0).step()
    assert set(launches) == {2}
    assert not any(p.any() for p in params)


def test_more_threads_than_chunks(pool):
    opt, expected = optimizer(LARGE), stepped(optimizer(LARGE), 3).clone()
    torch.set_num_threads(16)
    assert torch.equal(stepped(opt, 3), expected)


def test_two_threads_may_step_two_optimizers_at_once(pool):
    """Kernels run without the interpreter's lock: the two are in them together."""
    expected = [stepped(optimizer(LARGE, seed), 30).clone() for seed in (1, 2)]
    opts = [optimizer(LARGE, seed) for seed in (1, 2)]
    torch.set_num_threads(2)
    found: dict[int, Tensor] = {}
    barrier = threading.Barrier(2)

    def work(i: int) -> None:
        torch.set_num_threads(2)  # a setting of each thread
        barrier.wait()
        found[i] = stepped(opts[i], 30)

    both = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert all(torch.equal(found[i], expected[i]) for i in range(2))


def in_a_fork(work: Callable[[], bool], seconds: float = 60) -> str:
    """Run it in a forked child: "right", "wrong", or "hangs"."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 - a child must never return into the parent's tests
            traceback.print_exc()
        finally:
            os._exit(2)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {0: "right", 1: "wrong"}.get(os.waitstatus_to_exitcode(status), f"exit status {status}")
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hangs"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_steps(pool):
    """The parent's threads do not live on in it, and waiting for them would take for ever."""
    expected = stepped(optimizer(LARGE), 4).numpy().copy()
    opt = optimizer(LARGE)
    torch.set_num_threads(2)
    stepped(opt, 2)
    # numpy compares, as torch's own operations on as many elements would hang in the child
    assert in_a_fork(lambda: bool((stepped(opt, 2).numpy() == expected).all())) == "right"
    assert (stepped(opt, 2).numpy() == expected).all()  # the parent goes on


SKLEARN_FIRST = """
import numpy as np
from sklearn.cluster import KMeans
data = np.random.default_rng(0).normal(size=(500, 4))
KMeans(4, n_init=1, random_state=0).fit(data)  # runs on scikit-learn's own OpenMP
import torch
torch.set_num_threads(2)
import surefoot as sf
from surefoot.engine import threads
p = torch.nn.Parameter(torch.ones(10**5))
opt = sf.optim.SGD([p], lr=1.0, clip_norm=1e9)
for _ in range(5):
    KMeans(4, n_init=1, random_state=0).fit(data)
    opt.zero_grad()
    (p.sum() * 1.0).backward()
    opt.step()
assert (p == -4).all()
KMeans(4, n_init=1, random_state=0).fit(data)
assert threads.torchs_pool() is not None
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP elsewhere")
def test_torchs_pool_is_found_beside_scikit_learns():
    """Which brings a libgomp of its own, with threads of its own."""
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, "-c", SKLEARN_FIRST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
