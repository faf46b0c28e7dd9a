"""What a run keeps of its checkpoints, saves in the background, what it falls back on, and what `verify` says."""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import surefoot as sf
from surefoot.cli import main
from surefoot.record import checkpoint
from surefoot.record.files import Disk
from surefoot.record.store import Store


def begin(folder: Path) -> sf.Run:
    task = sf.Task(model=lambda: nn.Linear(1, 1), loss=nn.MSELoss(), train=[], name="any")
    return sf.Run.create(folder, task, sf.Recipe())


@pytest.fixture
def run(tmp_path):
    return begin(tmp_path / "run")


def save(run: sf.Run, step: int, best: bool = False, loss: float | None = 0.5, **options) -> None:
    values = {} if loss is None else {"val/loss": loss}
    run.save({"w": torch.full((5,), float(step))}, {"step": step}, 0, step, values, best, **options)


def steps(run: sf.Run) -> list[int]:
    """The steps of all checkpoints on disk, each intact."""
    folders = sorted((run.dir / "checkpoints").glob("*epoch*"))
    for folder in folders:
        checkpoint.load(folder).verify()
    return [checkpoint.load(folder).step for folder in folders]


def names(run: sf.Run) -> list[str]:
    return sorted(path.name for path in (run.dir / "checkpoints").iterdir())


def test_the_last_and_the_best_are_kept(run):
    assert (run.last, run.best, run.empty) == (None, None, True)
    for step, best in enumerate([True, False, True, False, False], 1):
        save(run, step, best)
    assert not run.empty
    assert (run.last.step, run.best.step) == (5, 3)
    assert steps(run) == [3, 5]
    assert names(run)[-1] == "index.json"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_of_the_best_are_kept_as_asked(run, keep):
    for step, best in enumerate([True, True, False, True, False, True, False], 1):
        save(run, step, best, keep=keep)
    assert steps(run) == [*[2, 4, 6][-keep:], 7]
    assert run.best.step == 6
    save(run, 8, keep=1)
    assert steps(run) == [6, 8]


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, None])
def test_keep_must_be_a_number_of_checkpoints(run, keep):
    with pytest.raises(sf.UserError, match="keep must be 1 or more"):
        save(run, 1, keep=keep)
    assert names(run) == []


def test_the_one_before_goes_only_when_the_new_one_is_durable(run):
    class Watching(Disk):
        def __init__(self):
            self.log = []

        def sync_dir(self, path):
            super().sync_dir(path)
            self.log.append("durable" if path.name == "checkpoints" else path.name)

        def remove(self, path):
            if path.exists() and path.name.endswith(".old"):
                assert json.loads((run.dir / "checkpoints" / "index.json").read_text())["last"] not in path.name
                self.log.append("removed")
            super().remove(path)

    save(run, 1)
    run.shelf.disk = disk = Watching()
    save(run, 2)
    assert disk.log[-2:] == ["durable", "removed"]
    assert disk.log.index("epoch-0000-step-00000002") < len(disk.log) - 2  # the marker's folder too


def test_the_same_step_can_be_saved_again(run):
    save(run, 7, best=True)
    run.save({"w": torch.zeros(2)}, "averaged", 0, 7, {}, best=False)
    assert run.best.state() == {"step": 7}
    assert run.last.state() == "averaged"
    for text in ("third", "fourth"):
        run.save({"w": torch.zeros(2)}, text, 0, 7, {}, best=False)
        assert sf.Run(run.dir).last.state() == text
    assert len(names(run)) == 3
    (run.dir / "checkpoints" / "index.json").unlink()
    assert (run.last.state(), run.best.state()) == ("fourth", {"step": 7})


def test_a_module_is_saved_as_its_state_dict_is(run):
    model = nn.Linear(2, 3)
    run.save(model, None, 1, 1, {}, best=False)
    run.save(model.state_dict(), None, 1, 2, {}, best=False)
    other = nn.Linear(2, 3)
    run.last.load_model(other)
    assert torch.equal(other.weight, model.weight)
    assert (run.last.path / "model.safetensors").read_bytes() == save_bytes(model, run)


def save_bytes(model: nn.Module, run: sf.Run) -> bytes:
    run.save(model, None, 1, 3, {}, best=False)
    return run.last.weights.read_bytes()


