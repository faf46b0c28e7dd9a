"""Weights alone, in files that others read and write."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.errors import UserError
from surefoot.record import tensors
from surefoot.record.files import DISK, hidden

TORCH = (".pt", ".pth")


def export(weights: Mapping[str, Any], path: Path) -> None:
    """Write weights into a `.safetensors`, `.pt` or `.pth` file; one that is there is replaced when the new is whole.

    Args:
        weights: what `model.state_dict()` gives
    """
    if path.suffix not in (".safetensors", *TORCH):
        raise UserError(f"cannot export to {path}: its name must end in .safetensors, .pt or .pth")
    try:
        if path.suffix == ".safetensors":
            for name, value in weights.items():
                if not isinstance(value, Tensor) or value.dtype not in tensors.TYPES:
                    what = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
                    raise UserError(f"{name} is {what}, which safetensors cannot hold: export to a .pt file")
            # tied weights are written once for each name: other readers know nothing of sharing
            DISK.replace(path, tensors.pieces(tensors.in_file_order(weights)))
        else:
            fresh = hidden(path)
            try:
                with open(fresh, "wb") as file:
                    torch.save(dict(weights), file)
                DISK.sync(fresh)
                DISK.rename(fresh, path)
            finally:
                DISK.remove(fresh)
            DISK.sync_dir(path.parent)
    except OSError as error:
        raise UserError(f"cannot export to {path}: {error.strerror}: choose another place") from None


def load_weights(path: str | Path) -> dict[str, Any]:
    """The weights by name in a file from anywhere. Nothing in it is run: pickles only as `weights_only` allows.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote a state_dict to

    Raises:
        UserError: for a file that cannot be read so, and for one that holds no mapping of names

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"w": torch.ones(2)}, folder + "/w.pt")
    ...     load_weights(folder + "/w.pt")
    {'w': tensor([1., 1.])}
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than weights, which only code can unpack: save its state_dict()") from None
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as weights: {error}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}, not weights by name: save model.state_dict()")
    return dict(cast("Mapping[str, Any]", found))
