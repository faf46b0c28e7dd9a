"""States in 8 bits: one code for each element, and for each block of 256 elements the size of the largest.

    x = top * sign(code) * (|code| / 127)^4             code from -127 to 127
    x = top * (code / 255)^4                            code from 0 to 255, where no number of the block is negative

so that codes lie dense where numbers are small: the smallest is 4e-9 of the block's largest, and the next code is
3 % more at the top; half as much where signs need no code, as in second moments. The sign of a block's size says which
of both it is: blocks without negative numbers have a negative one. A number is rounded up or down by chance, to the
right one on the average: rounded to the nearest, an average that changes by a thousandth a step would never move. What
is not zero never becomes zero: a second moment of zero would divide by nothing.

Source: the blocks are those of Dettmers et al. 2022, "8-bit optimizers via block-wise quantization" (arXiv:2110.02861),
section 2.1; instead of its table of codes there is a power, which needs no search.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.engine.rounding import HALVES

BLOCK = 256  # elements that share a scale
LEAST = 4096  # tensors of fewer elements keep their states in single precision: there is nothing to save
LEVELS = (127, 255)  # codes above zero, with and without signs
SCALE = "_scale"  # what is added to a state's name for the name of its blocks' sizes


def suits(p: Tensor) -> bool:
    """Whether a parameter's states can be in 8 bits: it is large, plain and in memory row by row."""
    plain = type(p) in (Tensor, torch.nn.Parameter) and p.layout == torch.strided and p.is_contiguous()
    return plain and p.numel() >= LEAST and p.dtype in (torch.float32, *HALVES)


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """The numbers that codes stand for, in single precision."""
    x, unsigned = _blocks(codes.float()), (scale < 0)[:, None]
    x = torch.where(unsigned, x + 256 * (x < 0), x) * _steps(unsigned)
    x = (x * x) * (x * x.abs()) * scale.abs()[:, None]
    return x.reshape(-1)[: codes.numel()].view(codes.shape)


def encode(x: Tensor, bits: Tensor, codes: Tensor, scale: Tensor) -> None:
    """Write numbers, in single precision, into codes and scale, rounded by random bits."""
    blocks = _blocks(x)
    top, unsigned = torch.amax(blocks.abs(), 1), ~blocks.signbit().any(1)
    inverse, step = torch.where(top > 0, 1 / top, 0)[:, None], _steps(unsigned)[:, None]
    most = torch.where(unsigned, LEVELS[1], LEVELS[0])[:, None]
    share = blocks.abs() * inverse
    k = (share.sqrt().sqrt() * most).nan_to_num(0)
    k = torch.minimum(k, most).floor()
    low, high = (k * step) ** 4, ((k + 1) * step) ** 4
    k = k + (_blocks(bits.float()) * 2.0**-32 * (high - low) < share - low)
    k = torch.where(blocks != 0, torch.minimum(k.clamp(min=1), most), 0)
    k = torch.where(blocks < 0, -k, torch.where(k > LEVELS[0], k - 256, k))
    codes.copy_(k.reshape(-1)[: x.numel()].view(x.shape))
    scale.copy_(torch.where(unsigned, -top, top))


def nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scale for numbers, each rounded to the nearest or the one above."""
    codes, scale = torch.empty_like(x, dtype=torch.int8), x.new_empty(-(-x.numel() // BLOCK))
    encode(x, torch.full_like(x, 2.0**31), codes, scale)
    return codes, scale


def _steps(unsigned: Tensor) -> Tensor:
    """By what codes are multiplied before they are raised to their power."""
    return torch.where(unsigned, 1 / LEVELS[1], 1 / LEVELS[0])


def _blocks(x: Tensor) -> Tensor:
    """As blocks, [blocks, 256]; the last is filled up with zeros."""
    flat = x.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
