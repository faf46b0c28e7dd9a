from __future__ import annotations

import csv
import json
import math
import sys
import types
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surefoot as sf
from surefoot.cli import main
from surefoot.record import Run
from surefoot.record import export as module
from surefoot.record.export import export
from surefoot.record.store import Store

ROWS = [
    (1, "train/loss", 1 / 3),
    (2, "train/loss", math.nan),
    (4, "train/loss", -math.inf),
    (2, "val/acc, top 5", 0.5),
    (3, 'a "quoted"\nname', 1e-300),
]


def recorded(folder, rows):
    run = Run.create(folder, sf.Task(model=nn.Identity, loss=nn.MSELoss(), train=1), sf.Recipe())
    with closing(Store(run.dir / "record.sqlite", write=True)) as store:
        store.add(rows)
        store.event(2, "checkpoint", {"best": True, "loss": math.nan, "nested": [math.inf, "é"]})
        store.event(4, "stop", {})
    return run


@pytest.fixture
def run(tmp_path):
    return recorded(tmp_path / "run", ROWS)


def test_csv_is_a_table_with_a_row_a_step(run, tmp_path, capsys):
    export(run, "csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["step", 'a "quoted"\nname', "train/loss", "val/acc, top 5"],
            ["1", "", repr(1 / 3), ""],
            ["2", "", "nan", "0.5"],
            ["3", "1e-300", "", ""],
            ["4", "", "-inf", ""],
        ]
    export(run, "csv")
    assert capsys.readouterr().out == (tmp_path / "out.csv").read_text()


def test_json_holds_signals_and_events(run, tmp_path, capsys):
    export(run, "json", tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["signals"]["train/loss"] == {"steps": [1, 2, 4], "values": [1 / 3, "nan", "-inf"]}
    assert list(found["signals"]) == sorted({name for _, name, _ in ROWS})
    assert [(e["step"], e["kind"]) for e in found["events"]] == [(2, "checkpoint"), (4, "stop")]
    assert found["events"][0]["facts"] == {"best": True, "loss": "nan", "nested": ["inf", "é"]}
    assert found["events"][0]["time"] > 1.7e9
    export(run, "json")
    assert capsys.readouterr().out == text


def test_json_lines_are_steps_then_events(run, tmp_path, capsys):
    export(run, "jsonl")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = [line for line in lines if "kind" not in line]
    assert [line["step"] for line in steps] == sorted({step for step, _, _ in ROWS})
    for step, name, value in ROWS:
        (line,) = (each for each in steps if each["step"] == step)
        assert line[name] == (value if math.isfinite(value) else str(value))
    assert [line["kind"] for line in lines[len(steps) :]] == ["checkpoint", "stop"]


names = st.text(max_size=4).filter(lambda name: name != "step")
tables = st.dictionaries(names, st.dictionaries(st.integers(0, 20), st.floats(), min_size=1), max_size=4)


@given(tables, st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_every_record_comes_back(tmp_path_factory, signals, part):
    folder = tmp_path_factory.mktemp("case")
    run = recorded(folder / "run", [(step, name, v) for name, column in signals.items() for step, v in column.items()])
    export(run, "json", folder / "out.json")
    found = json.loads((folder / "out.json").read_text())["signals"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", part)
        export(run, "csv", folder / "out.csv")
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    expected = {name: [(step, repr(column[step])) for step in sorted(column)] for name, column in signals.items()}
    assert found.keys() == expected.keys()
    for name, column in found.items():
        pairs = zip(column["steps"], column["values"], strict=True)
        assert [(step, repr(float(value))) for step, value in pairs] == expected[name]
        cells = [(int(line[0]), line[header.index(name)]) for line in lines]
        assert [(step, value) for step, value in cells if value] == expected[name]


def test_a_record_without_signals_is_a_table_without_rows(tmp_path, capsys):
    run = recorded(tmp_path / "run", [])
    export(run, "csv")
    assert capsys.readouterr().out == "step\n"
    export(run, "json")
    assert json.loads(capsys.readouterr().out)["signals"] == {}


def test_parquet_comes_back(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(run, "parquet", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["step"] == [1, 2, 3, 4]
    assert found["train/loss"][0] == 1 / 3
    assert math.isnan(found["train/loss"][1])
    assert found["train/loss"][2:] == [None, -math.inf]


def test_parquet_is_written_through_pyarrow(run, tmp_path, monkeypatch):
    """What pyarrow is given, where it is not installed."""
    pyarrow, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")
    pyarrow.array = lambda values, mask: [None if absent else v for v, absent in zip(values, mask, strict=True)]
    pyarrow.table = lambda columns: {name: list(column) for name, column in columns.items()}
    parquet.write_table = lambda table, file: Path(file).write_text(repr(table["val/acc, top 5"]))
    monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "pyarrow")
    export(run, "parquet", tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "[None, np.float64(0.5), None, None]"


def test_what_cannot_be_exported_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(sf.UserError, match="unknown form of export cvs: did you mean csv"):
        export(run, "cvs")
    with pytest.raises(sf.UserError, match="Parquet is not for printing: name a file"):
        export(run, "parquet")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(sf.UserError, match="pip install pyarrow"):
        export(run, "parquet", tmp_path / "out.parquet")
    with pytest.raises(sf.UserError, match=r"cannot write .*: No such file or directory"):
        export(run, "csv", tmp_path / "none" / "out.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(sf.UserError, match="cannot write"):
        export(run, "json", tmp_path / "folder")
    (run.dir / "record.sqlite").unlink()
    with pytest.raises(sf.UserError, match="cannot be read"):
        export(run, "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "run"]


def test_a_file_that_was_there_stays_whole_when_writing_fails(run, tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "table", full)
    with pytest.raises(sf.UserError, match=r"cannot write .*out\.csv: No space left"):
        export(run, "csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "run"]


def test_a_signal_that_is_called_step_has_no_place_in_a_table(tmp_path, capsys):
    run = recorded(tmp_path / "run", [(7, "step", 1.0)])
    with pytest.raises(sf.UserError, match="a signal is called step"):
        export(run, "csv")
    export(run, "json")
    assert json.loads(capsys.readouterr().out)["signals"] == {"step": {"steps": [7], "values": [1.0]}}


def test_a_run_under_way_can_be_exported(run, capsys):
    with closing(Store(run.dir / "record.sqlite", write=True)) as store:
        store.add([(5, "new", 2.0)])
        export(run, "csv")
    assert capsys.readouterr().out.splitlines()[-1] == "5,,2.0,,"


def test_the_command(run, tmp_path, capsys):
    assert main(["export", str(run.dir), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("step,")
    assert main(["export", str(run.dir), "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out == ""
    assert "train/loss" in json.loads((tmp_path / "out.json").read_text())["signals"]
    assert main(["export", str(tmp_path), "--csv"]) == 1
    assert "there is no run in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(run.dir)])
    assert "one of the arguments --csv --json --jsonl --parquet is required" in capsys.readouterr().err
