"""Rates, schedules, clipping, decay, batches, length, optimizers."""

from benchmarks.diagnose.faults import faulty

PLAIN = {"style": "module"}

faulty(
    "adam 100 times too high",
    "lr-too-high",
    "blobs-mlp digits-cnn text-gru labels-mlp signals-cnn counts-transformer",
    lambda s: {"lr": 100 * s.lr},
)
faulty(
    "sgd far too high",
    "lr-too-high",
    "smooth-mlp waves-gru digits-mlp digits-residual",
    {"optimizer": "sgd", "lr": 3.0},
)
faulty(
    "adam 30 times too high", "lr-too-high", "smooth-mlp cancer-mlp diabetes-mlp sums-lstm", lambda s: {"lr": 60 * s.lr}
)
faulty(
    "adam 300 times too low",
    "lr-too-low",
    "blobs-mlp digits-cnn waves-gru text-gru digits-mlp signals-cnn text-transformer",
    lambda s: {"lr": s.lr / 300},
)
faulty("sgd too low", "lr-too-low", "smooth-mlp cancer-mlp labels-mlp sums-lstm", {"optimizer": "sgd", "lr": 1e-5})
faulty(
    "adam 50 times too low", "lr-too-low", "smooth-mlp digits-residual counts-transformer", lambda s: {"lr": s.lr / 60}
)
faulty("rate of zero", "lr-zero", "cancer-mlp digits-mlp", {"lr": 0.0})
faulty(
    "ends at a tenth",
    "lr-zero",
    "waves-gru signals-cnn digits-cnn text-transformer",
    {"factor": lambda share, step: max(0.0, 1 - 10 * share)},
)
faulty(
    "decays each step",
    "schedule-too-fast",
    "blobs-mlp text-gru digits-residual sums-lstm",
    {"factor": lambda share, step: 0.8**step},
)
faulty(
    "steps a batch, not an epoch",
    "schedule-too-fast",
    "digits-cnn labels-mlp",
    {"factor": lambda share, step: 0.1 ** (step // 8)},
)
faulty("no warm-up", "no-warmup", "text-gru counts-transformer text-transformer", lambda s: {"lr": 12 * s.lr})
faulty(
    "plain sgd",
    "optimizer-unsuited",
    "text-gru text-transformer counts-transformer waves-gru sums-lstm",
    {"optimizer": "sgd", "momentum": 0.0, "lr": 0.05},
)
faulty(
    "clipped to a thousandth",
    "clip-too-tight",
    "blobs-mlp digits-cnn digits-mlp signals-cnn",
    {"optimizer": "sgd", "lr": 0.05, "clip": 1e-3},
    **PLAIN,
)
faulty(
    "clipped to a hundredth",
    "clip-too-tight",
    "smooth-mlp text-transformer",
    {"optimizer": "sgd", "lr": 0.02, "clip": 5e-3},
    **PLAIN,
)
faulty("l2 of one", "over-regularised", "blobs-mlp waves-gru digits-mlp labels-mlp", {"weight_decay": 0.5})
faulty(
    "decay that eats all",
    "over-regularised",
    "smooth-mlp digits-cnn signals-cnn",
    {"optimizer": "adamw", "weight_decay": 60.0},
)
faulty("dropout of 0.95", "over-regularised", "cancer-mlp text-gru digits-residual diabetes-mlp", {"dropout": 0.95})
faulty(
    "single items",
    "batch-too-small",
    "blobs-mlp digits-cnn digits-mlp labels-mlp",
    {"batch": 1, "optimizer": "sgd", "lr": 0.1, "validate": "none"},
    **PLAIN,
)
faulty(
    "all at once",
    "batch-too-large",
    "blobs-mlp waves-gru digits-mlp signals-cnn",
    lambda s: {"batch": 800, "steps": 24, "style": "module"},
)
faulty("too short", "undertrained", "digits-cnn text-gru text-transformer sums-lstm", {"steps": 30})
faulty("one unit wide", "too-little-capacity", "blobs-mlp smooth-mlp digits-mlp labels-mlp", {"width": 1})
faulty(
    "too long on too little",
    "overtrained",
    "blobs-mlp cancer-mlp digits-mlp diabetes-mlp",
    lambda s: {"items": 48, "steps": 400, "batch": 16},
)
