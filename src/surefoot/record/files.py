"""Writing files so that a crash leaves the old file or the new one, never half of one.

All that checkpoints do to the disk goes through a `Disk`, so that a test can log, drop, replay and fail each operation.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from surefoot.errors import UserError

HASH = "crc32"  # 2.6 GB/s here, blake2b 0.6: it has to find damage, not malice
PIECE = 1 << 22  # bytes hashed and written at a time: small enough to be in the cache still when it is written


class Disk:
    """What can be done to a disk, in the order that makes it durable: write, sync, rename, sync the folder."""

    def make_dir(self, path: Path) -> None:
        path.mkdir(parents=True)

    def write(self, path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Write a new file, from one piece or many; it may be lost until `sync`."""
        with open(path, "wb", buffering=1 << 20) as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)

    def sync(self, path: Path) -> None:
        """Wait until a file's contents are on the disk."""
        sync(path)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name, in one move; it may be undone by a crash until `sync_dir`."""
        os.replace(old, new)

    def sync_dir(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        sync(path)

    def remove(self, path: Path) -> None:
        """Remove a file, a link (not what it leads to) or a folder with all in it."""
        if path.is_dir() and not path.is_symlink():
            rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def replace(self, path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file in the place of another, durably."""
        fresh = hidden(path)
        try:
            self.write(fresh, data)
            self.sync(fresh)
            self.rename(fresh, path)
        except BaseException:
            with suppress(OSError):  # what went wrong first is told
                self.remove(fresh)
            raise
        self.sync_dir(path.parent)


DISK = Disk()


class Counted:
    """Pieces on their way to a file, counted and hashed as they pass."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.pieces, self.size, self.hash = pieces, 0, 0

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self.pieces:
            for start in range(0, len(piece), PIECE):
                part = piece[start : start + PIECE]
                self.size += len(part)
                self.hash = zlib.crc32(part, self.hash)
                yield part


def hidden(path: Path) -> Path:
    """The name beside a path under which it is written before it is whole."""
    return path.with_name(f".{path.name}.new")


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
    DISK.replace(path, text.encode())


def sync(path: Path) -> None:
    """Wait until a file's or folder's contents are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and orders renames by itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
