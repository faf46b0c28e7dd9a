"""Reading the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tomli

from surefoot.task.recipe import SETTINGS, Recipe


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class Commands:
    """The commands of the command line."""

    def __init__(self, top: Parser) -> None:
        self._commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(self, name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        """A new command: what runs it, which describes it, and its line in the list."""
        command = self._commands.add_parser(name, help=help, description=run.__doc__, allow_abbrev=False)
        command.set_defaults(command=run)
        command.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
        return command


def add_recipe(command: argparse.ArgumentParser) -> None:
    """The flags of a recipe: its file, and each of its settings."""
    command.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe in TOML (default: the task's own)")
    settings = command.add_argument_group(
        "recipe", "single settings; the others stay as the task's own recipe or the file says"
    )
    for name, field in SETTINGS.items():
        if name == "options":
            settings.add_argument(
                "--option", action="append", metavar="NAME=VALUE", type=option, help=field.metadata["help"]
            )
        else:
            flag, read = f"--{name.replace('_', '-')}", READERS[field.type]
            words = field.metadata["help"]
            settings.add_argument(flag, type=read, metavar="X", help=words, default=argparse.SUPPRESS)


def wanted_recipe(args: argparse.Namespace, base: Recipe) -> Recipe:
    """The recipe of the file, or else `base`, with the settings of the command line."""
    if args.recipe is not None:
        base = Recipe.load(args.recipe)
    changes = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    if args.option:
        same = changes.get("optimizer", base.optimizer) == base.optimizer
        changes["options"] = {**(base.options if same else {}), **dict(args.option)}
    return base.replace(**changes)


def option(text: str) -> tuple[str, Any]:
    """An optimizer's option: its name, and its value as TOML writes it (or as bare text)."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError:
        return name, value


def or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Read a value, or `none`."""

    def value(text: str) -> Any:
        return None if text == "none" else read(text)

    value.__name__ = read.__name__  # argparse's errors name it
    return value


def yes_or_no(text: str) -> bool:
    """A truth value as TOML writes it."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


READERS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": yes_or_no}
READERS.update({f"{kind} | None": or_none(read) for kind, read in READERS.items()})
