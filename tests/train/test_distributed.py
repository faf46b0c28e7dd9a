"""Two processes (gloo) train what one would, save for any number of them, and leave together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import torch.distributed as dist

import surefoot as sf
from surefoot.record.verify import verify
from surefoot.task.load import load

pytestmark = pytest.mark.skipif(not dist.is_available() or os.name == "nt", reason="needs torch.distributed")

TASK = """
    import os, signal, time, torch, surefoot as sf

    steps = 0

    def task():
        x = torch.randn(66, 4, generator=torch.Generator().manual_seed(5))
        data = (x, (x.sum(1) > 0).long())

        def model():
            return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

        def loss(outputs, targets):
            global steps
            steps += torch.is_grad_enabled()
            rank = os.environ.get("RANK", "0")
            what, who, when = os.environ.get("TROUBLE", "none 0 0").split()
            if what != "none" and rank == who and steps == int(when) and torch.is_grad_enabled():
                if what == "die":
                    os._exit(3)
                os.kill(os.getpid(), signal.SIGTERM)
            if what == "slow":
                time.sleep(0.1)
            return torch.nn.functional.cross_entropy(outputs, targets)

        recipe = sf.Recipe(
            lr=0.03, batch_size=10, clip_norm=0.5, schedule="warmup(3) >> cosine", schedule_every="step", epochs=4
        )
        return sf.Task(model=model, loss=loss, train=data, val=data, metric=sf.metrics.accuracy, recipe=recipe)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent(TASK))
    return tmp_path / "mine.py"


def start(file, *args: str, trouble: str = "none 0 0") -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "surefoot"]
    environment = {**os.environ, "TROUBLE": trouble, "OMP_NUM_THREADS": "1"}
    task = [] if "--resume" in args else [f"{file}:task"]
    return subprocess.Popen(
        [*command, "train", *task, *args],
        cwd=file.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(file, *args: str, trouble: str = "none 0 0") -> tuple[int, str]:
    process = start(file, *args, trouble=trouble)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def close(run: sf.Run, other: sf.Run) -> None:
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        ours, theirs = run.signal(name), other.signal(name)
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=2e-5)
    for name, weight in run.last.weights_dict().items():
        torch.testing.assert_close(weight, other.last.weights_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does_with_twice_the_batch(file, kind):
    one = sf.train(
        load(f"{file}:task"), load(f"{file}:task").recipe.replace(batch_size=20), file.parent / "one", quiet=True
    )
    status, output = train(file, "--distributed", kind, "--dir", "two")
    assert status == 0, output
    assert output.count("epoch 1/4") == 1  # one of them shows
    close(sf.Run(file.parent / "two"), one)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_run_goes_on_in_another_number_of_processes(file, kind, caplog):
    """SIGTERM reaches one of them alone; all stop after the same step."""
    status, output = train(file, "--distributed", kind, "--dir", "two", trouble="stop 1 6")
    assert status != 0
    run = sf.Run(file.parent / "two")
    assert run.summary["status"] == "interrupted", output
    assert run.last.step in (6, 7)
    whole = sf.train(
        load(f"{file}:task"), load(f"{file}:task").recipe.replace(batch_size=20), file.parent / "one", quiet=True
    )
    with caplog.at_level(logging.WARNING):
        sf.train(load(f"{file}:task"), dir=run.dir, resume=True, quiet=True)
    assert "the run had 2 processes, now there are 1" in caplog.text
    before = run.last.step
    assert before > 7
    ours, theirs = dict(run.signal("train/loss")), dict(whole.signal("train/loss"))
    assert [ours[i] for i in range(1, 6)] == pytest.approx([theirs[i] for i in range(1, 6)], rel=2e-5)


def test_two_processes_resume_exactly(file):
    proof = sf.prove_resume(f"{file}:task", steps=6, processes=2)
    assert proof.exact, proof


def test_when_one_dies_the_others_end_and_the_checkpoint_stays(file):
    began = time.monotonic()
    status, output = train(file, "--distributed", "ddp", "--dir", "two", trouble="die 1 7")
    assert status != 0
    assert time.monotonic() - began < 60
    run = sf.Run(file.parent / "two")
    assert run.last.step == 4
    assert all(intact for intact, _ in verify(run)), output


def test_sigterm_to_all_saves_once_and_is_resumed_exactly(file):
    whole_status, output = train(file, "--distributed", "ddp", "--dir", "whole")
    assert whole_status == 0, output
    process = start(file, "--distributed", "ddp", "--dir", "two", trouble="slow 0 0")
    run_dir = file.parent / "two"
    while not sf.Run.exists(run_dir):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    run = sf.Run(run_dir)
    assert run.summary["status"] == "interrupted"
    status, output = train(file, "--distributed", "ddp", "--dir", "two", "--resume")
    assert status == 0, output
    whole = sf.Run(file.parent / "whole")
    assert run.signal("train/loss") == whole.signal("train/loss")
    assert all(torch.equal(w, whole.last.weights_dict()[n]) for n, w in run.last.weights_dict().items())


def test_without_torchrun_it_says_what_is_missing(file):
    with pytest.raises(sf.UserError, match="needs torchrun: torchrun --nproc-per-node 2"):
        sf.train(load(f"{file}:task"), dir=file.parent / "run", distributed="ddp", quiet=True)
    with pytest.raises(sf.UserError, match="unknown way to train in many processes dpp: did you mean ddp"):
        sf.train(load(f"{file}:task"), dir=file.parent / "run", distributed="dpp", quiet=True)