# --- in the background ---------------------------------------------------------------------------------------------


class Slow(Disk):
    """Waits before the first write until it is let go."""

    def __init__(self):
        self.go = threading.Event()

    def write(self, path, data):
        assert self.go.wait(timeout=30)
        super().write(path, data)


def test_what_is_saved_is_the_moment_of_the_call(run):
    run.shelf.disk = slow = Slow()
    w, state = torch.ones(1000), {"m": torch.ones(3, 3).T, "lr": [0.1]}
    run.save({"w": w}, state, 0, 1, {}, best=True, wait=False)
    w.zero_(), state["m"].zero_()
    state["lr"][0] = 9
    assert names(run) == [".epoch-0000-step-00000001.new"] or names(run) == []
    slow.go.set()
    run.settle()
    assert torch.equal(run.last.weights_dict()["w"], torch.ones(1000))
    assert torch.equal(run.last.state()["m"], torch.ones(3, 3))
    assert run.last.state()["lr"] == [0.1]


def test_in_the_background_the_same_bytes_are_written(tmp_path):
    model = nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3))
    state = {"a": torch.arange(5, dtype=torch.int8), "b": torch.randn(4, 4)[:, 1:2], "c": torch.tensor(True)}
    runs = begin(tmp_path / "a"), begin(tmp_path / "b")
    for run, wait in zip(runs, (True, False), strict=True):
        run.save(model, state, 3, 5, {"x": 1.0}, best=True, wait=wait)
        run.settle()
    for file in ("model.safetensors", "state.safetensors", "manifest.json", "commit"):
        one, other = ((run.last.path / file).read_bytes() for run in runs)
        assert one == other


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_are_copied_whole(run, threads):
    """Larger than a piece, in memory without gaps and with, by several threads."""
    torch.set_num_threads(threads)
    large = torch.randn(3_000_001)
    weights = {"large": large, "odd": large[:-1].view(torch.complex64)[1:].conj(), "square": large[1:].view(1000, -1).T}
    weights |= {f"small{i}": torch.randn(5) for i in range(5)}
    state = {"bytes": torch.randint(0, 256, (9_999_999,), dtype=torch.uint8)}
    run.save(weights, state, 0, 1, {}, best=False, wait=False)
    found = run.last.weights_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert torch.equal(run.last.state()["bytes"], state["bytes"])


def test_the_buffer_is_kept_while_it_fits(run):
    def held() -> int:
        return run._buffer._places[0].data_ptr()

    save(run, 1, wait=False)
    first = held()
    for step in range(2, 5):
        save(run, step, wait=False)
        assert held() == first
    run.save({"w": torch.arange(1e5)}, {}, 0, 9, {}, best=False, wait=False)
    save(run, 10, wait=False)  # waits for the large one, then overwrites it in the buffer
    run.settle()
    assert run.last.step == 10
    run.save({}, {}, 0, 11, {}, best=False, wait=False)
    assert run.last.weights_dict() == {}  # waits too


def test_an_error_in_the_background_is_raised_at_the_next_call_once(run):
    class Full(Disk):
        def write(self, path, data):
            raise OSError(28, "No space left on device")

    save(run, 1)
    for call in (run.settle, lambda: save(run, 3), lambda: save(run, 3, wait=False)):
        run.shelf.disk = Full()
        save(run, 2, wait=False)
        assert run.last.step == 1  # reading does not raise it
        run.shelf.disk = Disk()
        with pytest.raises(sf.UserError, match=r"cannot save to .*No space left.*before stands"):
            call()
        run.settle()
        assert steps(run) == [1]
    save(run, 4, wait=False)
    run.settle()
    assert steps(run) == [4]


def test_leaving_the_run_waits_for_the_save(run):
    with run.opened():
        run.shelf.disk = slow = Slow()
        save(run, 1, wait=False)
        threading.Timer(0.1, slow.go.set).start()
    assert steps(run) == [1]


