from __future__ import annotations

import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.record import Run


@pytest.fixture
def run(tmp_path):
    task = sf.Task(model=lambda: nn.Linear(1, 1), loss=nn.MSELoss(), train=(torch.ones(1, 1), torch.ones(1, 1)))
    return Run.create(tmp_path / "run", task, sf.Recipe())


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
