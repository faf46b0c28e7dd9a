"""What users type: names, signatures and flags. A change here is a change of the product, made on purpose."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from types import SimpleNamespace

import pytest

import surefoot as sf
from surefoot import cli
from surefoot.diagnose.watch import Watch

NAMES = {
    sf: "Recipe Run Task UserError metrics optim prove_resume schedule train watch",
    sf.optim: (
        "ADOPT AGC ASGD AdEMAMix AdaBelief AdaGC Adadelta Adafactor Adagrad Adam AdamW Adamax Adan Clip "
        "Groups Info LAMB LARS LBFGS LaProp Lion Lookahead MARS Muon NAdam NAdamW Norms Optimizer Options "
        "Prodigy RAdam RMSprop Report Rprop SAM SGD SOAP ScheduleFreeAdamW ScheduleFreeSGD Shampoo Signum "
        "SparseAdam SpikeClip StableAdamW Yogi ZClip create info names param_groups "
        "refresh_batch_norm"
    ),
    sf.schedule: (
        "Driver Schedule TORCH constant cosine cosine_restarts cyclic drive exponential from_torch function "
        "inverse_sqrt linear multistep one_cycle parse piecewise plateau polynomial power rex step warmup wsd"
    ),
}

SIGNATURES = {
    "train": (
        "(task, recipe=None, dir=None, *, resume=False, device=None, quiet=False, workers=0, distributed=None, "
        "callbacks=None, watch=True)"
    ),
    "watch": "(model, optimizer, loss=None, steps=None, ignore=(), on_finding=None, quiet=False)",
    "watch.observe": "(self, loss=None, outputs=None, targets=None, inputs=None, indices=None)",
    "watch.validated": "(self, loss=None, metric=None, higher_is_better=True)",
    "watch.probe": "(self, batches=None, loss=None, steps=50)",
    "prove_resume": ("(what, steps=10, *, recipe=None, drill=0, workers=0, processes=1, device=None, seed=0)"),
    "Task": "(*, model, loss=None, train=None, val=None, metric=None, step=None, recipe=None, name='', source=None)",
    "Recipe": (
        "(*, optimizer='adamw', lr=None, weight_decay=None, options=<factory>, schedule='cosine', "
        "schedule_every='epoch', epochs=20, steps=None, seconds=None, batch_size=64, accumulate=1, clip_norm=None, "
        "precision='fp32', ema=None, evaluate_every=None, keep_best=1, early_stop=None, nonfinite='raise', "
        "compile=False, channels_last=False, recompute=None, seed=0)"
    ),
    "Recipe.replace": "(self, **changes)",
    "Recipe.to_toml": "(self)",
    "Recipe.from_toml": "(text, where='recipe')",
    "Recipe.save": "(self, path)",
    "Recipe.load": "(path)",
    "Recipe.code": "(self)",
    "Run": "(dir)",
    "Run.signal": "(self, name)",
    "Run.events": "(self, kind=None)",
    "optim.create": "(name, model, *, show=False, **options)",
    "optim.names": "()",
    "optim.info": "(name)",
    "optim.param_groups": (
        "(model, *, lr=None, weight_decay=None, no_decay='norm,bias,embedding', layer_decay=None, overrides=None, "
        "freeze=None)"
    ),
    "optim.AGC": "(clipping=0.01, eps=0.001)",
    "optim.ZClip": "(alpha=0.97, threshold=2.5, warmup=25, max_norm=inf)",
    "optim.AdaGC": "(ratio=1.05, beta=0.98, warmup=100, max_norm=1.0)",
    "optim.SpikeClip": "(threshold=50.0, beta=0.99, warmup=20)",
    "optim.Clip": "(max_norm, norm_type=2.0, per_group=False, error_if_nonfinite=False)",
    "optim.Lookahead": "(optimizer, k=5, alpha=0.5)",
    "optim.Lookahead.averaged": "(self)",
    "optim.Lookahead.remove": "(self)",
    "optim.SAM": "(optimizer, rho=0.05, adaptive=False, eta=0.01)",
    "optim.SAM.perturbed": "(self)",
    "optim.SAM.step": "(self, closure)",
    "optim.refresh_batch_norm": "(model, batches, forward=None)",
    "optim.Optimizer.averaged": "(self)",
    "optim.Optimizer.eval": "(self)",
    "optim.Optimizer.evaluating": "(self)",
    "optim.Optimizer.refresh_batch_norm": "(self, model, batches, forward=None)",
    "optim.Optimizer.train": "(self)",
    "optim.ScheduleFreeAdamW.guard": "(self, model)",
    "optim.Optimizer.step_in_backward": "(self, every=1)",
    "optim.Optimizer.state_dict": "(self, format='surefoot')",
    "optim.Optimizer.load_state_dict": "(self, state_dict, keep=())",
    "schedule.constant": "(factor=1, length=None)",
    "schedule.step": "(every, gamma=0.1, length=None)",
    "schedule.linear": "(start, end, length=None)",
    "schedule.cosine": "(length=None, floor=0)",
    "schedule.warmup": "(length=None, start=0)",
    "schedule.multistep": "(milestones, gamma=0.1, length=None)",
    "schedule.exponential": "(gamma, length=None)",
    "schedule.polynomial": "(length=None, power=1, floor=0)",
    "schedule.rex": "(length=None)",
    "schedule.inverse_sqrt": "(timescale, length=None)",
    "schedule.power": "(timescale, exponent=0.51, length=None)",
    "schedule.piecewise": "(*points)",
    "schedule.function": "(callable, length=None)",
    "schedule.cosine_restarts": "(first, stretch=1, height=1, floor=0, length=None)",
    "schedule.one_cycle": "(length=None, start=0.04, peak=1, end=4e-06, rise=0.3, curve='cosine', phases=2)",
    "schedule.cyclic": "(up, down=None, low=0.1, high=1, mode='triangular', gamma=1, length=None)",
    "schedule.wsd": "(warmup='5%', cooldown='20%', curve='sqrt', floor=0, length=None)",
    "schedule.plateau": (
        "(gamma=0.1, patience=10, threshold=0.0001, threshold_mode='rel', cooldown=0, mode='min', least=0, "
        "trigger='best', certain=0.51)"
    ),
    "schedule.from_torch": "(scheduler)",
    "schedule.Schedule.cut": "(self, length)",
    "schedule.Schedule.floor": "(self, least)",
    "schedule.Schedule.over": "(self, total)",
    "schedule.Schedule.plot": "(self, *others, total=None, ax=None)",
    "schedule.Schedule.repeat": "(self, times=None)",
    "schedule.Schedule.scaled": "(self, factor)",
    "schedule.Schedule.stretch": "(self, total)",
    "schedule.drive": (
        "(optimizer, lr=None, total=None, steps_per_epoch=None, *, samples_per_step=None, tokens_per_step=None, "
        "**others)"
    ),
    "schedule.parse": "(text)",
    "schedule.Driver.step": "(self, metric=None)",
    "schedule.Driver.state_dict": "(self)",
    "schedule.Driver.load_state_dict": "(self, state)",
    "metrics.accuracy": "(outputs, targets)",
    "metrics.squared_error": "(outputs, targets)",
}  # the optimizers' constructors are torch's, see tests/optim/test_dropin.py

RECIPE = (
    "--accumulate --batch-size --channels-last --clip-norm --compile --device --early-stop --ema --epochs "
    "--evaluate-every --help --keep-best --lr --nonfinite --optimizer --option --precision --recipe --recompute "
    "--schedule --schedule-every --seconds --seed --steps --traceback --weight-decay"
)
FLAGS = {
    "train": f"task --distributed --dry-run --no-watch --resume --dir --quiet {RECIPE} --workers",
    "prove-resume": f"task --stop-after --drill --processes {RECIPE} --workers",
    "overfit": f"task --try-steps {RECIPE}",
    "verify": "run --help --traceback",
    "export": "run --csv --json --jsonl --parquet --help --traceback",
    "replay": "run --device --help --traceback",
    "tasks": "--help --traceback",
    "diagnose": "run --help --json --lang --probe --traceback",
    "explain": "name --help --lang --traceback",
    "schedule": "expressions --help --save --steps-per-epoch --total --traceback",
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
    thing = sf if not name.startswith("watch.") else SimpleNamespace(watch=Watch)  # what `sf.watch` returns
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
