"""The command line: `surefoot train TASK`, and what else `surefoot --help` lists."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import surefoot
from surefoot.cli import knowledge, runs, training, trials
from surefoot.cli.parser import Commands, Parser
from surefoot.errors import UserError, place
from surefoot.train.stop import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = parser().parse_args(argv)
    if args.traceback:
        return args.command(args)
    try:
        return args.command(args)
    except UserError as error:
        return fail(str(error))
    except Interrupted as stopped:
        return fail(str(stopped), status=128 + stopped.signum)
    except BrokenPipeError:  # who reads has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's own last flush
        return 1
    except Exception as error:  # the task's own code may raise anything: one line, and how to see the rest
        return fail(f"{type(error).__name__}: {error} ({place(error)}; --traceback shows how it came to that)")


def fail(message: str, status: int = 1) -> int:
    print(f"surefoot: {' '.join(message.split())}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    top = Parser(prog="surefoot", description="The optimization layer of PyTorch training.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"surefoot {surefoot.__version__}")
    commands = Commands(top)
    for room in (training, trials, runs, knowledge):
        room.add(commands)
    return top
