"""Dot-product instructions as tensor intrinsics.

TVM's registered VNNI intrinsic passes operand types that LLVM 22 rejects, so these are our own. They
compute C[lane] += sum_k A[k] * B[lane, k], of unsigned A and signed B exactly in int32:

* vpdpbusd (AVX512-VNNI, AVX-VNNI): four products a lane.
* vpmaddwd (AVX2, AVX-512BW): two products a lane, from operands widened to int16; the 8-bit vpmaddubsw would
  saturate its 16-bit sums (Intel SDM, VPMADDUBSW).

* sdot, usdot (Arm's dot products, and its i8mm extension): four products a lane, of signed or of unsigned A.

and of bfloat16 A and B in float32:

* vdpbf16ps (AVX512-BF16): two products a lane, denormals as zero (Intel SDM, VDPBF16PS). TVM would widen its operands
  to float32 wherever it sees them, so they travel as bits and the call is a function in LLVM's own language.
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T


def _description(lanes: int, group: int, dtype: str) -> Any:
    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((group,), dtype, offset_factor=1),
        B: T.Buffer((lanes, group), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:group], B[0:lanes, 0:group])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, group):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return dot


def _vnni(lanes: int) -> Any:
    name = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}[lanes]
    intrinsic = tvm.target.codegen.llvm_lookup_intrinsic_id(name)
    acc, data = f"int32x{lanes}", f"int8x{4 * lanes}"

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            word = T.reinterpret(A.vload([0], "uint8x4"), dtype="int32")
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.int32(intrinsic),
                C.vload([0], dtype=acc),
                T.reinterpret(T.broadcast(word, lanes), dtype=data),
                B.vload([0, 0], dtype=data),
                dtype=acc,
            )

    return dot


def _madd(lanes: int) -> Any:
    name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}[lanes]
    intrinsic = tvm.target.codegen.llvm_lookup_intrinsic_id(name)
    acc, bytes_, words = f"int32x{lanes}", f"int8x{2 * lanes}", f"int16x{2 * lanes}"

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((2,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 2), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            pair = T.reinterpret(T.cast(A.vload([0], "uint8x2"), "int16x2"), dtype="int32")
            C[T.ramp(T.int32(0), 1, lanes)] = C.vload([0], dtype=acc) + T.call_llvm_pure_intrin(
                T.int32(intrinsic),
                T.reinterpret(T.broadcast(pair, lanes), dtype=words),
                T.cast(B.vload([0, 0], dtype=bytes_), words),
                dtype=acc,
            )

    return dot


def _neon(dtype: str) -> Any:
    name = {"int8": "llvm.aarch64.neon.sdot", "uint8": "llvm.aarch64.neon.usdot"}[dtype]
    intrinsic = tvm.target.codegen.llvm_lookup_intrinsic_id(name)

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((4,), dtype, offset_factor=1),
        B: T.Buffer((4, 4), "int8", offset_factor=1),
        C: T.Buffer((4,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:4], A[0:4], B[0:4, 0:4])
            T.writes(C[0:4])
            word = T.reinterpret(A.vload([0], f"{dtype}x4"), dtype="int32")
            C[T.ramp(T.int32(0), 1, 4)] = T.call_llvm_pure_intrin(
                T.int32(intrinsic),
                C.vload([0], dtype="int32x4"),
                T.reinterpret(T.broadcast(word, 4), dtype="int8x16"),
                B.vload([0, 0], dtype="int8x16"),
                dtype="int32x4",
            )

    return dot


@functools.cache
def dot_product(lanes: int, group: int, dtype: str) -> str:
    """Register (once) and name the intrinsic for `lanes` int32 sums of `group` products.

    Args:
        dtype: of the data that all lanes share, "uint8" or "int8"; weights are int8.
    """
    name = f"optkit.dot_{dtype}_{lanes}x{group}"
    made = _neon(dtype) if lanes == 4 else _vnni(lanes) if group == 4 else _madd(lanes)
    TensorIntrin.register(name, _description(lanes, group, dtype), made)
    return name


@functools.cache
def word_product(lanes: int, broadcast: bool) -> str:
    """Register (once) and name the intrinsic for `lanes` int32 sums of products of four bytes in an int32.

    Args:
        broadcast: one word of unsigned bytes serves all lanes; else each lane has its own.
    """
    name = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}[lanes]
    intrinsic = tvm.target.codegen.llvm_lookup_intrinsic_id(name)
    acc, data = f"int32x{lanes}", f"int8x{4 * lanes}"
    width, read = (1, "int32") if broadcast else (lanes, acc)

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((width,), "int32", offset_factor=1),
        B: T.Buffer((lanes,), "int32", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:width], B[0:lanes])
            T.writes(C[0:lanes])
            for i in range(lanes):
                with T.sblock("update"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = C[vi] + (
                        T.bitwise_and(T.shift_right(A[vi * (width // lanes)], 0), 255)
                        * T.shift_right(T.shift_left(B[vi], 24), 24)
                        + T.bitwise_and(T.shift_right(A[vi * (width // lanes)], 8), 255)
                        * T.shift_right(T.shift_left(B[vi], 16), 24)
                        + T.bitwise_and(T.shift_right(A[vi * (width // lanes)], 16), 255)
                        * T.shift_right(T.shift_left(B[vi], 8), 24)
                        + T.bitwise_and(T.shift_right(A[vi * (width // lanes)], 24), 255)
                        * T.shift_right(T.shift_left(B[vi], 0), 24)
                    )

    def spread(vector: Any) -> Any:
        """The unsigned bytes of every lane."""
        return T.broadcast(vector, lanes) if broadcast else vector

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((width,), "int32", offset_factor=1),
        B: T.Buffer((lanes,), "int32", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:width], B[0:lanes])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.int32(intrinsic),
                C.vload([0], dtype=acc),
                T.reinterpret(spread(A.vload([0], dtype=read)), dtype=data),
                T.reinterpret(B.vload([0], dtype=acc), dtype=data),
                dtype=acc,
            )

    word = f"optkit.dot_words_{lanes}_{'one' if broadcast else 'own'}"
    TensorIntrin.register(word, description, dot)
    return word


PAIRS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @optkit_dpbf16ps_512(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""
"""What a kernel imports whose tiles are `pair_product`s."""


@functools.cache
def pair_word_product(lanes: int) -> str:
    """Register (once) and name the intrinsic for `lanes` float32 sums of two products each, of pairs in one uint32."""

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((1,), "uint32", offset_factor=1),
        B: T.Buffer((lanes,), "uint32", offset_factor=1),
        C: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:1], B[0:lanes])
            T.writes(C[0:lanes])
            for i in range(lanes):
                with T.sblock("update"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = C[vi] + (
                        T.reinterpret("float32", T.shift_left(A[0], T.uint32(16)))
                        * T.reinterpret("float32", T.shift_left(B[vi], T.uint32(16)))
                        + T.reinterpret("float32", T.bitwise_and(A[0], T.uint32(0xFFFF0000)))
                        * T.reinterpret("float32", T.bitwise_and(B[vi], T.uint32(0xFFFF0000)))
                    )

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((1,), "uint32", offset_factor=1),
        B: T.Buffer((lanes,), "uint32", offset_factor=1),
        C: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:1], B[0:lanes])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_extern(
                f"float32x{lanes}",
                "optkit_dpbf16ps_512",
                C.vload([0], dtype=f"float32x{lanes}"),
                T.broadcast(T.reinterpret(A[0], dtype="int32"), lanes),
                T.reinterpret(B.vload([0], dtype=f"uint32x{lanes}"), dtype=f"int32x{lanes}"),
            )

    name = f"optkit.dot_bf16_words_{lanes}"
    TensorIntrin.register(name, description, dot)
    return name


@functools.cache
def pair_product(lanes: int) -> str:
    """Register (once) and name the intrinsic for `lanes` float32 sums of two bfloat16 products each."""

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((2,), "uint16", offset_factor=1),
        B: T.Buffer((lanes, 2), "uint16", offset_factor=1),
        C: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 2):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.reinterpret("float32", T.shift_left(T.cast(A[vk], "uint32"), T.uint32(16))) * (
                        T.reinterpret("float32", T.shift_left(T.cast(B[vi, vk], "uint32"), T.uint32(16)))
                    )

    @T.prim_func(s_tir=True)
    def dot(
        A: T.Buffer((2,), "uint16", offset_factor=1),
        B: T.Buffer((lanes, 2), "uint16", offset_factor=1),
        C: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            word = T.reinterpret(A.vload([0], "uint16x2"), dtype="int32")
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_extern(
                f"float32x{lanes}",
                "optkit_dpbf16ps_512",
                C.vload([0], dtype=f"float32x{lanes}"),
                T.broadcast(word, lanes),
                T.reinterpret(B.vload([0, 0], dtype=f"uint16x{2 * lanes}"), dtype=f"int32x{lanes}"),
            )

    name = f"optkit.dot_bf16_{lanes}x2"
    TensorIntrin.register(name, description, dot)
    return name
