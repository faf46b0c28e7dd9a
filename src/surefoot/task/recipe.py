"""How a task is trained: plain data that reads and writes TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import tomli
import tomli_w
import torch

from surefoot.errors import UserError, unknown
from surefoot.optim import Optimizer, registry
from surefoot.schedule import Schedule, parse
from surefoot.schedule.plateau import Plateau
from surefoot.schedule.times import Clock


def setting(default: Any, help: str) -> Any:
    """A field of the recipe, with the words that `surefoot train --help` shows for it."""
    if isinstance(default, dict):
        return field(default_factory=dict[str, Any], metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a task is trained.

    What is not given is the usual: of an optimizer's learning rate, weight decay and options, its own usual ones.

    Raises:
        UserError: for a name, value or schedule that cannot be, naming it

    >>> import surefoot as sf
    >>> recipe = sf.Recipe(optimizer="sgd-momentum", schedule="linear(0.1, 1, 5) >> cosine", epochs=200)
    >>> recipe.lr
    0.01
    >>> sf.Recipe.from_toml(recipe.to_toml()) == recipe
    True
    """

    optimizer: str = setting("adamw", f"the optimizer: {', '.join(registry.names())}")
    lr: float = setting(None, "learning rate; with another optimizer, by default its usual one")
    weight_decay: float = setting(None, "weight decay; with another optimizer, by default its usual one")
    options: Mapping[str, Any] = setting({}, "further options of the optimizer, such as betas or momentum")
    schedule: str = setting("cosine", 'schedule of the learning rate, such as "linear(0.1, 1, 5) >> cosine"')
    schedule_every: str = setting("epoch", "what the schedule's numbers count: epoch or step")
    epochs: int = setting(20, "passes over the training data, where no steps are given")
    steps: int | None = setting(None, "optimizer steps in all, instead of epochs")
    seconds: float | None = setting(None, "an upper limit: it stops after the step at which so much time is over")
    batch_size: int = setting(64, "items a forward pass; a DataLoader has its own")
    accumulate: int = setting(1, "batches a step: the gradient is that of all their items together")
    clip_norm: float | None = setting(
        None, "largest norm of the whole gradient; on the command line none for no clipping"
    )
    precision: str = setting("fp32", "fp32, or bf16 or fp16 by torch.autocast; fp16 with a loss scale")
    ema: float | None = setting(None, "keep this exponential average of the weights, such as 0.999, to be used instead")
    evaluate_every: int | None = setting(
        None, "steps between two evaluations, each with a checkpoint; else every epoch"
    )
    keep_best: int = setting(1, "how many of the best checkpoints are kept, beside the last")
    early_stop: str | None = setting(
        None, 'stop where the validation loss gets no better, such as "plateau(patience=5)" evaluations'
    )
    nonfinite: str = setting("raise", "where a gradient is no number: raise an error, skip the step, or rollback")
    compile: bool = setting(False, "compile the model (torch.compile)")
    channels_last: bool = setting(False, "channels last in memory, for convolutions")
    recompute: str | None = setting(
        None, 'modules whose activations are computed again in backward, to save memory: a pattern such as "blocks.*"'
    )
    seed: int = setting(0, "seed of initial weights, data order and all else that is random")

    def __post_init__(self) -> None:
        for name in ("optimizer", "schedule", "schedule_every", "precision", "nonfinite"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(f"recipe: {name} must be text, such as {str(value)!r}")
        if not isinstance(self.options, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"recipe: options must be names with values, not {self.options!r}")
        entry = registry.entry(self.optimizer)
        if not issubclass(entry.factory, Optimizer):
            raise UserError(f"recipe: {self.optimizer} asks for the loss again and again: it is for loops of your own")
        # TOML knows lists, optimizers want tuples
        given = {str(k): v for k, v in self.options.items() if v is not None}
        options = {k: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for k, v in given.items()}
        self._set("options", options)
        for name, value in options.items():
            if name in ("lr", "weight_decay", "clip_norm", "ema"):
                raise UserError(f"recipe: {name} is a key of its own, not one of options")
            if name in ("differentiable", "capturable") and value:
                raise UserError(f"recipe: {name} is for loops of your own, not for a recipe")
        for name in ("lr", "weight_decay"):
            if getattr(self, name) is None:
                self._set(name, entry.options.get(name, 0.0))
        for name, low in (("lr", 0), ("weight_decay", 0)):
            self._set(name, float(self._number(name, int | float, low)))
        for name, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("accumulate", 1), ("keep_best", 1)):
            self._number(name, int, low)
        for name, kind in (("steps", int), ("evaluate_every", int), ("seconds", int | float)):
            if getattr(self, name) is not None and self._number(name, kind, 0) == 0:
                raise UserError(f"recipe: {name}=0 must be more than 0")
        if self.seed >= 2**64:
            raise UserError(f"recipe: seed={self.seed} must be below 2 ** 64")
        if self.clip_norm is not None and self._number("clip_norm", int | float, 0) == 0:
            raise UserError("recipe: clip_norm=0 would stop all learning: leave it out for no clipping")
        self._set("schedule", str(parse(self.schedule)))
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"recipe: {name}={getattr(self, name)!r} must be {' or '.join(known)}")
        for name in ("compile", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"recipe: {name}={getattr(self, name)!r} must be true or false")
        self._check_texts()
        self.create_optimizer([torch.zeros(1, 1)])  # the optimizer knows best which of its options can be

    def create_optimizer(self, model: Any) -> Optimizer:
        """The recipe's optimizer for a model (or for parameters). Steps whose gradients hold a NaN it leaves out."""
        own: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
            "skip_nonfinite": True,
        }
        if self.ema is not None:
            own["ema"] = self.ema
        if not self.weight_decay and "weight_decay" not in registry.entry(self.optimizer).options:
            del own["weight_decay"]  # Rprop, say, knows none
        return registry.create(self.optimizer, model, **{**own, **self.options})

    def shape(self, total: int, steps_per_epoch: int | None = None) -> Schedule:
        """The recipe's schedule, for a run of `total` epochs or steps (as `schedule_every` says).

        Raises:
            UserError: for lengths such as "5ep" beside "2000st" where steps_per_epoch is not given, and for tokens
        """
        by_step = self.schedule_every == "step"
        units = {"st" if by_step else "ep": 1.0}
        if steps_per_epoch is not None:
            units = {"ep": steps_per_epoch, "st": 1.0} if by_step else {"ep": 1.0, "st": 1 / steps_per_epoch}
            units["sa"] = units["st"] / self.batch_size
        return parse(self.schedule).resolved(Clock(total, units)).over(total)

    def replace(self, **changes: Any) -> Recipe:
        """This recipe with some settings changed.

        With another optimizer, the rate, weight decay and options that are not given become that one's usual ones:
        those of the old one would mean nothing.
        """
        for name in changes:
            if name not in SETTINGS:
                raise unknown("recipe key", name, SETTINGS)
        if changes.get("optimizer", self.optimizer) != self.optimizer:
            changes = {"lr": None, "weight_decay": None, "options": {}, **changes}
        return replace(self, **changes)

    def to_toml(self) -> str:
        """The recipe as TOML text."""
        plain: dict[str, Any] = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        return tomli_w.dumps(plain)

    @classmethod
    def from_toml(cls, text: str, where: str = "recipe") -> Recipe:
        """Read a recipe from TOML text; `where` is what errors call it."""
        try:
            plain = tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            raise UserError(f"{where} is not TOML: {error}") from None
        for name in plain:
            if name not in SETTINGS:
                raise unknown(f"key in {where}:", name, SETTINGS)
        return cls(**plain)

    def save(self, path: str | Path) -> None:
        """Write the recipe to a TOML file."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read the recipe {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"cannot read the recipe {path}: it is not UTF-8 text") from None
        return cls.from_toml(text, where=str(path))

    def code(self) -> str:
        """Plain PyTorch code, without surefoot, that trains as this recipe says."""
        from surefoot.task.code import plain_pytorch

        return plain_pytorch(self)

    @property
    def patience(self) -> Plateau | None:
        """What `early_stop` says."""
        return None if self.early_stop is None else cast(Plateau, parse(self.early_stop))

    def _check_texts(self) -> None:
        for name in ("early_stop", "recompute"):
            if not isinstance(getattr(self, name), str | None):
                raise UserError(f"recipe: {name}={getattr(self, name)!r} must be text")
        if self.early_stop is not None:
            if not isinstance(parse(self.early_stop), Plateau):
                raise UserError(f"recipe: early_stop={self.early_stop!r} must be such as plateau(patience=5)")
            self._set("early_stop", str(parse(self.early_stop)))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen for others: this is the constructor at work

    def _number(self, name: str, kind: Any, low: float) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind):
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(f"recipe: {name}={value!r} must be {wanted}")
        if not abs(value) <= sys.float_info.max:  # nor is NaN
            raise UserError(f"recipe: {name}={value!r} must be a finite number")
        if not value >= low:
            raise UserError(f"recipe: {name}={value!r} must be {low} or more")
        return value


CHOICES = {
    "schedule_every": ("epoch", "step"),
    "precision": ("fp32", "bf16", "fp16"),
    "nonfinite": ("raise", "skip", "rollback"),
}
SETTINGS: dict[str, Any] = {f.name: f for f in fields(Recipe)}
