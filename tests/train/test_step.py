"""One step: accumulation is the large batch, whatever the loss is normalised by; precision; memory."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, toy

import surefoot as sf
from surefoot.errors import UserError
from surefoot.train.distributed import Processes
from surefoot.train.ledger import Laps
from surefoot.train.step import Step

CPU = torch.device("cpu")


def step_of(task: sf.Task, model: nn.Module, **changes) -> Step:
    recipe = RECIPE.replace(optimizer="sgd", lr=0.0, clip_norm=None, **changes)
    return Step(task, model, recipe.create_optimizer(model), recipe, CPU, Laps(), Processes())


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 5))


def token_loss(model: nn.Module, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over the tokens that count, and how many those are."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten(), ignore_index=-1, reduction="sum"), (y >= 0).sum()


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def error(model: nn.Module, reference: nn.Module) -> float:
    one, other = gradient(model).double(), gradient(reference).double()
    return float((one - other).norm() / other.norm())


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), tokens=st.booleans(), seed=st.integers(0, 99))
def test_several_batches_give_the_gradient_of_the_large_one(sizes, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x = torch.randn(n, 7, 4, generator=generator) if tokens else torch.randn(n, 4, generator=generator)
    y = torch.randint(-1 if tokens else 0, 5, x.shape[:-1], generator=generator)
    y.view(-1)[0] = 0
    task = (
        sf.Task(model=mlp, step=token_loss, train=(x, y))
        if tokens
        else sf.Task(model=mlp, loss=F.cross_entropy, train=(x, y))
    )
    models = [mlp(), mlp()]
    step = step_of(task, models[0])
    loss, _ = step(list(zip(x.split(sizes), y.split(sizes), strict=True)))
    whole = task.outcome(models[1], (x, y))
    whole.loss.backward()
    assert error(*models) < 1e-6
    assert loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)


def test_a_training_with_accumulation_is_one_with_large_batches(tmp_path):
    small = RECIPE.replace(batch_size=4, accumulate=4)
    large = RECIPE.replace(batch_size=16)
    runs = [sf.train(toy(60), r, tmp_path / str(i), quiet=True) for i, r in enumerate((small, large))]
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        ours, theirs = (run.signal(name) for run in runs)
        assert [s for s, _ in ours] == [s for s, _ in theirs]
        assert [v for _, v in ours] == pytest.approx([v for _, v in theirs], rel=1e-4)
    assert runs[0].summary["ledger"]["effective_batch"] == 15  # 60 in 4 steps


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_in_it_and_trains(tmp_path, precision):
    seen = set()

    def loss(outputs, targets):
        seen.add(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    run = sf.train(toy(loss=loss), RECIPE.replace(precision=precision, epochs=10), tmp_path / "run", quiet=True)
    assert seen == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert run.best.values["val/accuracy"] > 0.9
    model = toy().model()
    run.last.load_model(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    scaler = run.last.state()["step"]["scaler"]
    assert bool(scaler) == (precision == "fp16")


def test_where_memory_runs_out_batches_are_divided_and_the_gradient_stays(caplog):
    class Small(nn.Linear):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    x, y = torch.randn(10, 4), torch.randint(0, 5, (10,))
    torch.manual_seed(0)
    model = Small(4, 5)
    reference = nn.Linear(4, 5)
    reference.load_state_dict(model.state_dict())
    step = step_of(sf.Task(model=lambda: model, loss=F.cross_entropy, train=(x, y)), model)
    with caplog.at_level(logging.WARNING):
        loss, _ = step([(x, y)])
    whole = F.cross_entropy(reference(x), y)
    whole.backward()
    assert error(model, reference) < 1e-6
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert "divided into 4 parts" in caplog.text
    assert step.state_dict()["parts"] == 4


def test_a_batch_that_cannot_be_divided_further_is_an_error():
    class Never(nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError("out of memory")

    model = Never(4, 5)
    data = (torch.randn(4, 4), torch.zeros(4, dtype=torch.long))
    step = step_of(sf.Task(model=lambda: model, loss=F.cross_entropy, train=data), model)
    with pytest.raises(UserError, match=r"cannot be divided further \(4 parts\).*recompute"):
        step([data])


def test_other_errors_are_not_taken_for_memory():
    task = sf.Task(model=mlp, loss=F.cross_entropy, train=(torch.zeros(2, 4), torch.zeros(2).long()))
    step = step_of(task, mlp())
    with pytest.raises(RuntimeError, match="multiplied"):
        step([(torch.zeros(2, 5), torch.zeros(2).long())])


def test_recomputed_activations_change_nothing(tmp_path):
    """The same gradients bit for bit, dropout included; and names in the state stay."""

    def model():
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.5)) for _ in range(3)]
        return nn.Sequential(nn.Linear(4, 8), nn.Sequential(*blocks), nn.Linear(8, 2))

    calls = []

    class Counted(nn.GELU):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    def counted():
        made = model()
        for block in made[1]:
            block[1] = Counted()
        return made

    plain, less = (
        sf.train(
            toy(model=counted, val=None, metric=None), RECIPE.replace(recompute=pattern), tmp_path / name, quiet=True
        )
        for name, pattern in (("plain", None), ("less", "1.*"))
    )
    assert plain.signal("train/loss") == less.signal("train/loss")
    assert len(calls) == 3 * 28 * (1 + 2)
    model().load_state_dict(copy.deepcopy(less.last.weights_dict()))


def test_a_pattern_without_modules_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"recompute='blocks.\*': no module has such a name; they are 0, 1, 2"):
        sf.train(toy(), RECIPE.replace(recompute="blocks.*"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_channels_last_changes_the_memory_not_the_training(tmp_path):
    def model():
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Seen(), nn.Flatten(), nn.Linear(4 * 16, 2))

    formats = set()

    class Seen(nn.Identity):
        def forward(self, x):
            formats.add(x.is_contiguous(memory_format=torch.channels_last))
            return x

    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(24, 3, 4, 4, generator=generator), torch.randint(0, 2, (24,), generator=generator))
    task = toy(model=model, train=data, val=data)
    last = sf.train(task, RECIPE.replace(channels_last=True), tmp_path / "last", quiet=True)
    assert formats == {True}
    first = sf.train(task, RECIPE, tmp_path / "first", quiet=True)
    ours, theirs = ([v for _, v in run.signal("train/loss")] for run in (last, first))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(tmp_path):
    runs = [
        sf.train(toy(), RECIPE.replace(compile=compiled), tmp_path / str(compiled), quiet=True)
        for compiled in (False, True)
    ]
    ours, theirs = ([v for _, v in run.signal("train/loss")] for run in runs)
    assert ours == pytest.approx(theirs, rel=1e-4)
    toy().model().load_state_dict(runs[1].last.weights_dict())  # the same names
