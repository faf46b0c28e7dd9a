"""Drop-in optimizers: torch.optim's names, arguments and state_dict, run by surefoot's engine."""

from surefoot.engine.options import AGC, Clip, Norms, Options
from surefoot.engine.report import Report
from surefoot.optim.adabelief import AdaBelief
from surefoot.optim.adadelta import Adadelta
from surefoot.optim.adafactor import Adafactor
from surefoot.optim.adagrad import Adagrad
from surefoot.optim.adam import Adam, AdamW
from surefoot.optim.adamax import Adamax
from surefoot.optim.asgd import ASGD
from surefoot.optim.info import Info, info
from surefoot.optim.lion import Lion, Signum
from surefoot.optim.muon import Muon
from surefoot.optim.nadam import NAdam, NAdamW
from surefoot.optim.optimizer import Optimizer
from surefoot.optim.radam import RAdam
from surefoot.optim.registry import create, names
from surefoot.optim.rmsprop import RMSprop
from surefoot.optim.rprop import Rprop
from surefoot.optim.sgd import SGD
from surefoot.optim.sparse_adam import SparseAdam
from surefoot.optim.yogi import Yogi

__all__ = [
    "AGC",
    "ASGD",
    "SGD",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Clip",
    "Info",
    "Lion",
    "Muon",
    "NAdam",
    "NAdamW",
    "Norms",
    "Optimizer",
    "Options",
    "RAdam",
    "RMSprop",
    "Report",
    "Rprop",
    "Signum",
    "SparseAdam",
    "Yogi",
    "create",
    "info",
    "names",
]
