"""The proof of exact resuming: it passes where resuming is exact, and names what differs where it is not."""

from __future__ import annotations

import math
import textwrap

import pytest
import torch

import surefoot as sf
from surefoot.train.prove import compare

TASK = """
    import sys, torch, surefoot as sf

    if sys.argv[-1].startswith("{{"):  # in the new processes only
        {sabotage}

    def task():
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(5))
        data = (x, (x.sum(1) > 0).long())
        def model():
            return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2),
                                       torch.nn.Linear(8, 2))
        recipe = sf.Recipe(lr=0.03, batch_size=10, schedule="warmup(3) >> cosine", schedule_every="step", epochs=9)
        return sf.Task(model=model, loss=torch.nn.CrossEntropyLoss(), train=data, val=data, recipe=recipe)
"""
BROKEN = {
    "the optimizer's state": ("sf.optim.AdamW.load_state_dict = lambda self, state: None", "differs"),
    "the schedule's time": ("sf.schedule.Driver.load_state_dict = lambda self, state: None", "differs"),
    "random numbers": ("from surefoot.train import rng; rng.restore = lambda saved, device: None", "differs"),
}
LOOP = """
    import torch

    def loop(dir, steps, resume):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        done = 0
        if resume:
            saved = torch.load(dir / "last.pt", weights_only=True)
            model.load_state_dict(saved["model"])
            {load}
            done = saved["step"]
        for step in range(done, steps):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
        dir.mkdir(exist_ok=True)
        saved = {{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": steps}}
        torch.save(saved, dir / "last.pt")
        return saved
"""


def file_with(folder, text: str, **parts: str) -> str:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text).format(**parts))
    return str(path)


def test_a_task_is_resumed_exactly(tmp_path):
    proof = sf.prove_resume(file_with(tmp_path, TASK, sabotage="pass") + ":task", steps=10)
    assert proof.exact, proof
    assert proof.stops == (10,)
    assert proof.compared > 100
    assert str(proof).startswith("exact: stopped after step 10 and resumed in a new process, all ")


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_restore_is_found(tmp_path, what):
    sabotage, words = BROKEN[what]
    proof = sf.prove_resume(file_with(tmp_path, TASK, sabotage=sabotage) + ":task", steps=10)
    assert not proof.exact
    assert words in str(proof)


def test_a_loop_of_ones_own(tmp_path):
    load = 'optimizer.load_state_dict(saved["optimizer"])'
    assert sf.prove_resume(file_with(tmp_path, LOOP, load=load) + ":loop", steps=4).exact


def test_a_loop_that_forgets_its_optimizer(tmp_path):
    proof = sf.prove_resume(file_with(tmp_path, LOOP, load="") + ":loop", steps=4)
    assert "model.weight differs: 3 of 3 values, by up to" in proof.difference


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2},
        {"ema": 0.9},
        {"precision": "fp16"},
        {"precision": "bf16", "early_stop": "plateau(patience=3)"},
    ],
    ids=str,
)
def test_with_all_that_has_a_state(tmp_path, changes):
    name = file_with(tmp_path, TASK, sabotage="pass") + ":task"
    recipe = sf.Recipe(lr=0.03, batch_size=10, schedule_every="step", evaluate_every=4, **changes)
    proof = sf.prove_resume(name, steps=9, recipe=recipe)
    assert proof.exact, proof


AUGMENTED = """
    import random, torch, surefoot as sf

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            x = torch.randn(4, generator=torch.Generator().manual_seed(i))
            return x + 0.1 * torch.randn(4) + 0.1 * random.random(), int(x.sum() > 0)

    def task():
        def model():
            return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2))
        recipe = sf.Recipe(lr=0.03, batch_size=10)
        return sf.Task(model=model, loss=torch.nn.CrossEntropyLoss(), train=Noisy(), val=Noisy(), recipe=recipe)
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_augmented_items_fetched_by_workers(tmp_path, workers):
    proof = sf.prove_resume(file_with(tmp_path, AUGMENTED) + ":task", steps=10, workers=workers)
    assert proof.exact, proof


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn", "stdlib-gpt", "stdlib-gru", "quadratic-deep"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_built_in_tasks(name, workers):
    proof = sf.prove_resume(name, steps=12, workers=workers)
    assert proof.exact, proof


@pytest.mark.slow
def test_after_sigterm_at_random_moments(tmp_path):
    proof = sf.prove_resume("digits-cnn", steps=60, drill=20)
    assert proof.exact, proof
    assert len(set(proof.stops)) > 5


def test_two_trees_are_compared_bit_for_bit():
    one = {"a": torch.tensor([0.0, 1.0]), "n": math.nan, "list": [1, "x"], "position": {"seconds": 1.0}}
    assert compare(one, {**one, "position": {"seconds": 2.0}}) == (4, "")
    assert compare(one, {**one, "a": torch.tensor([-0.0, 1.0])})[1] == "a differs: 1 of 2 values, by up to 0"
    assert compare(one, {**one, "n": 0.0})[1] == "n differs: nan and 0.0"
    assert compare(one, {**one, "list": [1]})[1] == "list.1 is missing"
    assert compare(one, {**one, "b": 1})[1] == "b is there too much"
    assert "float64 [2]" in compare(one, {**one, "a": one["a"].double()})[1]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda dir, steps, resume: 0, "new processes, which cannot find"),
        (
            sf.Task(model=lambda: torch.nn.Linear(1, 1), step=lambda m, b: 0, train=[0], name="x"),
            "name it as the command",
        ),
        ("os.path:join", r"must take nothing \(a task\) or \(dir, steps, resume\)"),
        ("digits", "unknown task digits"),
    ],
)
def test_what_a_new_process_cannot_find_is_refused(what, words):
    with pytest.raises(sf.UserError, match=words):
        sf.prove_resume(what)
