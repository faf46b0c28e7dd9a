from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import surefoot as sf
from surefoot import __main__
from surefoot.cli import main

TASKS = """
import os, torch, surefoot as sf
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
data = (x, (x.sum(1) > 0).long())
def task(**changes):
    parts = dict(model=lambda: torch.nn.Linear(4, 2), loss=torch.nn.CrossEntropyLoss(), train=data, val=data,
                 metric=sf.metrics.accuracy, recipe=sf.Recipe(epochs=3, lr=0.1, options={"betas": (0.8, 0.9)}))
    return sf.Task(**{**parts, **changes})
def good(): return task()
def empty(): return task(train=(x[:0], data[1][:0]))
def frozen(): return task(model=lambda: torch.nn.Linear(4, 2).requires_grad_(False))
def raises(): raise RuntimeError("no data\\nhere")
def shapes(): return task(model=lambda: torch.nn.Linear(5, 2))
def leaves(): raise SystemExit
def wild():
    model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    recipe = sf.Recipe(epochs=8, lr=20.0, batch_size=8, optimizer="sgd", schedule="constant")
    return task(model=model, recipe=recipe)
def nan(): return task(loss=lambda o, t: o.sum() * float("nan"))
def slow():
    import time
    def loss(o, t):
        time.sleep(0.05)
        return torch.nn.functional.cross_entropy(o, t)
    return task(loss=loss, recipe=sf.Recipe(epochs=1000, batch_size=8))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("tasks.py").write_text(TASKS)
    yield tmp_path
    sys.modules.pop("tasks", None)


def test_a_task_from_a_file_is_trained(capsys):
    assert main(["train", "tasks.py:good"]) == 0
    out = capsys.readouterr().out
    assert "tasks.py:good: adamw, lr 0.1, cosine, 3 epochs" in out
    places = dict(re.findall(r"^(checkpoint|summary) +(\S+)$", out, re.M))
    assert all(Path(place).is_file() for place in places.values())
    assert len(places) == 2
    assert "tensorboard --logdir runs/tasks.py-good/tensorboard" in out
    assert main(["train", "tasks:good", "--dir", "runs/by-module", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_settings_go_before_the_file_and_the_file_before_the_task():
    sf.Recipe(lr=0.5, epochs=2).save("mine.toml")
    assert main(["train", "tasks.py:good", "--dir", "a", "--recipe", "mine.toml", "--epochs", "1", "--quiet"]) == 0
    assert sf.Run("a").recipe == sf.Recipe(lr=0.5, epochs=1)
    flags = "--optimizer sgd-momentum --option nesterov=true --option momentum=0.8 --clip-norm 1 --schedule step(2)"
    assert main(["train", "tasks.py:good", "--dir", "b", *flags.split(), "--quiet"]) == 0
    assert sf.Run("b").recipe == sf.Recipe(
        optimizer="sgd-momentum", options={"nesterov": True, "momentum": 0.8}, clip_norm=1, schedule="step(2)", epochs=3
    )
    assert (
        main(["train", "tasks.py:good", "--dir", "d", "--recipe", "b/recipe.toml", "--clip-norm", "none", "--quiet"])
        == 0
    )
    assert sf.Run("d").recipe == sf.Run("b").recipe.replace(clip_norm=None)
    assert main(["train", "tasks.py:good", "--dir", "c", "--option", "eps=1e-6", "--quiet"]) == 0
    assert sf.Run("c").recipe.options == {"betas": (0.8, 0.9), "eps": 1e-6}


def test_tasks_are_listed(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [
        "digits-cnn", "digits-mlp", "stdlib-gpt", "stdlib-gru", "quadratic-deep",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train digits-cn", "unknown task digits-cn: did you mean digits-cnn?"),
        ("train", "which task?"),
        ("train none.py:f", "there is no task file none.py"),
        ("train tasks.py:empty", "the training data are empty"),
        ("train tasks.py:frozen", "no trainable parameters"),
        ("train tasks.py:raises", r"raised RuntimeError: no data here \(.*tasks.py, line 12\)"),
        (
            "train tasks.py:shapes",
            r"at step 1, on the batch \(float32 \[64, 4\], int64 \[64\]\): Runtime",
        ),
        ("train tasks.py:leaves", r"ended the program \(sys.exit\)"),
        ("train tasks.py:good --option amsgrad=maybe", "amsgrad='maybe': it must be True or False"),
        ("train tasks.py:good --device tpu", "cannot compute on the device tpu"),
        ("train tasks.py:good --lr nan", "lr=nan must be a finite number"),
        ("train tasks.py:nan", r"the loss is nan at step 1 \(the first\)"),
        ("train tasks.py:good --optimizer adamv", "unknown optimizer adamv: did you mean adam"),
        ("train tasks.py:good --lr -0.1", "lr=-0.1 must be 0 or more"),
        ("train tasks.py:good --lr fast", "argument --lr: invalid float value: 'fast'"),
        ("train tasks.py:good --option beta=1", "unknown option of adamw beta: did you mean betas?"),
        ("train tasks.py:good --option beta", "'beta' is not NAME=VALUE"),
        ("train tasks.py:good --epochs 0", "epochs=0 must be 1 or more"),
        ("train tasks.py:good --schedule cosine+1", r"cosine \+ 1 is no part of a schedule"),
        ("train tasks.py:good --schedule exec(1)", "exec: known are"),
        ("train tasks.py:good --recipe bad.toml", "weight_deacy: did you mean weight_decay?"),
        ("train tasks.py:good --recipe none.toml", "cannot read the recipe none.toml: No such file"),
        ("train tasks.py:good --resume", "there is no run in runs/tasks.py-good"),
        ("train --resume", "there is no run under runs/"),
        ("train tasks.py:good --device gpu", "device"),
        ("train tasks.py:good --epoch 3", "unrecognized arguments: --epoch 3"),
        ("schedule cosin", "unknown shape cosin: did you mean cosine"),
        ("schedule cosine --total 0", "--total must be a number above 0"),
        ("schedule cosine --save curve.doc", "cannot draw into curve.doc"),
        ("schedule", "required: EXPR"),
        ("trane", "invalid choice: 'trane'"),
        ("", "required: COMMAND"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(capsys, arguments, words):
    Path("bad.toml").write_text("weight_deacy = 1")
    try:
        status = main(arguments.split())
    except SystemExit as stopped:  # argparse
        status = stopped.code
    error = capsys.readouterr().err
    assert status not in (0, None)
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert re.search(words, error), error
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_a_second_run_of_the_same_name_is_refused(capsys):
    assert main(["train", "tasks.py:good", "--quiet"]) == 0
    assert main(["train", "tasks.py:good", "--quiet"]) == 1
    assert "already holds a run: resume it (--resume, resume=True), or choose another name" in capsys.readouterr().err


def test_a_run_is_resumed_from_another_folder(folder, monkeypatch, capsys):
    assert main(["train", "tasks.py:good", "--quiet"]) == 0
    monkeypatch.chdir("/")
    assert main(["train", "--resume", "--dir", str(folder / "runs/tasks.py-good")]) == 0
    assert "finished already: nothing is left to do" in capsys.readouterr().out


def test_options_are_read_as_people_write_them():
    assert main(["train", "tasks.py:good", "--option", "amsgrad=False", "--option", "maximize=false", "--quiet"]) == 0
    assert sf.Run("runs/tasks.py-good").recipe.options["amsgrad"] is False


def test_ctrl_c_while_torch_is_loaded_is_quiet(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("surefoot.cli.main", interrupted)
    assert __main__.main() == 130
    assert capsys.readouterr().err == "surefoot: stopped\n"


def test_the_traceback_is_there_for_who_asks():
    with pytest.raises(sf.UserError, match="mat1 and mat2") as error:
        main(["train", "tasks.py:shapes", "--traceback"])
    assert isinstance(error.value.__cause__, RuntimeError)


def test_ctrl_c_saves_and_resume_goes_on():
    """In a process of its own, as a user would: stop it in the middle, go on, stop it again by SIGTERM."""
    command = [sys.executable, "-m", "surefoot", "train"]

    def stopped(arguments: list[str], signum: int) -> tuple[int, str]:
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()  # what is going to be trained
        while not (line := process.stdout.readline()).startswith("epoch"):
            assert line or process.poll() is None, process.stderr.read()
        time.sleep(0.1)  # into the next epoch
        process.send_signal(signum)
        _, error = process.communicate(timeout=60)
        return process.returncode, error

    status, error = stopped(["tasks.py:slow"], signal.SIGINT)
    assert status == 130
    assert re.fullmatch(
        r"surefoot: stopped in epoch \d+, step \d+; all is saved, --resume \(resume=True\) goes on from here\n", error
    )
    first = sf.Run("runs/tasks.py-slow").last
    assert first is not None
    assert first.step > 8
    status, error = stopped(["--resume"], signal.SIGTERM)
    assert status == 143
    run = sf.Run("runs/tasks.py-slow")
    assert run.last is not None
    assert run.last.step > first.step
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, run.last.step + 1))
    assert os.listdir("runs") == ["tasks.py-slow"]


def test_what_is_wrong_with_a_run_is_told(capsys):
    assert main(["train", "tasks.py:wild", "--dir", "wild", "--lr", "5"]) == 0
    assert "lr-too-high: surefoot diagnose wild" in capsys.readouterr().out
    for language, words in (("en", "The learning rate is too high"), ("zh", "学习率过大")):
        assert main(["diagnose", "wild", "--lang", language]) == 1
        assert words in capsys.readouterr().out
    assert main(["diagnose", "wild", "--json"]) == 1
    (finding, *_) = json.loads(capsys.readouterr().out)
    assert finding["cause"] == "lr-too-high"
    assert finding["remedies"][0]["change"]


def test_a_run_that_broke_can_be_judged(capsys):
    assert main(["train", "tasks.py:wild", "--dir", "wild", "--quiet"]) == 1
    capsys.readouterr()
    assert main(["diagnose", "wild"]) == 1  # for scripts: something is wrong
    assert "(lr-too-high)" in capsys.readouterr().out


def test_of_a_run_that_was_not_watched_the_record_is_judged(capsys):
    assert main(["train", "tasks.py:wild", "--dir", "wild", "--no-watch"]) == 1
    assert "surefoot diagnose" not in capsys.readouterr().out
    assert main(["diagnose", "wild"]) == 1  # for scripts: something is wrong
    out = capsys.readouterr().out
    assert "(lr-too-high)" in out
    assert "not watched" in out
    assert main(["diagnose", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def files(dir):
    return {path: path.read_bytes() for path in Path(dir).rglob("*") if path.is_file()}


def test_what_would_help_a_run_is_tried_out(capsys):
    assert main(["train", "tasks.py:good", "--dir", "low", "--lr", "1e-6", "--epochs", "15", "--quiet"]) == 0
    before = files("low")
    assert main(["diagnose", "low", "--probe"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("[warning] The learning rate is too low (lr-too-low)")
    assert "probe: gain of a higher rate" in out
    assert re.search(r"^  rate x 10+ .* \+\d+% ± \d+% +lr-too-low$", out, re.M), out
    assert main(["diagnose", "low", "--probe", "--lang", "zh"]) == 1
    assert "探测实验：在 2 个批次上走 50 步" in capsys.readouterr().out
    assert main(["diagnose", "low", "--probe", "--json"]) == 1
    (finding, *_) = json.loads(capsys.readouterr().out)
    assert finding["evidence"][-1]["name"] == "gain_rate_up"
    assert files("low") == before
    shutil.rmtree("low/checkpoints")
    assert main(["diagnose", "low", "--probe"]) == 1
    assert "has no checkpoint: there is nothing to try from" in capsys.readouterr().err
