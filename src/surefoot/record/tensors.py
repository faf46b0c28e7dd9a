"""Tensors as bytes: a safetensors file written straight from their memory, and read straight into it.

The library's own `save_file` copies everything once more, and gives no bytes to hash on the way. The format is small:
the header's length (8 bytes, little-endian), the header (JSON: type, shape and place of each tensor), the bytes.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.record.files import PIECE

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wide types first, so that each tensor begins at a multiple of its element's size: the library wants it so."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def described(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """What the manifest says of each tensor: name, dtype, shape."""
    return [{"name": n, "dtype": str(t.dtype).removeprefix("torch."), "shape": [*t.shape]} for n, t in tensors.items()]


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file with these tensors, in their order."""
    yield header(tensors)
    for tensor in tensors.values():
        if tensor.numel():
            yield memory(as_bytes(tensor))


def header(tensors: Mapping[str, Tensor]) -> bytes:
    """The file's beginning. What safetensors has no name for it sees as pairs of reals, or as bytes."""
    table: dict[str, Any] = {}
    end = 0
    for name, t in tensors.items():
        kind, shape = TYPES.get(t.dtype), [*t.shape]
        if kind is None and t.is_complex() and t.dtype.to_real() in TYPES:
            kind, shape = TYPES[t.dtype.to_real()], [*t.shape, 2]
        if kind is None:
            kind, shape = "U8", [t.nbytes]
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's elements one after the other as bytes; its own memory where that is so already."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8)


def memory(data: Tensor) -> memoryview:
    """The memory of a tensor of bytes."""
    return memoryview(data.numpy())  # pyright: ignore[reportArgumentType] - before Python 3.12 it has no type


def from_bytes(data: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor whose bytes these are."""
    return data.view(dtype).reshape(tuple(shape)) if data.numel() else torch.empty(shape, dtype=dtype)


def read(path: Path, said: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file that hold what its manifest says, each in its own memory, and the hash of all bytes read.

    Raises:
        ValueError: for a file that is too short, or a dtype that is none
    """
    loaded: dict[str, Tensor] = {}
    with open(path, "rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), path.stat().st_size))
        hash = zlib.crc32(start)
        for entry in said:
            dtype, shape = getattr(torch, str(entry["dtype"]), None), [int(n) for n in entry["shape"]]
            if not isinstance(dtype, torch.dtype) or min(shape, default=0) < 0:
                raise ValueError(f"{entry} describes no tensor")
            size = math.prod(shape) * dtype.itemsize
            if size > path.stat().st_size:
                raise ValueError("it is too short")
            data = torch.empty(size, dtype=torch.uint8)
            room = memory(data)
            for begin in range(0, size, PIECE):
                got = file.readinto(room[begin : begin + PIECE])
                hash = zlib.crc32(room[begin : begin + got], hash)
            loaded[str(entry["name"])] = from_bytes(data, dtype, shape)
        return loaded, zlib.crc32(file.read(), hash)
