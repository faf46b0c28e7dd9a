"""surefoot: the optimization layer of PyTorch training.

    import surefoot as sf

    opt = sf.optim.AdamW(model.parameters(), lr=1e-3)              # drop-in for torch.optim
    sched = sf.schedule.drive(opt, lr=sf.schedule.linear(0.1, 1, 5) >> sf.schedule.cosine(195))
    task = sf.Task(model=make_model, loss=torch.nn.CrossEntropyLoss(), train=train_set, val=val_set)
    run = sf.train(task, sf.Recipe(lr=1e-3, epochs=20))

Everything is loaded when it is first used, so importing surefoot costs next to nothing beyond torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot import optim, schedule
    from surefoot.diagnose.watch import watch
    from surefoot.errors import UserError
    from surefoot.record.run import Run
    from surefoot.task import metrics
    from surefoot.task.recipe import Recipe
    from surefoot.task.task import Task
    from surefoot.train.loop import train
    from surefoot.train.prove import prove_resume

__version__ = "0.1.0"
__all__ = ["Recipe", "Run", "Task", "UserError", "metrics", "optim", "prove_resume", "schedule", "train", "watch"]

_FACE = {  # public name: where it lives, as module:attribute or as a module
    "Recipe": "surefoot.task.recipe:Recipe",
    "Run": "surefoot.record.run:Run",
    "Task": "surefoot.task.task:Task",
    "UserError": "surefoot.errors:UserError",
    "metrics": "surefoot.task.metrics",
    "optim": "surefoot.optim",
    "prove_resume": "surefoot.train.prove:prove_resume",
    "schedule": "surefoot.schedule",
    "train": "surefoot.train.loop:train",
    "watch": "surefoot.diagnose.watch:watch",
}


class _Face(ModuleType):
    """This module. Importing the room `surefoot.train` would put the module in the place of the function `train`,
    as Python binds every submodule to its parent; the face keeps the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and ":" in _FACE.get(name, "")):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'surefoot' has no attribute {name!r}")
    module, _, attribute = _FACE[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
