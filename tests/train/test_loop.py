"""A training does what it says, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, noisy, toy, weights

import surefoot as sf
from surefoot.train.data import Batches


@pytest.mark.parametrize("model", [toy().model, noisy], ids=["plain", "noisy"])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_it_is_the_hand_written_loop_bit_for_bit(tmp_path, every, model):
    """The guide's template with the same batches ends at exactly the same weights."""
    task, recipe = toy(model=model), RECIPE.replace(schedule_every=every)
    run = sf.train(task, recipe, tmp_path / "run", quiet=True)

    torch.manual_seed(recipe.seed)
    model = task.model()
    optimizer = sf.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, clip_norm=0.5)
    batches = Batches(task.train, 10, recipe.seed, "training")
    schedule = sf.schedule.drive(optimizer, lr=recipe.schedule, total=4 if every == "epoch" else 4 * len(batches))
    norms = []
    for epoch in range(4):
        model.train()
        for inputs, targets in batches.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            norms.append(optimizer.last.grad_norm)
            if every == "step":
                schedule.step()
        if every == "epoch":
            schedule.step()
        model.eval()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights(task, run.last), strict=True))
    assert [value for _, value in run.signal("train/grad_norm")] == norms


def test_everything_is_recorded(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, 29))
    assert [step for step, _ in run.signal("val/accuracy")] == [7, 14, 21, 28]
    shape = RECIPE.shape(4)
    assert [lr for _, lr in run.signal("train/lr")] == pytest.approx([0.03 * shape(step // 7) for step in range(28)])
    events = EventAccumulator(str(run.dir / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in run.signal(name)
        ]
    summary = json.loads((run.dir / "summary.json").read_text())
    assert (summary["status"], summary["epochs"], summary["steps"]) == ("finished", 4, 28)
    assert (run.dir / summary["best"]["path"] / "model.safetensors").is_file()
    assert sf.Recipe.load(run.dir / "recipe.toml") == RECIPE
    assert run.task["task"] == "toy"


def test_the_best_checkpoint_is_the_best(tmp_path):
    run = sf.train(toy(), RECIPE.replace(epochs=8), tmp_path / "run", quiet=True)
    values = [value for _, value in run.signal("val/accuracy")]
    assert run.best.values["val/accuracy"] == max(values)
    assert run.best.epoch == values.index(max(values)) + 1
    task = toy()
    model = task.model()
    run.best.load_model(model)
    right, count = sf.metrics.accuracy(model(task.val[0]), task.val[1])
    assert right / count == max(values)


def test_validation_is_in_eval_mode_without_gradients_over_every_item(tmp_path):
    modes = []

    def metric(outputs, targets):
        modes.append((outputs.requires_grad, len(targets)))
        return outputs.mean()  # a mean: weighted by its batch

    task = toy(metric=metric, model=lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))
    run = sf.train(task, RECIPE.replace(epochs=1), tmp_path / "run", quiet=True)
    assert modes == [(False, 10)] * 6 + [(False, 4)]
    model = task.model()
    run.last.load_model(model)
    outputs = model.eval()(task.val[0])
    assert run.last.values["val/metric"] == pytest.approx(outputs.mean().item(), abs=1e-6)
    assert run.last.values["val/loss"] == pytest.approx(F.cross_entropy(outputs, task.val[1]).item(), abs=1e-6)


def test_validating_changes_no_training(tmp_path):
    data = torch.utils.data.ConcatDataset([torch.utils.data.TensorDataset(*toy().val)])
    runs = [
        sf.train(toy(model=noisy, val=val, metric=None), RECIPE, tmp_path / str(i), quiet=True)
        for i, val in enumerate((None, data, toy().val))
    ]
    assert runs[0].signal("train/loss") == runs[1].signal("train/loss") == runs[2].signal("train/loss")


def test_it_trains_under_no_grad_too(tmp_path):
    with torch.no_grad():
        assert sf.train(toy(), RECIPE, tmp_path / "run", quiet=True).summary["status"] == "finished"


def test_without_validation_there_is_a_last_checkpoint_but_no_best(tmp_path):
    run = sf.train(toy(val=None, metric=None), RECIPE, tmp_path / "run", quiet=True)
    assert run.best is None
    assert run.last.epoch == 4


def test_the_tasks_own_recipe_is_taken_where_no_other_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = sf.train(toy(recipe=RECIPE), quiet=True)
    assert run.recipe == RECIPE
    assert run.dir.as_posix() == "runs/toy"


def test_seeds_decide_everything(tmp_path):
    one, same, other = (
        sf.train(toy(), RECIPE.replace(seed=seed), tmp_path / name, quiet=True)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.signal("train/loss") == same.signal("train/loss") != other.signal("train/loss")


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    sf.train(toy(), RECIPE, tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/4  loss 0.")
    for word in ("lr 3.00e-03", "|g|", "val loss", "accuracy", " %", "best", "left 0:00:0"):
        assert word in lines[0]
