"""What users type: names, signatures and flags. A change here is a change of the product, made on purpose."""

from __future__ import annotations

import argparse
import dataclasses
import inspect

import pytest

import surefoot as sf
from surefoot import cli

NAMES = {
    sf: "Recipe Run Task UserError metrics optim schedule train",
    sf.optim: (
        "ADOPT AGC ASGD LAMB LARS LBFGS MARS SAM SGD SOAP AdEMAMix AdaBelief AdaGC Adadelta Adafactor Adagrad "
        "Adam AdamW Adamax Adan Clip Groups Info LaProp Lion Lookahead Muon NAdam NAdamW Norms Optimizer "
        "Options Prodigy RAdam RMSprop Report Rprop ScheduleFreeAdamW ScheduleFreeSGD Shampoo Signum "
        "SparseAdam SpikeClip StableAdamW Yogi ZClip create info names param_groups"
    ),
    sf.schedule: "Driver Schedule constant cosine drive linear parse step",
}

SIGNATURES = {
    "train": "(task, recipe=None, dir=None, *, resume=False, device=None, quiet=False)",
    "Task": "(*, model, loss=None, train=None, val=None, metric=None, step=None, recipe=None, name='', source=None)",
    "Recipe": (
        "(*, optimizer='adamw', lr=None, weight_decay=None, options=<factory>, schedule='cosine', "
        "schedule_every='epoch', epochs=20, batch_size=64, clip_norm=None, seed=0)"
    ),
    "Recipe.replace": "(self, **changes)",
    "Recipe.to_toml": "(self)",
    "Recipe.from_toml": "(text, where='recipe')",
    "Recipe.save": "(self, path)",
    "Recipe.load": "(path)",
    "Recipe.code": "(self)",
    "Run": "(dir)",
    "Run.signal": "(self, name)",
    "optim.create": "(name, model, *, show=False, **options)",
    "optim.names": "()",
    "optim.info": "(name)",
    "optim.param_groups": (
        "(model, *, lr=None, weight_decay=None, no_decay='norm,bias,embedding', layer_decay=None, overrides=None, "
        "freeze=None)"
    ),
    "optim.AGC": "(clipping=0.01, eps=0.001)",
    "optim.ZClip": "(alpha=0.97, threshold=2.5, warmup=25)",
    "optim.AdaGC": "(ratio=1.05, beta=0.98, warmup=100, max_norm=1.0)",
    "optim.SpikeClip": "(threshold=50.0, beta=0.99, warmup=10)",
    "optim.Lookahead": "(optimizer, k=5, alpha=0.5)",
    "optim.SAM": "(optimizer, rho=0.05, adaptive=False, eta=0.01)",
    "optim.SAM.step": "(self, closure)",
    "optim.Optimizer.evaluating": "(self)",
    "optim.ScheduleFreeAdamW.guard": "(self, model)",
    "optim.Optimizer.train": "(self)",
    "optim.Optimizer.eval": "(self)",
    "optim.Optimizer.refresh_batch_norm": "(self, model, batches, forward=None)",
    "optim.Clip": "(max_norm, norm_type=2.0, per_group=False, error_if_nonfinite=False)",
    "optim.Optimizer.averaged": "(self)",
    "optim.Optimizer.step_in_backward": "(self, every=1)",
    "optim.Optimizer.state_dict": "(self, format='surefoot')",
    "optim.Optimizer.load_state_dict": "(self, state_dict, keep=())",
    "schedule.constant": "(factor=1, length=None)",
    "schedule.step": "(every, gamma=0.1, length=None)",
    "schedule.linear": "(start, end, length=None)",
    "schedule.cosine": "(length=None, floor=0)",
    "schedule.drive": "(optimizer, lr, total=None)",
    "schedule.parse": "(text)",
    "schedule.Driver.step": "(self)",
    "schedule.Driver.state_dict": "(self)",
    "schedule.Driver.load_state_dict": "(self, state)",
    "metrics.accuracy": "(outputs, targets)",
    "metrics.squared_error": "(outputs, targets)",
}  # the optimizers' constructors are torch's, see tests/optim/test_dropin.py

FLAGS = {
    "train": (
        "task --batch-size --clip-norm --device --dir --epochs --help --lr --optimizer --option --quiet --recipe "
        "--resume --schedule --schedule-every --seed --traceback --weight-decay"
    ),
    "tasks": "--help --traceback",
    "explain": "name --help --traceback",
}


def plain(signature: inspect.Signature) -> str:
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("module", NAMES, ids=lambda m: m.__name__)
def test_names(module):
    assert sorted(module.__all__) == sorted(NAMES[module].split())
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    thing = sf
    for part in name.split("."):
        thing = getattr(thing, part)
    assert plain(inspect.signature(thing)) == SIGNATURES[name]
    assert thing.__doc__


def test_commands_and_flags():
    (commands,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    found = {
        name: sorted(flag for a in command._actions for flag in a.option_strings[-1:] or [a.dest])
        for name, command in commands.choices.items()
    }
    assert found == {name: sorted(flags.split()) for name, flags in FLAGS.items()}


def test_every_setting_of_a_recipe_has_a_flag():
    settings = {f.name for f in dataclasses.fields(sf.Recipe)} - {"options"}
    assert {f"--{name.replace('_', '-')}" for name in settings} <= set(FLAGS["train"].split())


def test_the_function_train_is_not_hidden_by_its_module():
    import surefoot.train.loop

    assert callable(sf.train)
    assert surefoot.train is sf.train
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = sf.trian


def test_version():
    from importlib.metadata import version

    assert sf.__version__ == version("surefoot")
