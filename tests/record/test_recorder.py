from __future__ import annotations

import logging
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import surefoot as sf
from surefoot.record import Recorder, Run, board, recorder
from surefoot.record.store import Store


@pytest.fixture
def run(tmp_path):
    task = sf.Task(model=lambda: nn.Linear(1, 1), loss=nn.MSELoss(), train=(torch.ones(1, 1), torch.ones(1, 1)))
    return Run.create(tmp_path / "run", task, sf.Recipe())


@pytest.fixture
def soon(monkeypatch):
    """The thread looks often, and tries again at once."""
    monkeypatch.setattr(recorder, "EVERY", 0.01)
    monkeypatch.setattr(recorder, "RETRY", 0.0)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "TensorBoard" not in r.msg]


def until(condition):
    """Wait for what the thread does by itself."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_signals_of_every_kind_are_kept_by_step(run):
    with Recorder(run) as record:
        record.add(
            2, {"loss": torch.tensor(0.25), "lr": 1e-3, "norm": lambda: 2.5, "count": 3, "flag": torch.tensor(True)}
        )
        record.add(1, {"loss": torch.tensor(1 / 3, dtype=torch.float64, requires_grad=True), "lr": torch.tensor([[7]])})
        record.add(3, {"loss": float("nan"), "lr": torch.tensor(-math.inf), "norm": lambda: torch.tensor(4.5)})
        record.add(4, {"loss": torch.tensor(math.nan), "half": torch.tensor(0.1, dtype=torch.bfloat16)})
        assert record.flush()
        assert record.latest["lr"] == -math.inf
        assert record.latest["half"] == torch.tensor(0.1, dtype=torch.bfloat16).item()
        assert math.isnan(record.latest["loss"])
    loss = run.signal("loss")
    assert loss[:2] == [(1, 1 / 3), (2, 0.25)]
    assert [(step, str(value)) for step, value in loss[2:]] == [(3, "nan"), (4, "nan")]
    assert run.signal("lr") == [(1, 7.0), (2, 1e-3), (3, -math.inf)]
    assert run.signal("norm") == [(2, 2.5), (3, 4.5)]
    assert run.signal("count") == [(2, 3.0)]
    assert run.signal("flag") == [(2, 1.0)]
    with pytest.raises(sf.UserError, match="did you mean loss"):
        run.signal("los")


numbers = st.one_of(st.floats(), st.floats(width=32).map(torch.tensor), st.integers(-(2**40), 2**40))


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), numbers)), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_what_is_added_is_what_is_read(tmp_path_factory, steps, cut):
    run = Run.create(
        tmp_path_factory.mktemp("case"), sf.Task(model=nn.Identity, loss=nn.MSELoss(), train=1), sf.Recipe()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board.importlib.util, "find_spec", lambda name: None)
        with Recorder(run) as record:
            for step, signals in enumerate(steps):
                record.add(step, signals)
        with Recorder(run, cut):
            pass
    with closing(Store(run.dir / "record.sqlite")) as store:
        for name in "abc":
            expected = [(i, float(s[name])) for i, s in enumerate(steps) if name in s and i <= cut]
            assert [(i, repr(value)) for i, value in store.read(name)] == [(i, repr(value)) for i, value in expected]


def test_all_is_written_by_itself_and_can_be_read_meanwhile(run, soon):
    with Recorder(run) as record, closing(Store(run.dir / "record.sqlite")) as store:
        for step in range(1, 50):
            record.add(step, {"a": float(step), "b": torch.tensor(float(step))})
            record.event(step, "skip", reason="test")
            time.sleep(0.002)
            seen = store.read("a"), store.read("b")
            assert all(column == [(i, float(i)) for i in range(1, len(column) + 1)] for column in seen)
        until(lambda: len(store.read("b")) == 49)
        until(lambda: len(store.events("skip")) == 49)
        assert record.latest == {"a": 49.0, "b": 49.0}
    assert not any(thread.name == "surefoot-recorder" for thread in threading.enumerate())
    assert {path.name for path in run.dir.glob("record*")} == {"record.sqlite"}


def test_going_on_cuts_off_what_will_be_recorded_again(run):
    for start, value in ((0, 1.0), (2, 2.0)):
        with Recorder(run, start) as record:
            record.event(start, "resume", value=value)
            for step in range(start + 1, start + 5):
                record.add(step, {"a": value, "b": value})
                record.event(step, "checkpoint", value=value)
    assert run.signal("a") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    with closing(Store(run.dir / "record.sqlite")) as store:
        assert [(e.step, e.facts["value"]) for e in store.events("checkpoint")] == run.signal("a")
        assert [(e.step, e.facts["value"]) for e in store.events("resume")] == [(0, 1.0), (2, 2.0)]
        assert [e.time for e in store.events()] == sorted(e.time for e in store.events())
        assert abs(store.events()[-1].time - time.time()) < 3600
    events = EventAccumulator(str(run.dir / "tensorboard"))
    events.Reload()
    for name in "ab":
        assert [(e.step, e.value) for e in events.Scalars(name)] == run.signal(name)


def test_no_tensorboard_is_no_error(run, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Recorder(run) as record:
        record.add(1, {"a": 1.0})
    assert "surefoot[tensorboard]" in caplog.text
    assert run.signal("a") == [(1, 1.0)]


def test_a_tensorboard_log_that_fails_ends_and_the_record_goes_on(run, soon, monkeypatch, caplog):
    with Recorder(run) as record:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(record.board.writer.file_writer, "add_summary", full)
        for step in range(1, 4):
            record.add(step, {"a": float(step)})
            assert record.flush()
    assert caplog.text.count("No space left") == 1
    assert len(run.signal("a")) == 3


# what goes wrong in reading a signal


def fails():
    raise ZeroDivisionError("in the signal's own code")


@pytest.mark.parametrize("later", ["add", "flush", "exit"])
@pytest.mark.parametrize(
    ("signal", "error", "match"),
    [
        (fails, ZeroDivisionError, "own code"),
        (sys.exit, SystemExit, None),
        (torch.zeros(2, 3), sf.UserError, r"the signal bad at step 1 must be one number, not float32 \[2, 3\]"),
        (torch.tensor(1j), sf.UserError, "must be one number, not complex64"),
        (None, sf.UserError, "the signal bad at step 1 must be one number, not NoneType"),
        (lambda: "many", sf.UserError, "must be one number, not str"),
    ],
)
def test_an_error_in_a_signal_is_raised_by_the_next_call(run, soon, later, signal, error, match):
    raised = pytest.raises(error, match=match)
    with raised if later == "exit" else nullcontext(), Recorder(run) as record:
        record.add(1, {"good": 1.0, "bad": signal, "better": torch.tensor(2.0)})
        if later != "exit":
            until(lambda: record._error is not None)
            with raised:
                record.add(2, {}) if later == "add" else record.flush()
            record.add(3, {"good": 3.0})  # it is raised once
            assert record.flush()
    assert run.signal("good") == [(1, 1.0)] + [(3, 3.0)] * (later != "exit")
    assert run.signal("better") == [(1, 2.0)]
    with pytest.raises(sf.UserError, match="unknown signal"):
        run.signal("bad")


def test_an_error_of_the_training_goes_before_that_of_a_signal(run, caplog):
    def train():
        with Recorder(run) as record:
            record.add(1, {"a": 1.0, "bad": fails})
            raise KeyError("the training's")

    with pytest.raises(KeyError, match="the training's"):
        train()
    assert "could not be recorded: in the signal's own code" in caplog.text
    assert run.signal("a") == [(1, 1.0)]


@pytest.mark.parametrize(("step", "name"), [(2**70, "a"), (1, ("a",)), (1, "\ud800")])
def test_what_cannot_be_written_at_all_is_reported_and_the_rest_goes_on(run, step, name, caplog):
    with Recorder(run) as record:
        record.add(step, {name: 1.0})
        with pytest.raises((OverflowError, sqlite3.Error, UnicodeError)):
            record.flush()
        assert warnings(caplog) == []  # the disk is not to blame
        record.add(1, {"a": 1.0})
        assert record.flush()
    assert run.signal("a") == [(1, 1.0)]


def test_what_is_beyond_single_precision_is_recorded_all_the_same(run):
    with Recorder(run) as record:
        record.add(1, {"a": 1e300, "b": -1e-300})
        assert record.flush()
    assert (run.signal("a"), run.signal("b")) == ([(1, 1e300)], [(1, -1e-300)])


def test_facts_that_json_cannot_hold_are_refused_at_once(run):
    with Recorder(run) as record, pytest.raises(sf.UserError, match="the facts of the event stop cannot be recorded"):
        record.event(1, "stop", model=nn.Linear(1, 1))


def test_flushing_outside_of_the_context_is_refused(run):
    record = Recorder(run)
    with pytest.raises(sf.UserError, match=r"with Recorder\(run, step\)"):
        record.flush()
    with record:
        pass


# disks that fail


def test_a_full_disk_never_stops_a_training(run, soon, caplog):
    with Recorder(run) as record:
        record.add(1, {"a": 1.0})
        assert record.flush()
        record.store.db.execute("PRAGMA max_page_count = 1")  # it is taken as the present size
        for step in range(2, 4000):
            record.add(step, {"a": step / 3, "b": torch.tensor(float(step))})
        record.event(3999, "checkpoint", best=True)
        assert not record.flush()
        assert not record.flush()
        assert record.latest["a"] == 3999 / 3  # what is shown goes on
        (message,) = warnings(caplog)
        assert "record.sqlite cannot be written (database or disk is full): training goes on" in message
        record.store.db.execute("PRAGMA max_page_count = 1000000")
        assert record.flush()
        assert not record._rows  # no longer kept in memory
        record.add(4000, {"a": 0.0})
    assert len(run.signal("a")) == 4000
    assert len(run.signal("b")) == 3998
    with closing(Store(run.dir / "record.sqlite")) as store:
        assert [e.facts for e in store.events()] == [{"best": True}]
    message = warnings(caplog)[1:]
    assert len(message) == 1
    assert "is written again: nothing is lost" in message[0]


LIMITED = """
import resource, sys
from pathlib import Path
from surefoot.record import Recorder, Run, board, recorder
board.importlib.util.find_spec = lambda name: None
recorder.EVERY = recorder.RETRY = 0.01
with Recorder(Run(Path(sys.argv[1]))) as record:
    record.add(0, {"a": 0.5})
    assert record.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    for step in range(1, 100_001):
        record.add(step, {"a": step / 3})
        if step % 20_000 == 0:
            print(record.flush())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(record.flush())
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_real_disk_that_takes_no_more_never_stops_a_training(run):
    """The system refuses to let any file grow, for a while."""
    command = [sys.executable, "-c", LIMITED, str(run.dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    flushed = done.stdout.split()
    assert "False" in flushed, done.stderr
    assert flushed[-1] == "True"
    assert done.stderr.count("cannot be written") == done.stderr.count("is written again: nothing is lost") > 0
    assert run.signal("a") == [(0, 0.5), *((step, step / 3) for step in range(1, 100_001))]
    with closing(Store(run.dir / "record.sqlite")) as store:
        assert store.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_locked_file_never_stops_a_training(run, soon, caplog):
    with Recorder(run) as record:
        record.store.db.execute("PRAGMA busy_timeout = 5")
        with closing(sqlite3.connect(run.dir / "record.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for step in range(1, 6):
                record.add(step, {"a": float(step)})
                assert not record.flush()
            other.execute("ROLLBACK")
        until(lambda: record._trouble is None)  # it tries again by itself
        with closing(Store(run.dir / "record.sqlite")) as store:
            assert len(store.read("a")) == 5
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), sqlite3.DatabaseError("malformed")])
def test_beyond_a_bound_the_oldest_values_are_dropped_and_counted(run, soon, monkeypatch, caplog, error):
    monkeypatch.setattr(recorder, "KEPT", 10)
    with Recorder(run) as record:
        write = record.store.add

        def broken(*_):
            raise error

        monkeypatch.setattr(record.store, "add", broken)
        for step in range(1, 21):
            record.add(step, {"a": float(step), "b": float(step)})
            if step % 3 == 0:
                record.flush()
        record.flush()
        monkeypatch.setattr(record.store, "add", write)
        assert record.flush()
    assert run.signal("a") == run.signal("b") == [(step, float(step)) for step in range(16, 21)]
    with closing(Store(run.dir / "record.sqlite")) as store:
        (event,) = store.events("lost")
    assert (event.step, event.facts) == (20, {"values": 30})
    assert "oldest 30 values since are lost" in warnings(caplog)[1]


def test_a_training_that_ends_on_a_full_disk_says_what_the_record_lacks(run, soon, caplog):
    with Recorder(run) as record:
        record.store.db.execute("PRAGMA max_page_count = 1")
        for step in range(1, 3001):
            record.add(step, {"a": step / 3})
    assert "lacks 3000 values" in warnings(caplog)[-1]
    with closing(Store(run.dir / "record.sqlite")) as store:
        assert store.names() == []


def test_a_thread_that_hangs_blocks_nothing_and_its_backlog_is_bounded(run, soon, monkeypatch, caplog):
    monkeypatch.setattr(recorder, "UNREAD", 10)
    hang, entered = threading.Event(), threading.Event()

    def hangs():
        entered.set()
        hang.wait()
        return 1.0

    with Recorder(run) as record:
        record.add(1, {"a": hangs})
        entered.wait()
        for step in range(2, 30):
            record.add(step, {"a": float(step), "b": 0.0})
        assert not record.flush(timeout=0.05)
        hang.set()
        assert record.flush()
    assert [step for step, _ in run.signal("a")] == [1, *range(20, 30)]
    assert "oldest 36 values since are lost" in caplog.text


def test_an_end_that_hangs_is_given_up(run, monkeypatch, caplog):
    monkeypatch.setattr(recorder, "EXIT", 0.05)
    hang = threading.Event()
    with Recorder(run) as record:
        record.add(1, {"a": hang.wait})
    assert "hangs: its end may be missing" in caplog.text
    hang.set()
    record._thread.join()
    record.store.close()
    record.board.close()


def test_a_record_that_cannot_be_opened_is_named(run):
    with closing(sqlite3.connect(run.dir / "record.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sf.UserError, match=r"record\.sqlite cannot be written: database is locked"):
            Recorder(run)
    with Recorder(run):
        pass
    with closing(sqlite3.connect(run.dir / "record.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sf.UserError, match=r"record\.sqlite cannot be written: database is locked"):
            Recorder(run)


def test_importing_starts_no_thread():
    code = "import threading, surefoot.record.recorder; print(threading.active_count())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_workers_of_a_dataloader_leave_the_record_alone(run):
    with Recorder(run) as record:
        record.add(1, {"a": 1.0})
        loader = torch.utils.data.DataLoader(range(8), num_workers=2)
        for step, _ in enumerate(loader, 2):
            record.add(step, {"a": float(step)})
            record.flush()
    assert run.signal("a") == [(step, float(step)) for step in range(1, 10)]


KILLED = Path(__file__).with_name("killed.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_a_killed_training_loses_at_most_its_last_second(tmp_path, seed):
    """Fifteen processes are killed at random moments, see `killed.py`; then the runs are looked at and resumed."""
    done = subprocess.run([sys.executable, str(KILLED), str(tmp_path), str(seed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases = [line.split() for line in done.stdout.splitlines()]
    assert len(cases) == 15
    for folder, flushed, due in cases:
        run = Run(Path(folder))
        with closing(Store(run.dir / "record.sqlite")) as store:
            assert store.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            signals = [store.read(name) for name in store.names()]
            events = [event.step for event in store.events()]
        steps = len(signals[0]) if signals else 0
        assert signals in ([], 30 * [[(i, float(i)) for i in range(1, steps + 1)]])  # no gap, no half batch
        assert events == list(range(1, len(events) + 1))
        assert steps >= int(flushed)
        assert steps >= int(due)
        checkpoint = 2 * steps // 3
        with Recorder(run, checkpoint) as record:
            for step in range(checkpoint + 1, steps + 100):
                record.add(step, {f"s{k}": -1.0 for k in range(30)})
        expected = [(i, float(i) if i <= checkpoint else -1.0) for i in range(1, steps + 100)]
        assert all(run.signal(f"s{k}") == expected for k in range(30))
