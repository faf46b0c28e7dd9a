"""Writing files so that a crash leaves the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from surefoot.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def write_text(path: Path, text: str) -> None:
    """Replace the file in one move."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    move(fresh, path)


def move(fresh: Path, final: Path) -> None:
    """Make what was written under a temporary name durable, then give it its own."""
    for path in (fresh, *fresh.rglob("*")):
        sync(path)
    os.replace(fresh, final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file's or folder's contents are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and orders renames by itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
