"""Weights of fewer than 8 bits: a palette of the bytes that occur, and a code of few bits for each byte.

An 8-bit array of 4-bit weights holds 15 values of 256, whatever layout a kernel reads it in; so does the int32 array
in which some kernels keep four of them a word. So what is packed is bytes, not numbers, and nothing is lost by it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from optkit.errors import ArtifactError

MOST_BITS = 7
PLAIN_BITS = 8
"""Bits of a byte that is stored as it is."""

_GROUP = 8
"""Codes that fill whole bytes, whatever their width: eight of b bits are b bytes, the first code the lowest bits."""
_LOOK = 4096
_CHUNK = 1 << 20
_TAKE = 1 << 14
"""Groups unpacked at once: numpy widens indices to 8 bytes, which then stay in the cache."""
_WIDE = 1 << 17
"""Bytes from which a table of 65536 entries for 4-bit codes is worth being made."""


def stored_bytes(nbytes: int, bits: int) -> int:
    """Bytes that an array of `nbytes` takes: a palette of 2^bits entries, then the codes.

    >>> stored_bytes(1000, 4), stored_bytes(1000, 8)
    (516, 1000)
    """
    return nbytes if bits == PLAIN_BITS else (1 << bits) + -(-nbytes // _GROUP) * bits


def fewest_bits(data: np.ndarray, spare: int = 0) -> int:
    """Bits of a code for each of `data`'s bytes (flat uint8), 1 to 7; 8 where packing saves no more than `spare` bytes.

    >>> fewest_bits(np.tile(np.arange(5, dtype=np.uint8), 100))
    3
    """
    seen = np.zeros(256, bool)
    for part in (data[:_LOOK], data):  # most arrays of 8-bit or float weights show it at once
        seen[part] = True
        bits = max(int(np.count_nonzero(seen)) - 1, 1).bit_length()
        if bits > MOST_BITS:
            return PLAIN_BITS
    return bits if stored_bytes(data.size, bits) + spare < data.size else PLAIN_BITS


def pack(data: np.ndarray, bits: int) -> bytes:
    """Palette, ascending, its unused entries equal to the last one; then the codes, the last group filled with zeros.

    Args:
        data: flat uint8, of at most 2^bits different values.
        bits: of a code, 1 to 7.
    """
    seen = np.zeros(256, bool)
    seen[data] = True
    values = np.flatnonzero(seen).astype(np.uint8)
    code = np.zeros(256, np.uint8)
    code[values] = np.arange(values.size)
    palette = np.concatenate([values, np.repeat(values[-1:], (1 << bits) - values.size)])
    return palette.tobytes() + b"".join(_codes(code[part], bits) for part in _parts(data))


def _parts(data: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, data.size, _CHUNK):
        yield data[start : start + _CHUNK]


def _codes(codes: np.ndarray, bits: int) -> bytes:
    full = np.zeros(-(-codes.size // _GROUP) * _GROUP, np.uint8)
    full[: codes.size] = codes
    single = np.unpackbits(full[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(single.reshape(-1), bitorder="little").tobytes()


def unpack(stored: np.ndarray, bits: int, out: np.ndarray, where: str) -> None:
    """The bytes again.

    Args:
        stored: flat uint8 of `stored_bytes(out.size, bits)` bytes.
        out: flat uint8 that takes them.
        where: artifact and weight, for errors.

    Raises:
        ArtifactError: what is stored was not made by `pack`.
    """
    if stored.size != stored_bytes(out.size, bits):
        raise ArtifactError(f"{where}: {stored.size} bytes of palette and codes, {stored_bytes(out.size, bits)} needed")
    palette, codes = stored[: 1 << bits], stored[1 << bits :].reshape(-1, bits)
    values = _distinct(palette)
    if values == 0:
        raise ArtifactError(f"{where}: its palette is not in ascending order; the artifact is damaged")
    whole = out.size // _GROUP
    _expand(codes[:whole], palette.tobytes(), bits, out[: whole * _GROUP].reshape(whole, _GROUP))
    if whole < len(codes):
        last = np.unpackbits(codes[whole], bitorder="little").reshape(_GROUP, bits)
        found = np.packbits(last, axis=1, bitorder="little")[:, 0]
        if found[out.size - whole * _GROUP :].any():
            raise ArtifactError(f"{where}: codes go on behind its last element; the artifact is damaged")
        out[whole * _GROUP :] = palette[found[: out.size - whole * _GROUP]]


def _distinct(palette: np.ndarray) -> int:
    """How many entries a palette uses; 0 where it is none: ascending, then the last one again."""
    steps = np.diff(palette.astype(np.int16))
    used = int(np.count_nonzero(steps > 0)) + 1
    return used if (steps[: used - 1] > 0).all() and (steps[used - 1 :] == 0).all() else 0


def _expand(codes: np.ndarray, palette: bytes, bits: int, out: np.ndarray) -> None:
    """Whole groups: (n, bits) bytes of codes -> (n, 8) bytes, several codes at once by a table."""
    if not out.size:
        return
    several = {1: 8, 2: 4, 3: 4, 4: 4 if out.size >= _WIDE else 2, 5: 2, 6: 2, 7: 2}[bits]
    width = several * bits
    table = _table(palette, bits, several)
    steps = _GROUP // several
    target = out.view(table.dtype)  # (n, steps)
    if width in (8, 16):
        # Codes that start where a byte does need no shifting.
        flat, result = codes.reshape(-1).view(f"<u{width // 8}"), target.reshape(-1)
        for start in range(0, flat.size, _TAKE):
            np.take(table, flat[start : start + _TAKE], out=result[start : start + _TAKE], mode="clip")
        return
    for start in range(0, len(codes), _TAKE):
        part = np.ascontiguousarray(codes[start : start + _TAKE].T).astype(np.uint32)
        for step in range(steps):
            byte, shift = divmod(step * width, 8)
            word = part[byte]
            for more in range(1, -(-(shift + width) // 8)):
                word = word | part[byte + more] << (8 * more)
            target[start : start + _TAKE, step] = table[word >> shift & ((1 << width) - 1)]


@functools.lru_cache(maxsize=16)
def _table(palette: bytes, bits: int, several: int) -> np.ndarray:
    """The bytes of `several` codes at once, as one unsigned integer, by the codes' bits."""
    index = np.arange(1 << (bits * several), dtype=np.uint32)
    places = [index >> (bits * place) & ((1 << bits) - 1) for place in range(several)]
    table = np.frombuffer(palette, np.uint8)[np.stack(places, 1)]
    joined: np.ndarray = np.ascontiguousarray(table).view(f"<u{several}")[:, 0]
    return joined
