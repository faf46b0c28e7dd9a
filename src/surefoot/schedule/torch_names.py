"""torch's schedulers by the expressions that replace them."""

from __future__ import annotations

# a name of torch.optim.lr_scheduler: an expression in its arguments, perhaps with words. What is a rate there is here a
# factor on the base rate
TORCH = {
    "LambdaLR": "function(lr_lambda)",
    "MultiplicativeLR": "function(product of the factors); for a constant factor, exponential(factor)",
    "StepLR": "step(step_size, gamma)",
    "MultiStepLR": "multistep(milestones, gamma)",
    "ConstantLR": "constant(factor, total_iters) >> constant()",
    "LinearLR": "linear(start_factor, end_factor, total_iters)",
    "ExponentialLR": "exponential(gamma)",
    "SequentialLR": "a >> b; each with its length: the milestones are where they end",
    "PolynomialLR": "polynomial(total_iters, power)",
    "CosineAnnealingLR": "cosine(T_max, floor=eta_min / lr); it holds its floor, torch's rises again",
    "ChainedScheduler": "a * b",
    "ReduceLROnPlateau": "plateau(factor, patience, threshold, mode=mode); and driver.step(metric=...)",
    "CyclicLR": "cyclic(step_size_up, step_size_down, low=base_lr / max_lr, mode=mode, gamma=gamma); with lr=max_lr",
    "OneCycleLR": (
        "one_cycle(total_steps - 1, start=1 / div_factor, end=1 / div_factor / final_div_factor, "
        "rise=(pct_start * total_steps - 1) / (total_steps - 1)); with lr=max_lr, and momentum the other way"
    ),
    "CosineAnnealingWarmRestarts": "cosine_restarts(T_0, stretch=T_mult, floor=eta_min / lr)",
}
