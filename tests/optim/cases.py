"""Every optimizer with every option, and gradients of real models to feed them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CASES = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
    ],
    "Adam": [
        {},
        {"weight_decay": 0.1},
        {"amsgrad": True},
        {"betas": (0.8, 0.99), "eps": 1e-6, "lr": 1e-2},
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    ],
    "AdamW": [{}, {"weight_decay": 0.1, "lr": 1e-2}, {"amsgrad": True, "maximize": True}],
    "RMSprop": [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "lr": 1e-3},
        {"centered": True},
        {"centered": True, "momentum": 0.9, "lr": 1e-3, "weight_decay": 0.01, "alpha": 0.9},
    ],
    "Adagrad": [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"lr_decay": 0.01},
        {"initial_accumulator_value": 0.1, "lr_decay": 0.1, "eps": 1e-6},
    ],
    "Adadelta": [{}, {"rho": 0.8, "weight_decay": 0.1, "lr": 0.5}, {"maximize": True, "eps": 1e-4}],
    "Adamax": [{}, {"weight_decay": 0.1, "betas": (0.8, 0.9), "maximize": True}],
    "NAdam": [
        {},
        {"weight_decay": 0.1, "momentum_decay": 0.1},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True},
    ],
    "RAdam": [
        {},
        {"weight_decay": 0.1, "betas": (0.8, 0.9)},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "betas": (0.9, 0.99)},
    ],
    "ASGD": [{}, {"lambd": 0.1, "t0": 10, "weight_decay": 0.1, "lr": 0.1, "maximize": True}],
    "Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}],
}
# those that torch does not have; and Adafactor, which in torch takes no empty or complex parameters
MORE_CASES = {
    "Adafactor": [{"eps": (1e-12, 1e-3)}, {"weight_decay": 0.1, "lr": 0.05, "eps": (1e-6, 1e-2), "d": 2.0}],
    "NAdamW": [{}, {"weight_decay": 0.1, "momentum_decay": 0.1}],
    "Lion": [{}, {"lr": 1e-3, "betas": (0.95, 0.98), "weight_decay": 0.1, "maximize": True}],
    "Signum": [{}, {"lr": 1e-3, "momentum": 0.5, "weight_decay": 0.1}],
    "AdaBelief": [{}, {"weight_decay": 0.1, "eps": 1e-6}, {"weight_decay": 0.1, "decoupled_weight_decay": False}],
    "Yogi": [{}, {"weight_decay": 0.1, "initial_accumulator": 1e-3, "betas": (0.8, 0.9)}],
    "SparseAdam": [{}, {"maximize": True, "betas": (0.8, 0.9)}],
    "Muon": [{"lr": 0.02}, {"lr": 0.02, "nesterov": False, "momentum": 0.8, "weight_decay": 0.0}],
    "SOAP": [{"precondition_frequency": 1000}, {"precondition_frequency": 1000, "lr": 0.01, "weight_decay": 0.0}],
    "Shampoo": [{"precondition_frequency": 1}, {"precondition_frequency": 1, "weight_decay": 0.1, "lr": 0.01}],
    "Adan": [{}, {"weight_decay": 0.1, "lr": 1e-2, "maximize": True}, {"betas": (0.9, 0.8, 0.95), "eps": 1e-6}],
    "ADOPT": [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "decouple": True, "betas": (0.8, 0.99), "eps": 1e-4, "lr": 1e-2},
    ],
    "AdEMAMix": [
        {},
        {"weight_decay": 0.1, "maximize": True, "lr": 1e-2, "alpha": 2.0},
        {"alpha_warmup": 30, "beta3_warmup": 60},
        {"betas": (0.0, 0.9, 0.99), "beta3_warmup": 20, "eps": 1e-6},
    ],
    "LaProp": [{}, {"weight_decay": 0.1, "maximize": True, "lr": 1e-2}, {"betas": (0.95, 0.9), "eps": 1e-6}],
    "MARS": [{}, {"weight_decay": 0.1, "maximize": True}, {"gamma": 0.5, "betas": (0.9, 0.95), "eps": 1e-6}],
    "StableAdamW": [{}, {"weight_decay": 0.1, "maximize": True}, {"betas": (0.8, 0.999), "eps": 1e-4, "lr": 1e-2}],
    "LAMB": [{}, {"weight_decay": 0.1, "maximize": True}, {"betas": (0.8, 0.99), "eps": 1e-4, "lr": 1e-2}],
    "LARS": [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.0, "trust_coefficient": 0.1, "lr": 0.1, "eps": 1e-3},
    ],
    "Prodigy": [
        {},
        {"weight_decay": 0.1, "maximize": True, "use_bias_correction": True},
        {"weight_decay": 0.1, "decouple": False, "safeguard_warmup": True, "d0": 1e-4, "d_coef": 2.0},
        {"betas": (0.0, 0.99), "beta3": 0.9, "growth_rate": 1.1, "eps": 1e-6, "lr": 0.5},
    ],
    "ScheduleFreeSGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True, "warmup_steps": 50},
        {"lr": 0.05, "momentum": 0.5, "r": 1.0, "weight_lr_power": 0.0},
    ],
    "ScheduleFreeAdamW": [
        {},
        {"weight_decay": 0.1, "maximize": True, "warmup_steps": 50},
        {"betas": (0.8, 0.99), "eps": 1e-6, "r": 1.0, "weight_lr_power": 1.0},
    ],
}
MORE = [(name, options) for name, each in MORE_CASES.items() for options in each]
MORE_IDS = [f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})" for name, options in MORE]
ALL = [(name, options) for name, each in CASES.items() for options in each]
IDS = [f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})" for name, options in ALL]


def models() -> dict[str, nn.Module]:
    return {
        "mlp": nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 12), nn.GELU(), nn.Linear(12, 5)),
        "conv": nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
        ),
        "norm": nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 5)),
    }


def trajectory(kind: str, steps: int, seed: int) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """A random model's first parameters, and the gradients it sees while it is trained on random data, in fp32."""
    torch.manual_seed(seed)
    model = models()[kind]
    start = [p.detach().clone() for p in model.parameters()]
    x, y = torch.randn(256, 12), torch.randint(5, (256,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    gradients: list[list[torch.Tensor]] = []
    for _ in range(steps):
        rows = torch.randint(256, (16,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        optimizer.step()
    return start, gradients


def replay(cls: type, options: dict, start: list, gradients: list, dtype: torch.dtype) -> list[torch.Tensor]:
    """The parameters after an optimizer of this class has seen all the gradients."""
    params = [nn.Parameter(p.to(dtype, copy=True)) for p in start]
    optimizer = cls(params, **options)
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.to(dtype)
        optimizer.step()
    return [p.detach() for p in params]
