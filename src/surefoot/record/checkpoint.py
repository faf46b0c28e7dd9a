"""Checkpoints without pickle: a folder with the tensors as safetensors and all else as JSON.

epoch-0020-step-00000460/
    model.safetensors      the weights alone, under the names of model.state_dict()
    state.safetensors      the tensors of optimizer, schedule and loop
    manifest.json          what both belong to: structure, numbers, versions
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.record import files

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a training.

    path: its folder
    epoch, step: how many epochs were complete, and how many optimizer steps had been taken
    values: the validation's results by name, where there was one
    """

    path: Path
    epoch: int
    step: int
    values: Mapping[str, float]

    @property
    def weights(self) -> Path:
        """The file with the weights alone."""
        return self.path / "model.safetensors"

    def load_model(self, model: nn.Module) -> None:
        """Put the saved weights and buffers into a model; one that they do not fit is refused."""
        try:
            model.load_state_dict(self._read("model"))
        except RuntimeError as error:
            raise UserError(f"the checkpoint {self.path} does not fit the model: {error}") from None

    def state(self) -> Any:
        """What `save` was given as `state`."""
        return self._read("state")

    def _read(self, part: str) -> Any:
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

        file = self.path / f"{part}.safetensors"
        try:
            return _unpack(files.read_json(self.path / "manifest.json")[part], load_file(file))
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(f"{file} is damaged: {error}") from None


def save(path: Path, model: nn.Module, state: Any, epoch: int, step: int, values: Mapping[str, float]) -> None:
    """Write a checkpoint; the folder appears under its name when it is whole.

    Args:
        state: what else goes on from here: a tree of dicts, lists, tuples, tensors, strings and numbers

    Raises:
        UserError: for something in the tree that cannot be written without pickle, naming its place
    """
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    fresh = path.with_name(f".{path.name}.new")
    rmtree(fresh, ignore_errors=True)  # left by a crash
    fresh.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "torch": torch.__version__,
        "epoch": epoch,
        "step": step,
        "values": _pack(values, "values", {}, {}),
    }
    try:
        for part, tree in (("model", model.state_dict()), ("state", state)):
            tensors: dict[str, Tensor] = {}
            manifest[part] = _pack(tree, "", tensors, {})
            save_file(tensors, fresh / f"{part}.safetensors")
        (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")
        files.move(fresh, path)
    except BaseException:
        rmtree(fresh, ignore_errors=True)
        raise


def refuse_unsavable(model: nn.Module) -> None:
    """Refuse a model whose state cannot be saved, before it is trained."""
    _pack(model.state_dict(), "", {}, {})


def load(path: Path) -> Checkpoint:
    """Open a checkpoint."""
    manifest = files.read_json(path / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} was written by another surefoot: its format is {manifest.get('format')}, not {FORMAT}")
    try:
        return Checkpoint(path, manifest["epoch"], manifest["step"], _unpack(manifest["values"], {}))
    except KeyError as error:
        raise UserError(f"{path / 'manifest.json'} is damaged: {error} is missing") from None


Key = tuple[Any, ...]


def _pack(tree: Any, name: str, tensors: dict[str, Tensor], seen: dict[Key, str]) -> Any:
    """The tree as JSON, its tensors put aside in `tensors` by name; one that several places share is kept once."""
    if isinstance(tree, Tensor):
        t = torch.view_as_real(tree.detach().resolve_conj()) if tree.is_complex() else tree.detach()
        key = (t.data_ptr(), t.shape, t.stride(), t.dtype, t.device) if t.numel() else (name,)
        if key not in seen:
            seen[key] = name
            whole = t.untyped_storage().nbytes() == t.numel() * t.element_size()
            tensors[name] = t.cpu().contiguous() if whole else t.cpu().clone().contiguous()  # not what it is a part of
        return {"complex" if tree.is_complex() else "tensor": seen[key]}
    if isinstance(tree, Mapping):
        items = cast("Mapping[Any, Any]", tree).items()
        return {"dict": [[key, _pack(value, _join(name, key), tensors, seen)] for key, value in items]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        values = cast("list[Any]", tree)
        return {kind: [_pack(value, _join(name, i), tensors, seen) for i, value in enumerate(values)]}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}  # JSON has no word for it
    if tree is None or isinstance(tree, str | int | float | bool):
        return tree
    raise UserError(f"cannot save {name or 'this'}: a {type(tree).__name__} needs pickle, which checkpoints do without")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = cast("dict[str, Any]", tree).items()
    if kind == "tensor":
        return tensors[value]
    if kind == "complex":
        return torch.view_as_complex(tensors[value])
    if kind == "float":
        return float(value)
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in value}
    values = [_unpack(item, tensors) for item in value]
    return values if kind == "list" else tuple(values)


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)
