"""Rounding to half precision: to the nearest, or up or down by chance, so that small steps count on the average.

To the nearest, a weight of 1 in bfloat16 stays 1 until a step is larger than 0.002. Rounded by chance, up with a
probability of the distance from below, it moves as in single precision, on the average.

Source: Gupta et al. 2015 (arXiv:1502.02551), section 3. Chance is a hash of seed, step, parameter, what is rounded (the
parameter or one of its states) and the element's place in memory: the same on every backend, on any number of threads
and, where a tensor is sharded along its rows, of processes, and after a resumption. The hash is the finalizer of
MurmurHash3 (32 bit).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

HALVES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
LOOSE = {"bfloat16": 0xFFFF, "float16": 0x1FFF}  # the digits of single precision that there is no room for
MIX = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))  # of the hash: shifts and factors, and then the first shift again
STREAM = 0x9E3779B9  # the keys of two tensors of one parameter differ by it
MASK = 0xFFFFFFFF
NORMAL, TINIEST = 2.0**-14, 2.0**-24  # of float16: the smallest number with all its digits, and the smallest of all

Int = TypeVar("Int", int, Tensor)


def mix(x: Int) -> Int:
    """A hash of 32 bits, of a number or of each in an int64 tensor."""
    for shift, factor in MIX:
        x = (x ^ (x >> shift)) * factor & MASK
    return x ^ (x >> MIX[0][0])


def noise(seed: int, t: int) -> int:
    """What all parameters that take their step t share."""
    return mix(mix(seed & MASK) ^ (t & MASK))


def bits(like: Tensor, noise: int, number: int, stream: int, begin: int = 0) -> Tensor:
    """32 random bits for each element of the tensor, int64.

    Args:
        noise: of seed and step
        number: of the parameter
        stream: 0 for the parameter itself, 1 for its first state and so on
        begin: the place of the first element in the whole tensor, of which this may be a shard
    """
    key = mix(noise ^ (number & MASK)) + stream * STREAM & MASK
    place = torch.empty_like(like, dtype=torch.int64)  # laid out as the tensor is
    place = torch.arange(like.numel(), device=like.device).as_strided(place.shape, place.stride())
    return mix(place + begin & MASK ^ key)


def by_chance(x: Tensor, bits: Tensor, dtype: torch.dtype) -> Tensor:
    """x, in single precision, rounded to a half precision by random bits."""
    loose = LOOSE[HALVES[dtype]]
    moved = ((x.view(torch.int32) + (bits & loose).int()) & ~loose).view(torch.float32)
    if dtype == torch.float16:
        moved = torch.where(x.abs() < NORMAL, x + (bits.float() * 2.0**-32 - 0.5) * TINIEST, moved)
    return torch.where(x.isfinite(), moved, x).to(dtype)
