"""The one error that bad input raises, and the helper that suggests what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave is wrong. The message names it and says what to do.

    It is a `ValueError`, so code written against torch.optim catches it; the command line prints it in one line.
    """


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`, with the nearest one as a suggestion.

    >>> print(unknown("recipe key", "weight_deacy", ["lr", "weight_decay"]))
    unknown recipe key weight_deacy: did you mean weight_decay?
    """
    choices = sorted(known)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(choices) or 'none'}"
    return UserError(f"unknown {kind} {name}: {hint}")