@pytest.mark.slow
def test_a_process_that_ends_waits_for_the_save(run):
    code = f"""
import torch, surefoot as sf
run = sf.Run({str(run.dir)!r})
run.save({{"w": torch.ones(5_000_000)}}, None, 0, 1, {{}}, best=False, wait=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.equal(run.last.weights_dict()["w"], torch.ones(5_000_000))


def test_an_error_in_the_background_is_raised_on_leaving(run):
    class Full(Disk):
        def write(self, path, data):
            raise OSError(28, "No space left on device")

    save(run, 1)
    run.shelf.disk = Full()
    with pytest.raises(sf.UserError, match="No space left"), run.opened():
        save(run, 2, wait=False)
    with run.opened():  # the lock is free
        assert run.last.step == 1


def test_what_cannot_be_saved_is_refused_at_the_call(run):
    for wait in (True, False):
        with pytest.raises(sf.UserError, match=r"cannot save x: a object"):
            run.save({}, {"x": object()}, 0, 1, {}, best=False, wait=wait)
    assert names(run) == []


def test_saving_draws_no_random_numbers(run):
    before = torch.get_rng_state()
    for wait in (True, False):
        save(run, 1, wait=wait)
    run.settle()
    assert torch.equal(torch.get_rng_state(), before)


# --- falling back --------------------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


FILES = ["model.safetensors", "state.safetensors", "manifest.json", "commit"]


@pytest.mark.parametrize("how", [spoil, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_last_gives_way_to_an_older_one_and_says_so_once(run, caplog, file, how):
    save(run, 1, best=True)
    save(run, 2)
    how(run.dir / "checkpoints" / "epoch-0000-step-00000002" / file)
    again = sf.Run(run.dir)
    for _ in range(3):
        assert (again.last.step, again.best.step) == (1, 1)
    (line,) = [record for record in caplog.records if record.name == "surefoot"]
    assert line.levelno == logging.WARNING
    assert file in line.message
    assert "takes its place: epoch-0000-step-00000001" in line.message
    save(again, 2)  # trains the same steps once more: what is damaged is not taken for it
    assert sf.Run(run.dir).last.step == 2
    assert steps(again) == [1, 2]


def test_a_damaged_best_gives_way_to_the_one_before_and_then_to_what_was_validated(run, caplog):
    for step in (1, 2):
        save(run, step, best=True, keep=2)
    save(run, 3, keep=2)
    save(run, 4, keep=2, loss=None)  # stopped between validations
    for step, then in ((2, 1), (1, None)):
        spoil(run.dir / "checkpoints" / f"epoch-0000-step-0000000{step}" / "model.safetensors")
        best = sf.Run(run.dir).best
        assert (best and best.step) == then
    assert "there is no best one" in caplog.text
    save(run, 5, keep=2)
    assert sf.Run(run.dir).best.step == 5
    assert sf.Run(run.dir).last.step == 5


def test_where_nothing_is_intact_the_file_is_named(run):
    save(run, 1)
    spoil(run.dir / "checkpoints" / "epoch-0000-step-00000001" / "model.safetensors")
    with pytest.raises(sf.UserError, match=r"model\.safetensors is damaged.*no other checkpoint to go on from"):
        _ = sf.Run(run.dir).last


def test_without_an_index_the_checkpoints_say_what_they_are(run, caplog):
    for step, best in enumerate([True, False, True, False], 1):
        save(run, step, best, keep=2)
    (run.dir / "checkpoints" / "index.json").unlink()
    again = sf.Run(run.dir)
    assert (again.last.step, again.best.step) == (4, 3)
    spoil(run.dir / "checkpoints" / "epoch-0000-step-00000004" / "manifest.json")
    spoil(run.dir / "checkpoints" / "epoch-0000-step-00000003" / "state.safetensors")
    again = sf.Run(run.dir)
    assert (again.last.step, again.best.step) == (1, 1)
    assert "00000004/manifest.json" in caplog.text
    assert "00000003/state.safetensors" in caplog.text
    save(again, 5, keep=2)
    assert again.last.step == 5


@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "epoch-1-step-1/../../x", "", None, 5, ["x"], "index.json"]
)
@pytest.mark.parametrize("which", ["last", "best"])
def test_an_index_leads_nowhere_else(run, which, name):
    save(run, 1, best=True)
    index = run.dir / "checkpoints" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {which: name}))
    for look in (lambda r: r.last, lambda r: r.best, lambda r: save(r, 2)):
        with pytest.raises(sf.UserError, match=r"index\.json is damaged: it names what is no checkpoint"):
            look(sf.Run(run.dir))


@pytest.mark.parametrize("what", ["epoch-0000-step-00000001", "index.json"])
def test_links_are_refused(run, tmp_path, what):
    save(run, 1)
    path = run.dir / "checkpoints" / what
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(sf.UserError, match="is a link"):
        _ = sf.Run(run.dir).last


def test_a_link_among_the_leftovers_is_removed_and_not_followed(run, tmp_path):
    save(run, 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    (run.dir / "checkpoints" / ".epoch-0000-step-00000002.new").symlink_to(tmp_path / "mine")
    save(run, 2)
    assert steps(run) == [2]
    assert (tmp_path / "mine" / "file").read_text() == "precious"


def test_a_run_of_format_1_goes_on(run):
    folder = run.dir / "checkpoints"
    for step in (1, 2):
        path = folder / f"epoch-0000-step-0000000{step}"
        path.mkdir()
        save_file({"w": torch.full((2,), float(step))}, path / "model.safetensors")
        save_file({}, path / "state.safetensors")
        said = {"format": 1, "torch": "2.13", "epoch": 0, "step": step, "values": {"dict": [["val/loss", 1.0]]}}
        tree = {"dict": [["w", {"tensor": "w"}]]}
        (path / "manifest.json").write_text(json.dumps({**said, "model": tree, "state": {"dict": [["step", step]]}}))
    (folder / "index.json").write_text(
        json.dumps({"last": "epoch-0000-step-00000002", "best": "epoch-0000-step-00000001"})
    )
    assert (run.last.state(), run.best.state()) == ({"step": 2}, {"step": 1})
    save(run, 3)
    assert steps(run) == [1, 3]
    assert (run.last.step, run.best.step) == (3, 1)


# --- surefoot verify -----------------------------------------------------------------------------------------------


def test_verify_looks_at_every_file(run, capsys):
    save(run, 1, best=True)
    save(run, 2)
    with closing(Store(run.dir / "record.sqlite", write=True)) as store:
        store.add([(i, "train/loss", random.random()) for i in range(2000)])
    assert main(["verify", str(run.dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("ok ") for line in lines)
    assert "SQLite finds it sound" in lines[-1]

    for file in [*(run.dir / "checkpoints").glob("*/*"), run.dir / "record.sqlite"]:
        data = file.read_bytes()
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 4096]) + data[middle + 4096 :])
        assert main(["verify", str(run.dir)]) == 1
        bad = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok ")]
        assert len(bad) == 1
        assert bad[0].startswith("DAMAGED ")
        assert file.name in bad[0]
        file.write_bytes(data)
    assert main(["verify", str(run.dir)]) == 0


def test_verify_tells_what_a_crash_left_from_damage(run, capsys):
    save(run, 1)
    left = run.dir / "checkpoints" / "epoch-0000-step-00000002"
    shutil.copytree(run.last.path, left)
    (left / "commit").unlink()
    assert main(["verify", str(run.dir)]) == 0
    assert "a crash left it, the next save removes it" in capsys.readouterr().out
    (run.last.path / "commit").unlink()
    assert main(["verify", str(run.dir)]) == 1
    (run.dir / "checkpoints" / "index.json").write_text("{")
    assert main(["verify", str(run.dir)]) == 1
    assert main(["verify", str(run.dir / "none")]) == 1
    out = capsys.readouterr()
    assert "index.json cannot be read" in out.out
    assert "there is no run in" in out.err


# --- the best of several --------------------------------------------------------------------------------------------


def test_of_the_best_those_of_the_greatest_merit_are_kept(run):
    merits = [0.5, 0.7, 0.6, 0.1, 0.65, 0.7]
    for step, merit in enumerate(merits, 1):
        best = merit > max(merits[: step - 1], default=-1)
        run.save(nn.Linear(1, 1), {}, 1, step, {"val/accuracy": merit}, best, merit=merit, keep=3)
    assert [int(name[-8:]) for name in run.shelf.index().best] == [2, 6, 5]  # of equals the older is the best
    assert (run.best.step, run.last.step) == (2, 6)
    run.save(nn.Linear(1, 1), {}, 1, 7, {}, False, keep=3)  # without an evaluation
    assert [int(name[-8:]) for name in run.shelf.index().best] == [2, 6, 5]
    assert run.last.step == 7
