from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

import surefoot as sf
from surefoot.schedule import drive

SCHEDULES = ["constant", "cosine", "cosine(30, 0.1)", "step(3, 0.5)", "linear(0.1, 1, 5) >> cosine", "linear(1, 0)"]
recipes = st.builds(
    sf.Recipe,
    optimizer=st.sampled_from([name for name in sf.optim.names() if "weight_decay" in sf.optim.info(name).defaults]),
    lr=st.none() | st.floats(0, 10),
    weight_decay=st.none() | st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    schedule_every=st.sampled_from(["epoch", "step"]),
    epochs=st.integers(1, 10**6),
    batch_size=st.integers(1, 10**6),
    clip_norm=st.none() | st.floats(0.01, 100),
    seed=st.integers(0, 2**40),
)


@settings(deadline=None)
@given(recipes)
def test_toml_round_trip(recipe):
    assert sf.Recipe.from_toml(recipe.to_toml()) == recipe


def test_options_survive_toml(tmp_path):
    recipe = sf.Recipe(options={"betas": (0.9, 0.95), "amsgrad": True, "eps": 1e-7})
    recipe.save(tmp_path / "recipe.toml")
    assert sf.Recipe.load(tmp_path / "recipe.toml") == recipe
    assert recipe.create_optimizer([torch.ones(1)]).param_groups[0]["betas"] == (0.9, 0.95)


def test_what_is_not_given_is_the_optimizers_usual():
    assert (sf.Recipe().lr, sf.Recipe().weight_decay) == (1e-3, 1e-2)
    assert (sf.Recipe(optimizer="sgd").lr, sf.Recipe(optimizer="sgd").weight_decay) == (1e-2, 0)


def test_replace_forgets_what_belonged_to_the_old_optimizer():
    recipe = sf.Recipe(lr=0.5, options={"amsgrad": True}, epochs=7)
    other = recipe.replace(optimizer="sgd-momentum", options={"nesterov": True})
    assert (other.lr, other.weight_decay, other.epochs) == (1e-2, 0, 7)
    assert other.options == {"nesterov": True}
    assert recipe.replace(epochs=3).lr == 0.5
    with pytest.raises(sf.UserError, match="epoch: did you mean epochs"):
        recipe.replace(epoch=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weight_deacy = 1", "weight_deacy: did you mean weight_decay?"),
        ("learning_rate = 1", "unknown key in recipe: learning_rate"),
        ("lr = -0.1", "lr=-0.1 must be 0 or more"),
        ("lr = 'fast'", "lr='fast' must be a number"),
        ("lr = true", "lr=True must be a number"),
        ("lr = inf", "lr=inf must be a finite number"),
        ("lr = nan", "lr=nan"),
        ("epochs = 1.5", "epochs=1.5 must be a whole number"),
        ("epochs = 0", "epochs=0 must be 1 or more"),
        ("batch_size = 0", "batch_size=0"),
        ("seed = -1", "seed=-1"),
        ("clip_norm = 0", "clip_norm=0"),
        ("optimizer = 'adamv'", "unknown optimizer adamv: did you mean adam"),
        ("optimizer = 5", "optimizer must be text"),
        ("schedule = 'cosin'", "cosin: did you mean cosine?"),
        ("schedule = 5", "schedule must be text"),
        ("schedule_every = 'day'", "must be epoch or step"),
        ("seed = 18446744073709551616", "must be below 2 ** 64"),
        ("[options]\namsgrad = 'no'", "amsgrad='no'"),
        ("[options]\ndifferentiable = true", "differentiable is for loops of your own"),
        ("options = 3", "options must be names with values"),
        ("[options]\nlr = 1", "lr is a key of its own"),
        ("[options]\nmomentun = 1", "unknown option of adamw momentun"),
        ("[options]\nbetas = 1", "betas=1"),
        ("[options]\nbetas = ['a', 'b']", "betas=('a', 'b')"),
        ("[options]\neps = 'small'", "eps='small': it must be a number"),
        ("lr = ", "recipe is not TOML"),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(sf.UserError) as error:
        sf.Recipe.from_toml(text)
    assert words in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(sf.UserError, match=r"cannot read the recipe .*No such file"):
        sf.Recipe.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(sf.UserError, match="not UTF-8"):
        sf.Recipe.load(tmp_path / "bytes.toml")


def code_of(recipe: sf.Recipe) -> dict:
    namespace: dict = {}
    exec(compile(recipe.code(), "recipe.code()", "exec"), namespace)
    return namespace


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "recipe",
    [
        sf.Recipe(lr=0.01, weight_decay=1e-4, schedule="linear(0.1, 1, 2) >> cosine", epochs=6, clip_norm=0.1),
        sf.Recipe(optimizer="sgd-momentum", lr=0.1, schedule="step(2, 0.5)", epochs=6, options={"nesterov": True}),
        sf.Recipe(optimizer="sgd", lr=0.1, schedule="constant(0.5, 3) >> linear(1, 0)", epochs=6, clip_norm=1.0),
        sf.Recipe(optimizer="adam", schedule="cosine(4, 0.1)", schedule_every="step", epochs=6),
        sf.Recipe(
            optimizer="rmsprop", schedule="linear(0, 1, 3) >> cosine(floor=0.2)", schedule_every="step", epochs=6
        ),
        sf.Recipe(optimizer="adagrad", schedule="linear(0, 1, 8) >> cosine", schedule_every="step", epochs=6),
    ],
)
def test_the_code_trains_as_the_recipe_does(recipe, tmp_path, monkeypatch, capsys):
    """The printed code, run with plain torch, ends at the weights of sf.train (one batch: their orders differ)."""
    monkeypatch.chdir(tmp_path)
    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    task = sf.Task(model=make_model, loss=nn.CrossEntropyLoss(), train=(x, y), val=(x, y))
    run = sf.train(task, recipe, tmp_path / "run", quiet=True)
    ours = make_model()
    run.last.load_model(ours)

    data = TensorDataset(x, y)
    theirs = code_of(recipe)["train"](make_model, nn.CrossEntropyLoss(), data, data)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert capsys.readouterr().out.count("validation loss") == 6
    assert (tmp_path / "best_model.pth").exists()
    assert "surefoot" not in recipe.code()


