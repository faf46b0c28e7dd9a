"""Checkpoints without pickle: a folder with the tensors as safetensors and all else as JSON.

epoch-0020-step-00000460/
    model.safetensors      the weights alone, under the names of model.state_dict()
    state.safetensors      the tensors of optimizer, schedule and loop
    manifest.json          what both belong to: structure, numbers, versions, each file's tensors, size and hash
    commit                 the manifest's hash, written last: a folder without it is not whole
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.record import tensors
from surefoot.record.files import DISK, HASH, PIECE, Counted, Disk, hidden
from surefoot.record.tree import Packer, unpack

FORMAT = 2
PARTS = ("model", "state")


class DamagedError(UserError):
    """A file of a checkpoint is not what was written."""


class UnfinishedError(DamagedError):
    """A checkpoint whose writing a crash cut short."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a training. What is read from it is checked against the hashes of when it was written.

    path: its folder
    epoch, step: how many epochs were complete, and how many optimizer steps had been taken
    values: the validation's results by name, where there was one
    manifest: what its files hold, see the module's beginning
    """

    path: Path
    epoch: int
    step: int
    values: Mapping[str, float]
    manifest: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def weights(self) -> Path:
        """The file with the weights alone."""
        return self.path / "model.safetensors"

    @property
    def was_best(self) -> bool:
        """Whether it was the best when it was saved."""
        return bool(self.manifest.get("best"))

    @property
    def merit(self) -> float | None:
        """How good it was said to be when it was saved, the larger the better; None where nothing was said."""
        return self.manifest.get("merit")

    def load_model(self, model: nn.Module) -> None:
        """Put the saved weights and buffers into a model; one that they do not fit is refused."""
        try:
            model.load_state_dict(self.weights_dict())
        except RuntimeError as error:
            raise UserError(f"the checkpoint {self.path} does not fit the model: {error}") from None

    def weights_dict(self) -> dict[str, Any]:
        """The weights, buffers and extra state by name, as `model.state_dict()` gave them, on the CPU."""
        found = self._read("model")
        if "metadata" in self.manifest:  # the versions of modules, by which torch loads old ones
            found = OrderedDict(found)
            found._metadata = OrderedDict(unpack(self.manifest["metadata"], {}))  # pyright: ignore
        return found

    def state(self) -> Any:
        """What `save` was given as `state`."""
        return self._read("state")

    def export(self, path: str | Path) -> None:
        """Write the weights alone into a file for others: `.safetensors`, `.pt` or `.pth`.

        Raises:
            UserError: for another ending, and for what safetensors cannot hold (extra state, complex numbers)
        """
        from surefoot.record.weights import export

        export(self.weights_dict(), Path(path))

    def files(self) -> list[Path]:
        """Its files, those first by which the others are judged."""
        names = ["manifest.json", *(f"{part}.safetensors" for part in PARTS)]
        return [self.path / name for name in (["commit"] if "files" in self.manifest else []) + names]

    def verify(self) -> None:
        """Read every file and compare its hash; DamagedError names the first that is not as it was written."""
        for part in PARTS:
            self.verify_part(part)

    def verify_part(self, part: str) -> None:
        """Compare the hash of model.safetensors ("model") or state.safetensors ("state")."""
        file = plain(self.path / f"{part}.safetensors")
        with judged(file):
            if "files" not in self.manifest:  # format 1 has no hashes, but lengths
                from safetensors import safe_open

                with safe_open(file, "pt"):
                    return
            with open(file, "rb") as stream:
                counted = Counted(iter(lambda: stream.read(PIECE), b""))
                for _ in counted:
                    pass
            self._compare(part, counted.size, counted.hash)

    def _compare(self, part: str, size: int, hash: int) -> None:
        said = self.manifest["files"][f"{part}.safetensors"]
        if size != said["bytes"]:
            raise ValueError(f"it has {size} bytes, {said['bytes']} were written")
        if f"{hash:08x}" != said[HASH]:
            raise ValueError(f"its {HASH} is {hash:08x}, {said[HASH]} was written")

    def _read(self, part: str) -> Any:
        file = plain(self.path / f"{part}.safetensors")
        with judged(file):
            if "files" not in self.manifest:
                from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

                return unpack(self.manifest[part], load_file(file))
            said = self.manifest["files"][file.name]
            size = file.stat().st_size
            if size != said["bytes"]:
                raise ValueError(f"it has {size} bytes, {said['bytes']} were written")
            loaded, hash = tensors.read(file, said["tensors"])
            self._compare(part, size, hash)
            return unpack(self.manifest[part], loaded)


@dataclass
class Snapshot:
    """A moment of a training that is to be saved: what the manifest says, and the tensors of each file."""

    manifest: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"epoch-{self.manifest['epoch']:04d}-step-{self.manifest['step']:08d}"


def snapshot(
    weights: nn.Module | Mapping[str, Any],
    state: Any,
    epoch: int,
    step: int,
    values: Mapping[str, float],
    best: bool = False,
    merit: float | None = None,
) -> Snapshot:
    """Gather what is to be saved; the tensors are still the model's own.

    Raises:
        UserError: for something that cannot be written without pickle, naming its place
    """
    tree = weights.state_dict() if isinstance(weights, nn.Module) else weights
    if not isinstance(tree, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"the weights must be a module or what its state_dict() gives, not a {type(tree).__name__}")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "torch": torch.__version__,
        "hash": HASH,
        "epoch": epoch,
        "step": step,
        "best": best,
        "merit": merit,
        "values": Packer().pack(numbers(values), "values"),
    }
    if hasattr(tree, "_metadata"):
        manifest["metadata"] = Packer().pack(dict(tree._metadata), "_metadata")  # pyright: ignore
    parts: dict[str, dict[str, Tensor]] = {}
    for part, branch in zip(PARTS, (tree, state), strict=True):
        packer = Packer()
        manifest[part] = packer.pack(branch)
        parts[part] = tensors.in_file_order(packer.tensors)
    return Snapshot(manifest, parts)


def numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Results as plain numbers; tensors and numpy's numbers are taken as well."""
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"the values of a checkpoint must be numbers by name: {error}") from None


