"""Adan to Schedule-Free with their options, in the form of `cases.CASES`."""

from __future__ import annotations

MORE_B = {
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
