"""`sf.watch`: one line in any loop that tells what is wrong with a training, why, and what to do."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.diagnose import as_it_is, knowledge
from surefoot.diagnose.blind import blind
from surefoot.diagnose.detectors import Claim
from surefoot.diagnose.facts import beginning, of_pass, of_slope
from surefoot.diagnose.finding import Finding
from surefoot.diagnose.inputs import Compared
from surefoot.diagnose.probe import probe
from surefoot.diagnose.runs import judged
from surefoot.diagnose.symptom import LEAST
from surefoot.diagnose.trials import Probe
from surefoot.diagnose.weighing import weighed
from surefoot.diagnose.words import verdict
from surefoot.errors import UserError
from surefoot.watch.collector import Collector
from surefoot.watch.due import Due
from surefoot.watch.passed import Passed

log = logging.getLogger("surefoot")

SOON = 3  # steps after the first sign of a fact that are judged
OF_TIME = {"input-bound"}  # what is seen by the clock: a resumed run may see otherwise


class Watch:
    """Watches a training by hooks alone; see `watch`."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: nn.Module | None,
        steps: int | None,
        ignore: Sequence[str],
        on_finding: Callable[[Finding], object] | None,
        quiet: bool,
    ) -> None:
        self.planned, self.ignore, self.on_finding, self.quiet = steps, tuple(ignore), on_finding, quiet
        self._failed: dict[str, str] = {}
        self._collector = Collector(model, optimizers, loss, self._look_at, self._stepped, self._guarded)
        self._judge_due = Due(every=1000, growth=1.6)
        self._facts: dict[str, Claim] = beginning(model, optimizers, loss, self._collector.signals)
        self._told, self._judged = set[str](), 0
        self._known, self._news = 0, 0  # how many facts are known; judgements that a new one still calls for
        self._findings: list[Finding] = []
        self._probe: Probe | None = None
        self._closed = False
        self._collector.attach()

    # -- what a loop may say ---------------------------------------------------------------------------------------

    def observe(
        self, loss: Any = None, outputs: Any = None, targets: Any = None, inputs: Any = None, indices: Any = None
    ) -> None:
        """Tell the watch of a loss that is a plain function's; between forward and backward.

        Args:
            loss: the loss that backward is called on
            outputs, targets: what it compares
            inputs: what the model was given; otherwise taken from its call
            indices: which items of the data set these are, to name those of a bad batch
        """
        if not self._closed:
            self._collector.passed(loss, outputs, targets, inputs, indices)

    def validated(self, loss: float | None = None, metric: float | None = None, higher_is_better: bool = True) -> None:
        """Tell the watch what a validation pass gave."""
        if not self._closed:
            values = [float("nan") if value is None else float(value) for value in (loss, metric)]
            self._guarded(self._collector.validated, *values, higher_is_better)

    @contextmanager
    def validation(self) -> Generator[None]:
        """What is computed in this context is validation."""
        was, self._collector.validating = self._collector.validating, True
        try:
            yield
        finally:
            self._collector.validating = was

    def probe(
        self,
        batches: Iterable[tuple[Any, Any]] | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        steps: int = 50,
    ) -> Probe:
        """Try out what would help: some steps from here with the rate times and divided by 10, clipping on and off,
        inputs standardised, weights drawn anew, another optimizer. Then all is put back: weights, buffers, gradients,
        modes, hooks and random numbers, to the bit.

        What gains most comes first among the causes that cannot be told apart otherwise: see `findings`, also those of
        a watch that is closed. It takes as long as some thousand steps of the training.

        Args:
            batches: pairs (inputs, targets), 32 at most; inputs are what the model is called with: a tensor, a tuple of
                arguments, a dict of named ones, or (tuple, dict). Without, those that the watch has kept
            loss: `loss(outputs, targets)`; without, the criterion that is watched
            steps: how many each trial takes

        Returns:
            all trials; `print(probe.text())` shows them as a table

        Raises:
            UserError: where there are no batches or no loss, for models that several processes train, and where the
                loss does not take what the model returns; what the model raises itself comes through
        """
        collector = self._collector
        loss_of = loss or collector.criterion
        if loss_of is None:
            raise UserError("probe: the loss is a plain function: give it, probe(loss=lambda outputs, targets: ...)")
        given = list(collector.kept) if batches is None else batches
        if isinstance(given, list) and not given:
            raise UserError("probe: no batches have been kept yet: give some, probe(batches=[(inputs, targets), ...])")
        roots = [each for each in (loss_of, collector.criterion) if isinstance(each, nn.Module)]
        signals, losses = collector.signals, Compared(collector.model, loss_of, own=loss is None)
        with collector.asleep():
            self._probe = probe(
                collector.model,
                [tracked.optimizer for tracked in collector.tracked],
                given,
                losses,
                steps,
                clip=as_it_is.clip(signals),
                weight=as_it_is.weight(signals),
                lr=as_it_is.rate(signals),
                level=as_it_is.level(signals),
                roots=roots,
            )
        return self._probe

    # -- what it tells -----------------------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """What is wrong as far as can be seen: at most three findings, the root cause first."""
        if not self._closed:
            self._guarded(self._judge)
        return weighed(self._findings, self._probe, self._facts, self.ignore)

    @property
    def step(self) -> int:
        """How many steps it has seen."""
        return self._collector.step

    @property
    def blind(self) -> dict[str, str]:
        """Causes that could not be found, and why; "watch" if it failed itself and is off."""
        return {**blind(self._collector.model, self._collector.signals), **self._failed}

    def measured(self, after: int) -> list[tuple[int, dict[str, float]]]:
        """What was measured at the sampled steps after one, by step and name."""
        return list(self._collector.signals.measured(after))

    def close(self) -> None:
        """Remove all hooks, judge the whole training, and say the verdict. Findings can still be read."""
        if self._closed:
            return
        self._guarded(self._collector.detach)
        self._guarded(self._judge, True)
        self._closed = True
        if not self.quiet:
            log.info("%s", self.text())

    def text(self, language: str = "en") -> str:
        """The verdict in words."""
        return verdict(weighed(self._findings, self._probe, self._facts, self.ignore), self._collector.step, language)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """All that was measured, as tensors and plain data, to go on from in a resumed run."""
        arrays = {name: torch.from_numpy(values) for name, values in self._collector.arrays().items()}
        claims = [asdict(claim) for claim in self._facts.values()]
        return {
            "arrays": arrays,
            "collected": self._collector.rest(),
            "facts": claims,
            "told": sorted(self._told - OF_TIME),
            "judged": (self._judged, self._known, self._news),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, in a watch of the same model and optimizers."""
        self._collector.load({name: t.numpy() for name, t in state["arrays"].items()}, state["collected"])
        self._facts = {claim["cause"]: Claim.from_dict(claim) for claim in state["facts"]}
        self._told = set(state["told"])
        self._judged, self._known, self._news = state["judged"]

    # -- within --------------------------------------------------------------------------------------------------------

    def _look_at(self, one: Passed, slope: Tensor | None) -> None:
        with warnings.catch_warnings():  # checks try losses out on shapes that torch warns of
            warnings.simplefilter("ignore")
            found = of_pass(one, self._collector) if slope is None else of_slope(one, slope, self._collector)
            for claim in found:
                self._facts.setdefault(claim.cause, claim)

    def _stepped(self, step: int) -> None:
        since, self._judged = self._judged, step
        known = self._signs()
        if known > self._known:  # a fact is told soon; some must be seen several times
            self._known, self._news = known, SOON
        due = self._judge_due.next(max(since + 1, LEAST)) <= step
        due = due or (self.planned is not None and since < self.planned <= step)
        if due or self._news:
            self._news = max(0, self._news - 1)
            self._judge()

    def _signs(self) -> int:
        """How much there is that facts may rest on."""
        signals = self._collector.signals
        facts, validations = signals.facts, min(len(signals.validations), SOON)
        missing = sum(bool(names) for key, names in facts.items() if key.startswith("without "))
        seen = len(self._facts) + len(signals.counts.first)
        return seen + validations + missing + bool(facts.get("symmetric")) + ("epoch" in facts)

    def _judge(self, over: bool = False) -> None:
        collector = self._collector
        over = over or (self.planned is not None and collector.step >= self.planned)
        collector.settle() if over else collector.read()
        self._findings = judged(collector.signals, list(self._facts.values()), over, self.planned, self.ignore)
        for finding in self._findings:
            if finding.cause not in self._told:
                self._told.add(finding.cause)
                if self.on_finding is not None:
                    self.on_finding(finding)
                if not self.quiet and finding.severity != "info":
                    log.warning("step %d: %s", collector.step, finding.text())

    def _guarded(self, action: Callable[..., object], *args: Any) -> None:
        """Do something that must not end a training, should it fail: then the watch ends, and says so."""
        if self._failed:
            return
        try:
            action(*args)
        except UserError:
            raise
        except Exception as error:
            self._failed["watch"] = f"it failed: {error!r}"
            self._collector.remove()
            log.exception("sf.watch failed and is off; the training goes on. Please report this")


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
    loss: nn.Module | None = None,
    steps: int | None = None,
    ignore: Sequence[str] = (),
    on_finding: Callable[[Finding], object] | None = None,
    quiet: bool = False,
) -> Watch:
    """Watch a training, in any loop: say what is wrong with it, why, and what to do.

    Sets hooks on the model, the optimizers and the loss, and nothing else: no random number is drawn, no weight, buffer
    or gradient changes, and after `close()` nothing is left.

    Args:
        model: the model
        optimizer: its optimizer, any of torch's kind, or a list of them
        loss: the criterion, if it is a module; where it is a plain function, call `observe` after it
        steps: how many steps are planned, where that is known
        ignore: causes and symptoms that are not to be told
        on_finding: is called with each new finding
        quiet: log nothing; otherwise new warnings go to the logger `surefoot` once, and a verdict at `close()`

    Raises:
        UserError: for what cannot be watched

    >>> import torch, surefoot as sf
    >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0)); y = (x[:, 0] > 0).long()
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(1))
    >>> optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.5), torch.nn.CrossEntropyLoss()
    >>> with sf.watch(model, optimizer, loss=criterion, quiet=True) as watch:
    ...     for _ in range(20):
    ...         optimizer.zero_grad(); criterion(model(x), y).backward(); optimizer.step()
    >>> [finding.cause for finding in watch.findings]
    ['output-activation']
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"watch(model, optimizer): the model must be a torch.nn.Module, not {type(model).__name__}")
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    optimizers = [inner(each) for each in given]
    if not optimizers:
        raise UserError("watch(model, optimizer): give it at least one optimizer")
    if loss is not None and not isinstance(loss, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(
            "watch(loss=...): the loss must be a torch.nn.Module; of a plain function, call "
            "watch.observe(loss=loss, outputs=outputs, targets=targets) between forward and backward"
        )
    if steps is not None and steps < 1:
        raise UserError(f"watch(steps={steps}): it must be 1 or more")
    for code in ignore:
        knowledge.page(code)  # refuses what it does not know
    return Watch(model, optimizers, loss, steps, ignore, on_finding, quiet)


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch's kind within the wrappers of Accelerate, Lightning and others."""
    found = optimizer
    for _ in range(4):
        nested = getattr(found, "_optimizer", None) or getattr(found, "optimizer", None)
        if not isinstance(nested, torch.optim.Optimizer):
            break
        found = nested
    if not isinstance(found, torch.optim.Optimizer):
        raise UserError(f"watch(model, optimizer): {type(optimizer).__name__} is no torch.optim.Optimizer")
    return found