def write(path: Path, shot: Snapshot, disk: Disk = DISK) -> None:
    """Write a checkpoint. The folder appears under its name when it is whole, and counts from its commit marker on."""
    fresh, written = hidden(path), dict[str, Any]()
    half = fresh
    disk.remove(fresh)  # left by a crash
    try:
        disk.make_dir(fresh)
        for part, held in shot.parts.items():
            file, data = fresh / f"{part}.safetensors", Counted(tensors.pieces(held))
            disk.write(file, data)
            disk.sync(file)
            said = {"bytes": data.size, HASH: f"{data.hash:08x}", "tensors": tensors.described(held)}
            written[file.name] = said
        text = json.dumps(shot.manifest | {"files": written}, allow_nan=False).encode()
        disk.write(fresh / "manifest.json", text)
        disk.sync(fresh / "manifest.json")
        disk.sync_dir(fresh)
        disk.rename(fresh, path)
        half = path
        disk.sync_dir(path.parent)
        disk.replace(path / "commit", marker(text))  # in one move: half a marker would look like damage
    except BaseException:
        with suppress(OSError):  # what went wrong first is told
            disk.remove(half)
        raise


def marker(manifest: bytes) -> bytes:
    """What the commit marker says of a manifest."""
    return f"manifest.json {len(manifest)} bytes {HASH} {zlib.crc32(manifest):08x}\n".encode()


def refuse_unsavable(model: nn.Module) -> None:
    """Refuse a model whose state cannot be saved, before it is trained."""
    Packer().pack(model.state_dict())


def load(path: Path) -> Checkpoint:
    """Open a checkpoint: its manifest is read and checked; its tensors are when they are asked for.

    Raises:
        DamagedError: for a manifest that is not what was written
        UserError: for one of another format, and for a folder or file that is a link
    """
    file, commit = plain(plain(path) / "manifest.json"), plain(path / "commit")
    with judged(file, "cannot be read"):
        data, committed = file.read_bytes(), commit.read_bytes() if commit.exists() else None
        if committed not in (None, marker(data)):
            raise DamagedError(f"{file} is damaged, or {commit.name} is: its hash is not what that says")
        manifest = cast("dict[str, Any]", json.loads(data))
        format = manifest.get("format")
    if format not in (1, FORMAT):
        raise UserError(f"{path} was written by another surefoot: its format is {format}, not {FORMAT}")
    if format == FORMAT and committed is None:
        raise UnfinishedError(f"{path} is not whole: its commit marker is missing")
    with judged(file):
        if format == FORMAT:
            confined(file, manifest["files"])
        return Checkpoint(path, manifest["epoch"], manifest["step"], unpack(manifest["values"], {}), manifest)


def plain(path: Path) -> Path:
    """The path, which must be no link: what a checkpoint holds lies in its own folder."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, and could lead anywhere: put what it leads to in its place")
    return path


def confined(file: Path, names: Iterable[str]) -> None:
    """Refuse a manifest that names other files than a checkpoint has."""
    wrong = set(names) ^ {f"{part}.safetensors" for part in PARTS}
    if wrong:
        raise UserError(f"{file} names other files than a checkpoint has: {', '.join(sorted(map(repr, wrong)))}")


@contextmanager
def judged(file: Path, what: str = "is damaged") -> Generator[None]:
    """Whatever reading a file stumbles over in this context, the file is damaged."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DamagedError(f"{file} {what}: {why}") from None
