from __future__ import annotations

import pytest
import torch

import surefoot as sf


@pytest.mark.parametrize("name", sf.optim.names())
def test_every_name_makes_an_optimizer_that_steps(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    opt = sf.optim.create(name, model)
    before = [p.detach().clone() for p in model.parameters()]

    def closure():
        opt.zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    for _ in range(3):  # the first gradient only starts some
        opt.step(closure)
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    names = sorted(name for group in opt.param_groups for name in group["param_names"])
    assert names == ["0.bias", "0.weight", "2.bias", "2.weight"]


@pytest.mark.parametrize("name", sf.optim.names())
def test_what_is_known_of_every_name(name):
    known = sf.optim.info(name)
    text = str(known)
    for part in (
        known.name,
        known.paper[:20],
        known.where[:12],
        known.suits[:20],
        known.weakness[:20],
        "bytes a parameter",
    ):
        assert part in text
    assert known.within >= 1
    assert known.defaults["lr"] == sf.optim.create(name, [torch.nn.Parameter(torch.ones(2, 2))]).defaults["lr"]


def test_bytes_are_those_of_the_states():
    known = {name: sf.optim.info(name).bytes for name in ("sgd", "lion", "adamw", "adan", "adafactor")}
    assert known == pytest.approx({"sgd": 0, "lion": 4, "adamw": 8, "adan": 16, "adafactor": 8 / 512})


def test_the_knowledge_is_of_the_names_there_are():
    from surefoot.optim.info import _knowledge

    assert sorted(_knowledge()) == sf.optim.names()


def test_a_plan_is_printed_on_request(capsys):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    sf.optim.create("muon", model, show=True)
    out = capsys.readouterr().out
    assert "algorithm muon" in out
    assert "algorithm adamw, lr 0.0003" in out
    sf.optim.create("adamw", model, show=True)
    assert "0.weight, 0.bias ..." in capsys.readouterr().out


def test_options_reach_the_optimizer():
    opt = sf.optim.create("sgd-momentum", [torch.nn.Parameter(torch.ones(1))], lr=0.3, nesterov=True)
    assert {k: opt.param_groups[0][k] for k in ("lr", "momentum", "nesterov")} == {
        "lr": 0.3,
        "momentum": 0.9,
        "nesterov": True,
    }


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adammw", {}, "unknown optimizer adammw: did you mean adamw"),
        ("zzz", {}, "known are adabelief, adadelta"),
        ("adam", {"weight_deacy": 1}, "unknown option of adam weight_deacy: did you mean weight_decay?"),
        ("sgd", {"params": []}, "unknown option of sgd params"),
        ("adam", {"lr": -1}, "lr=-1"),
    ],
)
def test_mistakes_are_named(name, options, words):
    with pytest.raises(sf.UserError) as error:
        sf.optim.create(name, torch.nn.Linear(1, 1), **options)
    assert words in str(error.value)
