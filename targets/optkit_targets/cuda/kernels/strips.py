"""How images are cut so that what a kernel's taps read of a tile lies side by side (`device/strip.cuh`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optkit.compiler.operator import CONV, Operator

NARROWEST = 8
"""Columns of a strip; of narrower ones the halo would be most."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Strips:
    """Images as strips of columns, one behind the other, and of a strip its lines.

    Attributes:
        width: columns of the output in a strip.
        pitch: positions from one line to the next.
        lines: from one strip to the next.
        count: strips of an image.
        halo: positions from a tile's own to the last that its taps read.
        taps: of the kernel; 1 of a pointwise one, whose strip is the image.
    """

    width: int
    pitch: int
    lines: int
    count: int
    halo: int
    taps: int

    def positions(self, images: int) -> int:
        """Of all strips, those between lines among them."""
        return images * self.count * self.lines * self.pitch

    def position(self, image: Any, y: Any, x: Any) -> Any:
        """Where a place of an image's output is in the list."""
        if self.count == 1:
            return (image * self.lines + y) * self.pitch + x
        return ((image * self.count + x // self.width) * self.lines + y) * self.pitch + x % self.width

    def loops(self, sch: Any, y: Any, x: Any) -> list[Any]:
        """The loops of the list but for those over images, from loops over an image's lines and columns."""
        x, within = sch.split(x, [self.count, self.width])
        none, within = sch.split(within, [1, self.pitch])
        whole, y = sch.split(y, [1, self.lines])
        sch.reorder(x, whole, y, none, within)
        return [x, whole, y, none, within]


def strips_of(operator: Operator) -> Sequence[Strips]:
    """Every way to cut a convolution's images; none where neighbouring positions do not read neighbours."""
    s = operator.named()
    if operator.kind != CONV or s["sh"] != 1 or s["sw"] != 1:
        return ()
    height, width = operator.output()
    down, across = (s["kh"] - 1) * s["dh"], (s["kw"] - 1) * s["dw"]
    # Of padding behind, what is read: lines and images share the halo between them.
    below, right = (
        max(0, size - 1 + reach - before - extent + 1)
        for size, reach, before, extent in ((height, down, s["pt"], s["h"]), (width, across, s["pl"], s["w"]))
    )
    lines = max(height, s["h"] + max(s["pt"], below))
    found = {}
    for parts in _COUNTS if s["kh"] * s["kw"] > 1 else (1,):
        each = -(-width // parts)
        count = -(-width // each)
        if count > 1 and each < NARROWEST:
            break
        pitch = max(width, s["w"] + max(s["pl"], right)) if count == 1 else each + across
        found[each] = Strips(each, pitch, lines, count, down * pitch + across, s["kh"] * s["kw"])
    return tuple(found.values())
