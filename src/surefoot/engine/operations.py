"""What the text of a kernel may call: the six operations of rules, memory, rounding, and calls by address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from surefoot.engine import rounding
from surefoot.engine.eight_bit import BLOCK, LEVELS

# no nnan and no ninf: they would let the compiler drop the tests for NaN and infinity
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def operations(precision: str) -> dict[str, Any]:
    """What a kernel's text and a rule's text may name, computing in this precision."""
    real = np.dtype(precision).type
    zero, one = real(0), real(1)
    type_ = getattr(types, precision)
    llvm_type = {"float32": ir.FloatType(), "float64": ir.DoubleType()}[precision]

    @numba.njit(fastmath=FASTMATH)
    def where(condition: Any, x: Any, y: Any) -> Any:
        return x if condition else y

    @numba.njit(fastmath=FASTMATH)
    def maximum(x: Any, y: Any) -> Any:  # of NaN and a number: NaN, as torch has it
        return x if x > y or x != x else y

    @numba.njit(fastmath=FASTMATH)
    def minimum(x: Any, y: Any) -> Any:
        return x if x < y or x != x else y

    @numba.njit(fastmath=FASTMATH)
    def sign(x: Any) -> Any:
        return one if x > zero else (-one if x < zero else zero)

    return {
        "sqrt": _sqrt(llvm_type),
        "where": where,
        "maximum": maximum,
        "minimum": minimum,
        "absolute": abs,
        "sign": sign,
        "max_or_nan": maximum,
        "wide": np.float64,
        "real": real,
        "zero": zero,
        "one": one,
        "zero64": np.float64(0),
        "infinite": real(np.inf),
        # between these, a sum of squares in this precision has lost nothing that matters
        "least": real(1e-25) if precision == "float32" else real(-1),
        "most": real(1e30) if precision == "float32" else real(np.inf),
        "block_size": 1024,
        "infinite64": np.float64(np.inf),
        "one64": np.float64(1),
        "ints": _pointer(types.int64, ir.IntType(64)),
        "doubles": _pointer(types.float64, ir.DoubleType()),
        "reals": _pointer(type_, llvm_type),
        "claim": _claim,
        **_halves(),
    }


def _halves() -> dict[str, Any]:
    """Half precision, which Numba does not know: 16 bits, computed with in single precision. As in `rounding`."""
    i8, i16, i32, f32, half = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType(), ir.HalfType()

    def wide_bfloat16(b: Any, x: Any) -> Any:
        return b.bitcast(b.shl(b.zext(x, i32), i32(16)), f32)

    def wide_float16(b: Any, x: Any) -> Any:
        return b.fpext(b.bitcast(x, half), f32)

    def nearest_bfloat16(b: Any, x: Any) -> Any:
        word = b.bitcast(x, i32)
        even = b.and_(b.lshr(word, i32(16)), i32(1))
        found = b.trunc(b.lshr(b.add(b.add(word, i32(0x7FFF)), even), i32(16)), i16)
        return b.select(b.fcmp_unordered("uno", x, x), i16(0x7FC0), found)

    def nearest_float16(b: Any, x: Any) -> Any:
        return b.bitcast(b.fptrunc(x, half), i16)

    def moved(b: Any, x: Any, bits: Any, loose: int) -> Any:
        word = b.bitcast(x, i32)
        up = b.and_(b.add(word, b.and_(bits, i32(loose))), i32(~loose & rounding.MASK))
        special = b.icmp_unsigned("==", b.and_(word, i32(0x7F800000)), i32(0x7F800000))  # NaN or infinity
        return b.select(special, x, b.bitcast(up, f32))

    def chance_bfloat16(b: Any, x: Any, bits: Any) -> Any:
        return nearest_bfloat16(b, moved(b, x, bits, rounding.LOOSE["bfloat16"]))

    def chance_float16(b: Any, x: Any, bits: Any) -> Any:
        share = b.fsub(b.fmul(b.uitofp(bits, f32), f32(2.0**-32)), f32(0.5))
        tiny = b.fadd(x, b.fmul(share, f32(rounding.TINIEST)))
        size = b.bitcast(b.and_(b.bitcast(x, i32), i32(0x7FFFFFFF)), f32)
        small = b.fcmp_ordered("<", size, f32(rounding.NORMAL))
        return nearest_float16(b, b.select(small, tiny, moved(b, x, bits, rounding.LOOSE["float16"])))

    def mix(b: Any, x: Any) -> Any:
        for shift, factor in rounding.MIX:
            x = b.mul(b.xor(x, b.lshr(x, i32(shift))), i32(factor))
        return b.xor(x, b.lshr(x, i32(rounding.MIX[0][0])))

    def key(b: Any, noise: Any, number: Any, stream: Any) -> Any:
        noise, number, stream = (b.trunc(each, i32) for each in (noise, number, stream))
        return b.add(mix(b, b.xor(noise, number)), b.mul(stream, i32(rounding.STREAM)))

    def bits(b: Any, key: Any, place: Any) -> Any:
        return mix(b, b.xor(key, b.trunc(place, i32)))

    def pattern(b: Any, x: Any) -> Any:
        return b.bitcast(x, i32)

    def size(b: Any, pattern: Any) -> Any:
        return b.bitcast(pattern, f32)

    def unsigned(b: Any, unit: Any, yes: Any, no: Any) -> Any:  # by the sign, also of a zero
        return b.select(b.icmp_signed("<", b.bitcast(unit, i32), i32(0)), yes, no)

    def mask(b: Any, unit: Any) -> Any:
        return unsigned(b, unit, i32(0xFF), i32(-1))

    def step(b: Any, unit: Any) -> Any:
        return unsigned(b, unit, f32(1 / LEVELS[1]), f32(1 / LEVELS[0]))

    def decode(b: Any, code: Any, mask: Any, step: Any) -> Any:
        x = b.fmul(b.sitofp(b.and_(b.sext(code, i32), mask), f32), step)
        return b.fmul(b.fmul(x, x), b.fmul(x, b.call(b.module.declare_intrinsic("llvm.fabs", [f32]), [x])))

    def encode(b: Any, x: Any, inverse: Any, bits: Any, step: Any) -> Any:
        fabs, root = (b.module.declare_intrinsic(name, [f32]) for name in ("llvm.fabs", "llvm.sqrt"))
        few = b.fcmp_ordered(">", step, f32(2 / (LEVELS[0] + LEVELS[1])))
        most = b.select(few, i32(LEVELS[0]), i32(LEVELS[1]))
        limit = b.sitofp(most, f32)

        def power(k: Any) -> Any:
            y = b.fmul(b.sitofp(k, f32), step)
            return b.fmul(b.fmul(y, y), b.fmul(y, y))

        def limited(k: Any, least: Any) -> Any:
            k = b.select(b.icmp_signed(">", k, most), most, k)
            return b.select(b.icmp_signed("<", k, least), least, k)

        share = b.fmul(b.call(fabs, [x]), inverse)
        level = b.fmul(b.call(root, [b.call(root, [share])]), limit)
        known = b.fcmp_ordered("<=", level, limit)
        k = limited(b.fptosi(b.select(known, level, limit), i32), i32(0))
        low, high = power(k), power(b.add(k, i32(1)))
        chance = b.fmul(b.fmul(b.uitofp(bits, f32), f32(2.0**-32)), b.fsub(high, low))
        up = b.zext(b.fcmp_ordered("<", chance, b.fsub(share, low)), i32)
        there = b.zext(b.fcmp_unordered("!=", x, f32(0)), i32)
        k = b.mul(limited(b.add(k, up), i32(1)), there)
        return b.trunc(b.select(b.fcmp_ordered("<", x, f32(0)), b.neg(k), k), i8)

    bits8, bits16, bits32, real, index = types.int8, types.int16, types.int32, types.float32, types.int64
    return {
        "bytes8": _pointer(bits8, i8),
        "decode": _three(decode, real(bits8, bits32, real)),
        "encode": _four(encode, bits8(real, real, bits32, real)),
        "mask": _one(mask, bits32(real)),
        "step": _one(step, real(real)),
        "scratch": _scratch,
        "pattern": _one(pattern, bits32(real)),
        "size": _one(size, real(bits32)),
        "nought": np.int32(0),
        "sizes": np.int32(0x7FFFFFFF),
        "shorts": _pointer(bits16, i16),
        "wide_bfloat16": _one(wide_bfloat16, real(bits16)),
        "wide_float16": _one(wide_float16, real(bits16)),
        "nearest_bfloat16": _one(nearest_bfloat16, bits16(real)),
        "nearest_float16": _one(nearest_float16, bits16(real)),
        "chance_bfloat16": _two(chance_bfloat16, bits16(real, bits32)),
        "chance_float16": _two(chance_float16, bits16(real, bits32)),
        "key": _three(key, bits32(index, index, index)),
        "bits": _two(bits, bits32(bits32, index)),
        "short": np.int16,
        "whole": np.int64,
    }


def _one(made: Callable[..., Any], signature: Any) -> Any:
    """An operation from a function that builds it: made(builder, value). Numba counts parameters: two more follow."""

    @intrinsic
    def operation(typing: Any, a: Any) -> Any:
        return signature, _build(made)

    return operation


def _two(made: Callable[..., Any], signature: Any) -> Any:
    @intrinsic
    def operation(typing: Any, a: Any, b: Any) -> Any:
        return signature, _build(made)

    return operation


def _three(made: Callable[..., Any], signature: Any) -> Any:
    @intrinsic
    def operation(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, _build(made)

    return operation


def _four(made: Callable[..., Any], signature: Any) -> Any:
    @intrinsic
    def operation(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return signature, _build(made)

    return operation


def _build(made: Callable[..., Any]) -> Callable[..., Any]:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return made(builder, *arguments)

    return build


def _pointer(numba_type: Any, llvm_type: Any) -> Any:
    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm_type.as_pointer())

        return types.CPointer(numba_type)(types.int64), build

    return cast


def _sqrt(llvm_type: Any) -> Any:
    @intrinsic
    def sqrt(typing: Any, x: Any) -> Any:  # math.sqrt calls the C library where a loop has its last few elements
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [llvm_type]), arguments)

        return x(x), build

    return sqrt


@intrinsic
def _scratch(typing: Any) -> Any:
    """Room for a block of numbers in single precision."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(ir.FloatType(), BLOCK))
        return builder.bitcast(room, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(), build


@intrinsic
def _claim(typing: Any, block: Any) -> Any:
    """The next unit that no thread has taken: an atomic `block[0]++`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(block), build


def foreign() -> dict[str, Any]:
    """Memory and C functions by their addresses, for the scan and the witness."""

    def asks(bits: int) -> Any:
        @intrinsic
        def call(typing: Any, function: Any, tensor: Any, scratch: Any) -> Any:
            """What `int function(tensor, answer *)` answers; -1 where it fails."""

            def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                wide, answer = ir.IntType(64), ir.IntType(bits)
                kind = ir.FunctionType(ir.IntType(32), [wide, wide])
                failed = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
                found = builder.load(builder.inttoptr(arguments[2], answer.as_pointer()))
                found = builder.zext(found, wide) if bits < 64 else found
                return builder.select(builder.icmp_signed("==", failed, ir.Constant(failed.type, 0)), found, wide(-1))

            return types.int64(types.int64, types.int64, types.int64), build

        return call

    @intrinsic
    def returned(typing: Any, function: Any, argument: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
            return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

        return types.int64(types.int64, types.int64), build

    @intrinsic
    def prefetch(typing: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            i32, i8 = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [i8, i32, i32, i32])
            function = builder.module.declare_intrinsic("llvm.prefetch", [i8], kind)
            builder.call(function, [builder.inttoptr(arguments[0], i8), i32(0), i32(3), i32(1)])  # to read; keep; data
            return context.get_dummy_value()

        return types.none(types.int64), build

    ints = _pointer(types.int64, ir.IntType(64))
    calls = {"asks": asks(64), "asks32": asks(32), "asks8": asks(8), "returned": returned}
    return {**calls, "prefetch": prefetch, "ints": ints}
