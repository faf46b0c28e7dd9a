from __future__ import annotations

import math
import sqlite3

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import surefoot as sf
from surefoot.record import Recorder, Run
from surefoot.record.store import Store


@pytest.fixture
def run(tmp_path):
    task = sf.Task(model=lambda: nn.Linear(1, 1), loss=nn.MSELoss(), train=(torch.ones(1, 1), torch.ones(1, 1)))
    return Run.create(tmp_path / "run", task, sf.Recipe())


def test_signals_are_kept_by_step(run):
    with Recorder(run) as record:
        record.add(2, {"train/loss": torch.tensor(0.25), "train/lr": 1e-3})
        record.add(1, {"train/loss": torch.tensor(0.5, dtype=torch.float64)})
        rows = record.take()
        assert rows == [(2, "train/loss", 0.25), (2, "train/lr", 1e-3), (1, "train/loss", 0.5)]
        record.write(rows)
        record.add(3, {"train/loss": float("nan")})
        record.write(record.take())
    (one, two, three) = run.signal("train/loss")
    assert (one, two) == ((1, 0.5), (2, 0.25))
    assert three[0] == 3
    assert math.isnan(three[1])
    with pytest.raises(sf.UserError, match="did you mean train/loss"):
        run.signal("train/los")


def test_the_record_can_be_read_while_it_is_written_and_is_plain_sqlite(run):
    with Recorder(run) as record:
        record.add(1, {"a": 1.0})
        record.write(record.take())
        reader = sqlite3.connect(run.dir / "record.sqlite")
        assert reader.execute("SELECT step, name, value FROM signals").fetchall() == [(1, "a", 1.0)]
        reader.close()


def test_going_on_cuts_off_what_will_be_recorded_again(run):
    for start, value in ((0, 1.0), (2, 2.0)):
        with Recorder(run, start) as record:
            for step in range(start + 1, start + 5):
                record.add(step, {"a": value})
            record.write(record.take())
    assert run.signal("a") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    events = EventAccumulator(str(run.dir / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == run.signal("a")


def test_no_tensorboard_is_no_error(run, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Recorder(run) as record:
        record.add(1, {"a": 1.0})
        record.write(record.take())
    assert "surefoot[tensorboard]" in caplog.text
    assert run.signal("a") == [(1, 1.0)]


def test_a_run_keeps_its_best_and_its_last_checkpoint(run):
    model = nn.Linear(1, 1)
    for epoch, best in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        run.save(model, {}, epoch, 10 * epoch, {"val/loss": float(epoch)}, best)
    assert (run.best.epoch, run.last.epoch) == (3, 5)
    assert len(list((run.dir / "checkpoints").glob("epoch-*"))) == 2
    run.save(model, {}, 5, 50, {}, best=True)  # the same moment again
    assert (run.best.path, run.best.epoch) == (run.last.path, 5)


def test_a_used_directory_is_refused(run, tmp_path):
    with pytest.raises(sf.UserError, match="already holds a run: resume it"):
        Run.create(run.dir, None, None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(sf.UserError, match="no empty directory"):
        Run.create(tmp_path / "other", None, None)
    with pytest.raises(sf.UserError, match="there is no run in"):
        Run(tmp_path / "none")


def test_a_store_survives_reopening(tmp_path):
    for step in (1, 2):
        store = Store(tmp_path / "s.sqlite", write=True)
        store.add([(step, "a", float(step))])
        store.close()
    store = Store(tmp_path / "s.sqlite")
    assert store.read("a") == [(1, 1.0), (2, 2.0)]
    assert store.names() == ["a"]
    store.close()
