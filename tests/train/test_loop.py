from __future__ import annotations

import json
import math
import os
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F

import surefoot as sf
from surefoot.train.data import Batches
from surefoot.train.stop import Interrupted


def toy(n: int = 64, **changes) -> sf.Task:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, generator=generator)
    data = (x, (x.sum(1) > 0).long())
    options = {
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        "loss": nn.CrossEntropyLoss(),
        "train": data,
        "val": data,
        "metric": sf.metrics.accuracy,
        "name": "toy",
    }
    return sf.Task(**{**options, **changes})


RECIPE = sf.Recipe(lr=0.03, epochs=4, batch_size=10, schedule="linear(0.1, 1, 2) >> cosine", clip_norm=0.5, seed=3)


def weights(task: sf.Task, checkpoint) -> list[torch.Tensor]:
    model = task.model()
    checkpoint.load_model(model)
    return [p.detach() for p in model.parameters()]


def noisy() -> nn.Module:
    """A model to which modes and random numbers matter."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


@pytest.mark.parametrize("model", [toy().model, noisy], ids=["plain", "noisy"])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_it_is_the_hand_written_loop_bit_for_bit(tmp_path, every, model):
    """The guide's template with the same batches ends at exactly the same weights."""
    task, recipe = toy(model=model), RECIPE.replace(schedule_every=every)
    run = sf.train(task, recipe, tmp_path / "run", quiet=True)

    torch.manual_seed(recipe.seed)
    model = task.model()
    optimizer = sf.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = Batches(task.train, 10, recipe.seed, "training")
    schedule = sf.schedule.drive(optimizer, lr=recipe.schedule, total=4 if every == "epoch" else 4 * len(batches))
    norms = []
    for epoch in range(4):
        model.train()
        for inputs, targets in batches.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
            optimizer.step()
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [3, 7, 12, 28])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_stopping_and_going_on_changes_nothing(tmp_path, stop_at, signum, every):
    """Stopped after any step, the resumed run ends at the weights and the record of the one never stopped."""
    recipe, calls = RECIPE.replace(schedule_every=every), []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signum)
        return F.cross_entropy(outputs, targets)

    whole = sf.train(toy(), recipe, tmp_path / "whole", quiet=True)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        sf.train(toy(loss=loss), recipe, tmp_path / "run", quiet=True)
    assert stopped.value.signum == signum
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    run = sf.Run(tmp_path / "run")
    assert run.last.step == run.summary["steps"] == stop_at
    assert run.summary["status"] == "interrupted"

    run = sf.train(toy(loss=loss), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.summary["status"] == "finished"
    pairs = zip(weights(toy(), run.last), weights(toy(), whole.last), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    for name in ("train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"):
        assert run.signal(name) == whole.signal(name)


def test_stopping_while_validating(tmp_path):
    calls = []

    def metric(outputs, targets):
        calls.append(1)
        if len(calls) == 10:  # in the second validation
            signal.raise_signal(signal.SIGINT)
        return sf.metrics.accuracy(outputs, targets)

    metric.__name__ = "accuracy"
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
    run = sf.train(toy(), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("val/loss") == whole.signal("val/loss")
    assert run.signal("train/lr") == whole.signal("train/lr")


def test_a_second_signal_stops_at_once(tmp_path):
    def loss(outputs, targets):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    with pytest.raises(Interrupted, match="at once"):
        sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()  # nothing had happened yet


def test_resuming_refuses_another_task_or_recipe(tmp_path, caplog):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="trains toy, not other"):
        sf.train(toy(name="other"), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match=r"a resumed run keeps its recipe: lr is 0\.03"):
        sf.train(toy(), RECIPE.replace(lr=1.0), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match="there is no run in"):
        sf.train(toy(), dir=tmp_path / "none", resume=True)
    again = sf.train(toy(), RECIPE, dir=run.dir, resume=True, quiet=True)  # finished: nothing is left to do
    assert again.summary["steps"] == 28


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    killed = sf.Run.create(tmp_path / "run", toy(), RECIPE)
    run = sf.train(toy(), dir=killed.dir, resume=True, quiet=True)
    assert run.signal("train/loss") == whole.signal("train/loss")


def nan_after(step: int):
    seen = []

    def loss(outputs, targets):
        seen.append(1)
        return F.cross_entropy(outputs, targets) * (float("nan") if len(seen) >= step else 1)

    return loss


def test_a_loss_that_is_no_number_is_named_with_its_step(tmp_path):
    with pytest.raises(sf.UserError, match=r"the loss is nan at step 1 \(the first\)"):
        sf.train(toy(loss=nan_after(1)), RECIPE, tmp_path / "first", quiet=True)
    assert not (tmp_path / "first").exists()
    task = toy(loss=nan_after(12), val=None, metric=None)
    with pytest.raises(sf.UserError, match=r"the loss is nan at step 12.*last checkpoint, of step 7"):
        sf.train(task, RECIPE, tmp_path / "later", quiet=True)
    run = sf.Run(tmp_path / "later")
    assert run.summary["status"] == "failed"
    assert all(torch.isfinite(p).all() for p in weights(toy(), run.last))


LONG = (torch.zeros(20, 2, dtype=torch.long), torch.zeros(20, dtype=torch.long))


class Bytes(nn.Identity):
    def get_extra_state(self):
        return b"bytes"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": (torch.zeros(0, 4), torch.zeros(0))}, "the training data are empty"),
        ({"val": (torch.zeros(0, 4), torch.zeros(0))}, "the validation data are empty"),
        ({"model": lambda: nn.Flatten()}, "no trainable parameters"),
        ({"model": lambda: nn.Linear(4, 2).requires_grad_(False)}, "no trainable parameters"),
        ({"model": lambda: 3}, "must return a model"),
        ({"train": [1, 2]}, "not (int, int)"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss must return one number"),
        (
            {"model": lambda: nn.Sequential(nn.Linear(4, 2), Bytes())},
            "cannot save 1._extra_state: a bytes needs pickle",
        ),
        (
            {"model": lambda: nn.Sequential(nn.Embedding(9, 2, sparse=True), nn.Flatten()), "train": LONG},
            "sparse=False",
        ),
        ({"loss": lambda o, t: torch.tensor(1.0)}, "does not require grad"),
        ({"loss": lambda o, t: t.missing}, r"failed at step 1, on the batch (float32 [10, 4], int64 [10]): Attribute"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, words):
    with pytest.raises(sf.UserError) as error:
        sf.train(toy(**changes), RECIPE, tmp_path / "run", quiet=True)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_metric_is_named_and_the_run_may_be_replaced(tmp_path):
    for metric, words in ((lambda o, t: "good", "must return a number"), (lambda o, t: (1,), "must return a number")):
        with pytest.raises(sf.UserError, match=words):
            sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
        assert sf.Run(tmp_path / "run").summary["status"] == "failed"
    assert sf.train(toy(), RECIPE, tmp_path / "run", quiet=True).summary["status"] == "finished"


def test_a_last_batch_of_one_is_named(tmp_path):
    with pytest.raises(sf.UserError, match=r"failed at step 8, on the batch \(float32 \[1, 4\], .*more than 1 value"):
        sf.train(toy(model=noisy), RECIPE.replace(batch_size=9), tmp_path / "run", quiet=True)


def test_the_users_own_folders_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    for dir in (tmp_path / "mine", tmp_path / "deep" / "er" / "run"):
        with pytest.raises(sf.UserError, match="the first"):
            sf.train(toy(loss=nan_after(1)), RECIPE, dir, quiet=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    (tmp_path / "file").write_text("")
    with pytest.raises(sf.UserError, match=r"cannot write to .*: Not a directory"):
        sf.train(toy(), RECIPE, tmp_path / "file" / "run", quiet=True)


def test_resuming_never_removes_anything(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = weights(toy(), run.last)
    (run.dir / "record.sqlite").unlink()
    (run.dir / "checkpoints" / "index.json").unlink()
    again = sf.train(toy(), dir=run.dir, resume=True, quiet=True)  # the newest checkpoint is found without its index
    assert all(torch.equal(p, q) for p, q in zip(weights(toy(), again.last), before, strict=True))
    assert again.summary["steps"] == 28


@pytest.mark.parametrize("file", ["task.json", "recipe.toml", "checkpoints/index.json", "record.sqlite", "state"])
def test_damaged_files_are_named(tmp_path, file):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    path = run.last.path / "state.safetensors" if file == "state" else run.dir / file
    path.write_bytes(b"[damaged\n" * 9)
    with pytest.raises(sf.UserError, match=path.name):
        sf.train(toy(), dir=run.dir, resume=True, quiet=True)
    assert run.dir.is_dir()


def test_another_model_is_refused(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="does not fit the model"):
        sf.train(toy(model=noisy), dir=run.dir, resume=True, quiet=True)


def test_two_processes_never_train_in_one_directory(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = run.summary
    with run.opened(), pytest.raises(sf.UserError, match="another process is training"):
        sf.train(toy(), dir=run.dir, resume=True, quiet=True)
    assert run.summary == before


def test_a_gradient_that_is_no_number_is_caught_before_it_is_saved(tmp_path):
    """The loss of the epoch's last step is sound, its gradient is not: the weights after it must not be kept."""
    steps = []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            steps.append(1)
            if len(steps) == 14:
                outputs.register_hook(lambda grad: grad * float("nan"))
        return F.cross_entropy(outputs, targets)

    with pytest.raises(sf.UserError, match=r"the gradient's norm is nan at step 14: .* of step 7, stands"):
        sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
    run = sf.Run(tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in weights(toy(), run.last))
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, 15))  # what led there is on record
    assert "step 14" in run.summary["reason"]


def test_a_validation_that_is_no_number_is_no_best(tmp_path):
    def metric(outputs, targets):
        return float("nan")

    run = sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
    assert run.best is None
    assert math.isnan(run.last.values["val/metric"])
    for path in (run.dir / "summary.json", run.last.path / "manifest.json"):
        assert "NaN" not in path.read_text()
    assert run.summary["last"]["val/metric"] is None


def test_stopping_before_the_first_step(tmp_path):
    class Model(nn.Linear):
        def train(self, mode=True):
            signal.raise_signal(signal.SIGINT)
            return super().train(mode)

    with pytest.raises(Interrupted, match="before the first step"):
        sf.train(toy(model=lambda: Model(4, 2)), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_signal_in_the_last_moment_is_not_lost(tmp_path, monkeypatch):
    save = sf.Run.save

    def stops(run, *args, **kwargs):
        save(run, *args, **kwargs)
        if args[2] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sf.Run, "save", stops)
    with pytest.raises(Interrupted, match="complete"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert sf.Run(tmp_path / "run").summary["status"] == "finished"


def test_ignored_signals_stay_ignored(tmp_path):
    def loss(outputs, targets):
        signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
        assert run.summary["status"] == "finished"
    finally:
        signal.signal(signal.SIGINT, before)


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


def test_resuming_a_dataloader_in_mid_epoch_warns(tmp_path, caplog):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*toy().train), batch_size=10, shuffle=True)
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    with pytest.raises(Interrupted):
        sf.train(toy(loss=loss, train=loader), RECIPE, tmp_path / "run", quiet=True)
    sf.train(toy(train=loader), dir=tmp_path / "run", resume=True, quiet=True)
    assert "may come twice" in caplog.text


def test_an_error_in_the_first_step_leaves_nothing_behind(tmp_path):
    with pytest.raises(
        sf.UserError, match=r"step 1, on the batch \(float32 \[10, 4\], int64 \[10\]\): .* be multiplied"
    ):
        sf.train(toy(model=lambda: nn.Linear(5, 2)), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_used_directory_is_refused(tmp_path):
    sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(sf.UserError, match="already holds a run"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*")) == before


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
