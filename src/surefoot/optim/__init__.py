"""Drop-in optimizers: torch.optim's names, arguments and state_dict, run by surefoot's engine."""

from torch.optim import LBFGS

from surefoot.engine.options import AGC, Clip, Norms, Options
from surefoot.engine.report import Report
from surefoot.optim.adabelief import AdaBelief
from surefoot.optim.adadelta import Adadelta
from surefoot.optim.adafactor import Adafactor
from surefoot.optim.adagrad import Adagrad
from surefoot.optim.adam import Adam, AdamW
from surefoot.optim.adamax import Adamax
from surefoot.optim.adan import Adan
from surefoot.optim.ademamix import AdEMAMix
from surefoot.optim.adopt import ADOPT
from surefoot.optim.asgd import ASGD
from surefoot.optim.averaging import refresh_batch_norm
from surefoot.optim.clipping import AdaGC, SpikeClip, ZClip
from surefoot.optim.info import Info, info
from surefoot.optim.lamb import LAMB, LARS
from surefoot.optim.laprop import LaProp
from surefoot.optim.lion import Lion, Signum
from surefoot.optim.lookahead import Lookahead
from surefoot.optim.mars import MARS
from surefoot.optim.muon import Muon
from surefoot.optim.nadam import NAdam, NAdamW
from surefoot.optim.optimizer import Optimizer
from surefoot.optim.policy import Groups, param_groups
from surefoot.optim.prodigy import Prodigy
from surefoot.optim.radam import RAdam
from surefoot.optim.registry import create, names
from surefoot.optim.rmsprop import RMSprop
from surefoot.optim.rprop import Rprop
from surefoot.optim.sam import SAM
from surefoot.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from surefoot.optim.sgd import SGD
from surefoot.optim.soap import SOAP, Shampoo
from surefoot.optim.sparse_adam import SparseAdam
from surefoot.optim.stable_adamw import StableAdamW
from surefoot.optim.yogi import Yogi

__all__ = [
    "ADOPT",
    "AGC",
    "ASGD",
    "LAMB",
    "LARS",
    "LBFGS",
    "MARS",
    "SAM",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "AdaGC",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Clip",
    "Groups",
    "Info",
    "LaProp",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "NAdamW",
    "Norms",
    "Optimizer",
    "Options",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Report",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Signum",
    "SparseAdam",
    "SpikeClip",
    "StableAdamW",
    "Yogi",
    "ZClip",
    "create",
    "info",
    "names",
    "param_groups",
    "refresh_batch_norm",
]
