from __future__ import annotations

import pytest
import torch

import surefoot as sf


@pytest.mark.parametrize("name", sf.optim.names())
def test_every_name_makes_an_optimizer_that_steps(name):
    model = torch.nn.Linear(3, 2)
    opt = sf.optim.create(name, model)
    before = model.weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    assert not torch.equal(model.weight, before)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]


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
        ("adanw", {}, "unknown optimizer adanw: did you mean adamw?"),
        ("zzz", {}, "known are adagrad, adam"),
        ("adam", {"weight_deacy": 1}, "unknown option of adam weight_deacy: did you mean weight_decay?"),
        ("sgd", {"params": []}, "unknown option of sgd params"),
        ("adam", {"lr": -1}, "lr=-1"),
    ],
)
def test_mistakes_are_named(name, options, words):
    with pytest.raises(sf.UserError) as error:
        sf.optim.create(name, torch.nn.Linear(1, 1), **options)
    assert words in str(error.value)
