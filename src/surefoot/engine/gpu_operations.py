"""What the text of a GPU kernel may call: the six operations of rules, rounding, and the hash behind chance.

The twin of `operations`, for Triton. Importing it imports Triton.
"""

# Triton's language is not Python's: its functions have no types
# pyright: basic

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from surefoot.engine import rounding

jit: Any = triton.jit  # Triton's own annotation hides that these are called from each other

MIX1, FACTOR1 = (tl.constexpr(number) for number in rounding.MIX[0])
MIX2, FACTOR2 = (tl.constexpr(number) for number in rounding.MIX[1])
STREAM = tl.constexpr(rounding.STREAM)
LOOSE_BF16, LOOSE_FP16 = (tl.constexpr(rounding.LOOSE[name]) for name in ("bfloat16", "float16"))
NORMAL, TINIEST = tl.constexpr(rounding.NORMAL), tl.constexpr(rounding.TINIEST)
NAN_BF16 = tl.constexpr(0x7FC0)
EXPONENT = tl.constexpr(0x7F800000)


@jit
def where(condition, x, y):
    return tl.where(condition, x, y)


@jit
def maximum(x, y):  # of NaN and a number: NaN, as torch has it
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@jit
def absolute(x):
    return tl.abs(x)


@jit
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@jit
def sqrt32(x):  # tl.sqrt and / are approximations in single precision
    return tl.sqrt_rn(x)


@jit
def sqrt64(x):
    return tl.sqrt(x)


@jit
def divide32(x, y):
    return tl.div_rn(x, y)


@jit
def divide64(x, y):
    return x / y


@jit
def log(x):  # in double precision
    return tl.log(x)


@jit
def power(x, y):  # in double precision; x is not negative
    return tl.exp(y * tl.log(x))


@jit
def wide(x):
    return x.to(tl.float64)


@jit
def wide_half(x):
    return x.to(tl.float32)


@jit
def nearest_bfloat16(x):  # by its bits: Triton's interpreter cuts them off
    word = x.to(tl.uint32, bitcast=True)
    even = (word >> 16) & 1
    found = tl.where(x != x, NAN_BF16, (word + 0x7FFF + even) >> 16)
    return found.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@jit
def nearest_float16(x):
    return x.to(tl.float16)


@jit
def moved(x, bits, loose):
    """x, in single precision, moved up by random bits below what there is room for, which are cut off."""
    word = x.to(tl.uint32, bitcast=True)
    up = word + (bits & loose)
    up = up - (up & loose)
    special = (word & EXPONENT) == EXPONENT  # NaN or infinity
    return tl.where(special, x, up.to(tl.float32, bitcast=True))


@jit
def chance_bfloat16(x, bits):
    loose = tl.full([], LOOSE_BF16, tl.uint32)
    return nearest_bfloat16(moved(x, bits, loose))


@jit
def chance_float16(x, bits):
    loose = tl.full([], LOOSE_FP16, tl.uint32)
    tiny = x + (bits.to(tl.float32) * 2.0**-32 - 0.5) * TINIEST
    return tl.where(tl.abs(x) < NORMAL, tiny, moved(x, bits, loose)).to(tl.float16)


@jit
def mix(x):
    """The hash of `rounding`, of uint32."""
    x = (x ^ (x >> MIX1)) * tl.full([], FACTOR1, tl.uint32)
    x = (x ^ (x >> MIX2)) * tl.full([], FACTOR2, tl.uint32)
    return x ^ (x >> MIX1)


@jit
def whole(x):
    """A whole number kept as a float, as far as 32 bits hold it."""
    return x.to(tl.int64).to(tl.uint32)


@jit
def key(noise, number, stream: tl.constexpr):
    return mix(noise ^ number) + tl.full([], stream, tl.uint32) * tl.full([], STREAM, tl.uint32)


@jit
def bits(key, place):
    return mix(key ^ place.to(tl.uint32))


@jit
def highest(x):
    """The largest of all, NaN where there is one."""
    return tl.where(tl.sum((x != x).to(tl.int32)) > 0, float("nan"), tl.max(x))


NAMES = (
    "where", "maximum", "minimum", "absolute", "sign", "log", "power", "wide", "nearest_bfloat16", "nearest_float16",
    "chance_bfloat16", "chance_float16", "mix", "whole", "key", "bits", "highest",
)  # fmt: skip


def operations(precision: str) -> dict[str, Any]:
    """What a kernel's text and a rule's text may name, computing in this precision."""
    found = {name: globals()[name] for name in NAMES}
    single = precision == "float32"
    return {
        "tl": tl,
        "triton": triton,
        "sqrt": sqrt32 if single else sqrt64,
        "divide": divide32 if single else divide64,
        "wide_bfloat16": wide_half,
        "wide_float16": wide_half,
        **found,
    }
