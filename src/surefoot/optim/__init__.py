"""Drop-in optimizers: torch.optim's names, arguments and state_dict, run by surefoot's engine."""

from surefoot.engine.options import AGC, Clip, Norms, Options
from surefoot.engine.report import Report
from surefoot.optim.adafactor import Adafactor
from surefoot.optim.adagrad import Adagrad
from surefoot.optim.adam import Adam, AdamW
from surefoot.optim.muon import Muon
from surefoot.optim.optimizer import Optimizer
from surefoot.optim.registry import create, names
from surefoot.optim.rmsprop import RMSprop
from surefoot.optim.sgd import SGD
from surefoot.optim.sparse_adam import SparseAdam

__all__ = [
    "AGC",
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Clip",
    "Muon",
    "Norms",
    "Optimizer",
    "Options",
    "RMSprop",
    "Report",
    "SparseAdam",
    "create",
    "names",
]
