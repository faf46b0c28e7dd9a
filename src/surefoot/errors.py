"""The one error that bad input raises, and the helper that suggests what was meant."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Something that the user gave is wrong. The message names it and says what to do.

    It is a `ValueError`, so code written against torch.optim catches it; the command line prints it in one line.
    """


def place(error: BaseException) -> str:
    """Where an error arose: in the user's own code, if any of that was running."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    library = (str(Path(__file__).parent), "site-packages", "<frozen", "importlib", "contextlib")
    users = [frame for frame in frames if not any(part in frame.filename for part in library)]
    frame = (users or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`, with the nearest one as a suggestion.

    >>> print(unknown("recipe key", "weight_deacy", ["lr", "weight_decay"]))
    unknown recipe key weight_deacy: did you mean weight_decay?
    """
    choices = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(choices) or 'none'}"
    return UserError(f"unknown {kind} {name}: {hint}")
