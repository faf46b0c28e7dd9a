from __future__ import annotations

import math
import sqlite3
import struct
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import surefoot as sf
from surefoot.record import store as module
from surefoot.record.store import Event, Store

VERSION_1 = """
CREATE TABLE signals (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (name, step)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.sqlite"


def bits(column):
    """Steps and values so that NaN equals NaN, and -0.0 does not equal 0.0."""
    return [(step, "nan" if value != value else struct.pack("d", value)) for step, value in column]


def content(path):
    with closing(Store(path)) as store:
        return {name: store.read(name) for name in store.names()}


def blocks(store):
    """(count, bytes a step, bytes a value) of every block."""
    query = "SELECT count, coalesce(length(steps), 0), length(numbers) FROM blocks ORDER BY signal, first"
    return [(count, steps / max(count - 1, 1), numbers / count) for count, steps, numbers in store.db.execute(query)]


def test_a_store_survives_reopening(path):
    for step in (1, 2):
        with closing(Store(path, write=True)) as store:
            store.add([(step, "a", float(step))])
    assert content(path) == {"a": [(1, 1.0), (2, 2.0)]}
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # the log is folded in


class Model(RuleBasedStateMachine):
    """Whatever is added and cut, in whatever order, the store reads as a dict would. Blocks are made small, so that
    every way of meeting their ends occurs."""

    steps = st.integers(0, 60)
    values = st.one_of(st.floats(), st.floats(width=32))
    names = st.sampled_from(["a", "b", 'it\'s "é"\n'])

    @initialize(block=st.integers(1, 9))
    def begin(self, block):
        import tempfile
        from pathlib import Path

        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "BLOCK", block)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "record.sqlite"
        self.store = Store(self.path, write=True)
        self.signals: dict[str, dict[int, float]] = {}
        self.events: list[tuple[int, str, dict]] = []
        self.next = 0

    @rule(rows=st.lists(st.tuples(steps, names, values)))
    def add(self, rows):
        self.store.add(rows)
        for step, name, value in rows:
            self.signals.setdefault(name, {})[step] = value

    @rule(count=st.integers(1, 20), stride=st.sampled_from([1, 1, 3, 300, 2**40]), names=st.sets(names), value=values)
    def go_on(self, count, stride, names, value):
        start = max([0, *(step for column in self.signals.values() for step in column)]) + 1
        self.add([(start + stride * i, name, value) for i in range(count) for name in names])

    @rule(step=steps, kind=st.sampled_from(["checkpoint", "skip"]), facts=st.dictionaries(st.text(), st.integers()))
    def event(self, step, kind, facts):
        self.store.event(step, kind, facts)
        self.events.append((step, kind, facts))

    @rule(step=steps)
    def cut(self, step):
        self.store.cut(step)
        kept = {
            name: {at: value for at, value in column.items() if at <= step} for name, column in self.signals.items()
        }
        self.signals = {name: column for name, column in kept.items() if column}
        self.events = [event for event in self.events if event[0] <= step]

    @rule()
    def fail(self):
        """A transaction that is not completed leaves nothing."""

        def rows():
            yield 1, "a", 5.0
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.store.add(rows())
        with pytest.raises(TypeError):
            self.store.add([(1, "a", 5.0), (10**6, "new", 5.0)], [Event(1, 0.0, "x", {"a": object()})])
        with pytest.raises(OverflowError):
            self.store.add([(1, "a", 5.0), (2**64, "new", 5.0)])

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.path, write=True)

    @invariant()
    def same(self):
        for store in (self.store, Store(self.path)):
            assert store.names() == sorted(self.signals)
            for name, column in self.signals.items():
                assert bits(store.read(name)) == bits(sorted(column.items()))
            assert [(e.step, e.kind, e.facts) for e in store.events()] == self.events
            assert [(e.step, e.facts) for e in store.events("skip")] == [
                (s, f) for s, k, f in self.events if k == "skip"
            ]
            if store is not self.store:
                store.close()

    def teardown(self):
        if hasattr(self, "store"):
            assert self.store.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            self.store.close()
            self.folder.cleanup()
            self.patch.undo()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_what_is_cut_off_does_not_come_back_with_what_is_added(path):
    with closing(Store(path, write=True)) as store:
        store.add([(step, "a", 1.0) for step in range(10)])
        store.cut(4)
        store.add([(20, "a", 2.0)])
        assert [step for step, _ in store.read("a")] == [0, 1, 2, 3, 4, 20]
        store.cut(-1)
        store.add([(3, "a", 3.0)])
        assert store.read("a") == [(3, 3.0)]


@given(st.lists(st.tuples(st.integers(-(2**61), 2**61), st.floats()), min_size=1, unique_by=lambda row: row[0]))
@settings(deadline=None)
def test_packing_is_exact(column):
    steps, values = module._sorted(dict(column))
    first, last, count, packed, numbers = module._packed(steps, values)
    assert (first, last, count) == (min(column)[0], max(column)[0], len(column))
    back = module._unpacked(first, count, packed, numbers)
    assert bits(zip(*(part.tolist() for part in back), strict=True)) == bits(sorted(column))


def test_blocks_are_full_and_as_narrow_as_is_exact(path):
    with closing(Store(path, write=True)) as store:
        for start in range(0, 3000, 50):
            steps = range(start, start + 50)
            store.add([(i, "single", i / 4) for i in steps])
            store.add([(i, "double", i / 3) for i in steps])
            store.add([(7 * i, "strided", float("nan")) for i in steps])
            store.add([(1000 * i, "far", math.inf) for i in steps])
        assert blocks(store) == [
            *[(count, 0, 4) for count in (1024, 1024, 952)],
            *[(count, 0, 8) for count in (1024, 1024, 952)],
            *[(count, 1, 4) for count in (1024, 1024, 952)],
            *[(count, 2, 4) for count in (1024, 1024, 952)],
        ]


def test_a_value_takes_little_of_the_disk(path):
    with closing(Store(path, write=True)) as store:
        for start in range(0, 20_000, 500):
            store.add([(i, f"s{k}", i / 3 + k) for i in range(start, start + 500) for k in range(10)])
    assert path.stat().st_size / 200_000 < 9.2


def test_the_file_is_plain_sqlite_that_a_few_lines_can_read(path):
    with closing(Store(path, write=True)) as store:
        store.add([(i, "a", i / 3) for i in range(1, 2000)])
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT count, numbers FROM blocks JOIN names ON signal = id WHERE name = 'a' AND steps IS NULL"
        found = [struct.unpack(f"<{count}d", numbers) for count, numbers in db.execute(query)]
    assert [value for part in found for value in part] == [i / 3 for i in range(1, 2000)]


def test_a_reader_sees_whole_batches_while_a_writer_writes(path):
    with closing(Store(path, write=True)) as store, closing(Store(path)) as reader:
        for start in range(0, 5000, 37):
            store.add([(i, name, float(i)) for i in range(start, start + 37) for name in "ab"])
            with closing(Store(path)) as fresh:
                for each in (reader, fresh):
                    assert each.read("a") == each.read("b") == [(i, float(i)) for i in range(start + 37)]


def test_a_reader_never_waits_for_a_writer(path):
    with closing(Store(path, write=True)) as store, closing(Store(path)) as reader:
        store.add([(1, "a", 1.0)])
        with store._transaction():
            store._append("a", {2: 2.0})
            assert reader.read("a") == [(1, 1.0)]
            reader.db.execute("BEGIN")
            assert reader.names() == ["a"]
        assert reader.read("a") == [(1, 1.0)]  # what it began to look at stays as it is
        reader.db.execute("COMMIT")
        assert reader.read("a") == [(1, 1.0), (2, 2.0)]


def test_a_lock_of_another_process_changes_nothing(path):
    with closing(Store(path, write=True)) as store:
        store.add([(1, "a", 1.0)])
        store.db.execute("PRAGMA busy_timeout = 10")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                store.add([(2, "a", 2.0)])
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                store.cut(0)
            assert store.read("a") == [(1, 1.0)]
        store.add([(2, "a", 2.0)])
        assert store.read("a") == [(1, 1.0), (2, 2.0)]


def test_a_full_disk_leaves_the_file_as_it_was(path):
    with closing(Store(path, write=True)) as store:
        store.add([(i, "a", i / 3) for i in range(100)])
        (pages,) = store.db.execute("PRAGMA page_count").fetchone()
        store.db.execute(f"PRAGMA max_page_count = {pages}")
        before = store.read("a")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.add([(i, name, i / 3) for i in range(100, 9000) for name in "ab"])
        assert store.read("a") == before
        assert store.names() == ["a"]
        store.db.execute("PRAGMA max_page_count = 100000")
        store.add([(i, "a", i / 3) for i in range(100, 9000)])
        assert store.read("a") == [(i, i / 3) for i in range(9000)]


@pytest.fixture
def old(path):
    """A record as version 1 wrote it, still open, and what is in it."""
    rows = [(step, name, 1 / (step + 1)) for step in range(2500) for name in ("train/loss", "train/lr") if step % 3]
    rows += [(1, "odd", None), (2, "odd", math.inf), (5, "odd", -math.inf), (6, "odd", 1e300)]
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(VERSION_1)
        db.executemany("INSERT INTO signals (step, name, value) VALUES (?, ?, ?)", rows)
        db.commit()
        expected: dict[str, list] = {}
        for step, name, value in rows:
            expected.setdefault(name, []).append((step, math.nan if value is None else value))
        yield expected


@pytest.mark.parametrize("write", [True, False])
def test_records_of_version_1_are_read_and_taken_over(path, old, write):
    before = path.read_bytes()
    with closing(Store(path, write)) as store:
        assert store.names() == sorted(old)
        assert all(bits(store.read(name)) == bits(old[name]) for name in old)
        assert store.events() == []
        tables = {name for (name,) in store.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"names", "blocks", "events"}
    assert write or path.read_bytes() == before
    with closing(Store(path, write=True)) as store:
        store.cut(1000)
        store.add([(1001, "odd", 1.0)])
        assert store.read("odd")[3:] == [(6, 1e300), (1001, 1.0)]
        assert store.read("train/lr")[-1][0] == 1000


def test_a_migration_that_fails_changes_nothing(path, old, monkeypatch):
    monkeypatch.setattr(module, "SCHEMA", (*module.SCHEMA, "CREATE TABLE broken"))
    with pytest.raises(sf.UserError, match="cannot be written"):
        Store(path, write=True)
    monkeypatch.undo()
    with closing(Store(path, write=True)) as store:
        assert bits(store.read("odd")) == bits(old["odd"])


def test_what_is_no_record_is_refused(path, tmp_path):
    with pytest.raises(sf.UserError, match="cannot be read"):
        Store(path)
    with pytest.raises(sf.UserError, match="cannot be written"):
        Store(tmp_path, write=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE photos (name)")
    for write in (True, False):
        with pytest.raises(sf.UserError, match="it is no record of a run"):
            Store(path, write)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    for write in (True, False):
        with pytest.raises(sf.UserError, match="its version is 3, not 2: update surefoot"):
            Store(path, write)
    path.write_bytes(b"[damaged\n" * 999)
    with pytest.raises(sf.UserError, match=r"record\.sqlite cannot be written: file is not a database"):
        Store(path, write=True)


def test_a_record_killed_before_its_first_table_is_empty(path):
    path.touch()
    with closing(Store(path)) as store:
        assert store.names() == store.events() == store.read("a") == []
    assert path.read_bytes() == b""