@settings(deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(6, 100))
def test_the_codes_factor_is_the_schedule(schedule, epochs):
    recipe = sf.Recipe(schedule=schedule, epochs=epochs)
    definitions, _, training = recipe.code().partition("def train(")
    lines = training.splitlines()
    first = next(i for i, line in enumerate(lines) if "def factor" in line)
    last = next(i for i, line in enumerate(lines) if "LambdaLR(optimizer" in line)
    namespace = {"total": epochs}
    exec(definitions, namespace)
    exec("\n".join(line[4:] for line in lines[first:last]), namespace)
    shape = recipe.shape(epochs)
    assert [namespace["factor"](t) for t in range(epochs)] == pytest.approx(
        [shape(t) for t in range(epochs)], abs=1e-12
    )


def test_the_shape_can_be_driven():
    recipe = sf.Recipe(schedule="linear(0.1, 1, 5) >> cosine", epochs=20)
    opt = recipe.create_optimizer(nn.Linear(1, 1))
    drive(opt, lr=recipe.shape(20))
    assert opt.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_what_a_recipe_cannot_be():
    with pytest.raises(sf.UserError, match="lbfgs asks for the loss again and again"):
        sf.Recipe(optimizer="lbfgs")
    with pytest.raises(sf.UserError, match="unknown option of rprop weight_decay"):
        sf.Recipe(optimizer="rprop", weight_decay=0.1)
    for name in ("lion", "muon"):
        with pytest.raises(sf.UserError, match=f"plain PyTorch has no {name}"):
            sf.Recipe(optimizer=name).code()
    assert "torch.optim.Rprop(model.parameters(), lr=0.001)" in sf.Recipe(optimizer="rprop").code()
