"""Steps that move numbers: reshapes, transpositions, slices, joints."""

from __future__ import annotations

import math

import numpy as np

from tests.random_models.grower import Dim, Extent, Grower, size


def transpose(g: Grower) -> bool:
    """Transpose by any permutation."""
    x = g.pick(rank=g.among(3, 4, 4, 5))
    if x is None:
        return False
    order = [int(i) for i in g.random.permutation(x.rank)]
    if x.rank == 4 and g.chance(0.5):
        order = g.among([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 3, 2])
    return g.keep("Transpose", [x.name], tuple(x.shape[i] for i in order), perm=order)


def flatten(g: Grower) -> bool:
    """All axes behind one are one."""
    x = g.pick()
    if x is None or x.rank < 2:
        return False
    axis = g.between(1, x.rank - 1)
    front, back = x.shape[:axis], x.shape[axis:]
    if g.chance(0.3):
        if not x.fixed:
            return False
        return g.keep("Flatten", [x.name], (math.prod(map(size, front)), math.prod(map(size, back))), axis=axis)
    if sum(not isinstance(d, int) for d in back) > 1 or sum(not isinstance(d, int) for d in front) > 4:
        return False
    merged: Dim = math.prod(map(size, back))
    for d in back:
        if isinstance(d, Extent):
            merged = Extent(f"({d.name})*{merged // d.size}", merged) if merged != d.size else d
    return g.keep("Reshape", [x.name, g.whole(*[0] * axis, -1)], (*front, merged))


def shuffle(g: Grower) -> bool:
    """An axis taken apart, and put together again in another order now and then."""
    x = g.pick(rank=g.among(3, 4))
    if x is None:
        return False
    axis = g.between(1, x.rank - 1)
    d = x.shape[axis]
    factors = [f for f in (2, 3, 4, 8) if isinstance(d, int) and d % f == 0 and d > f]
    if not factors:
        return False
    f = g.among(*factors)
    parts = (f, size(d) // f)
    shape = (*x.shape[:axis], *parts, *x.shape[axis + 1 :])
    split = g.whole(*(size(s) if isinstance(s, int) else 0 for s in x.shape[:axis]), *parts, *(
        size(s) if isinstance(s, int) else -1 for s in x.shape[axis + 1 :]
    ))  # fmt: skip
    if sum(not isinstance(s, int) for s in x.shape[axis + 1 :]) > 1:
        return False
    if g.chance(0.4):
        return g.keep("Reshape", [x.name, split], shape)
    (apart,) = g.emit("Reshape", [x.name, split], shape)
    order = [*range(axis), axis + 1, axis, *range(axis + 2, x.rank + 1)]
    (turned,) = g.emit("Transpose", [apart.name], tuple(shape[i] for i in order), perm=order)
    back = g.whole(*(size(s) if isinstance(s, int) else 0 for s in x.shape[:axis]), size(d), *(
        size(s) if isinstance(s, int) else -1 for s in x.shape[axis + 1 :]
    ))  # fmt: skip
    return g.keep("Reshape", [turned.name, back], x.shape)


def slices(g: Grower) -> bool:
    """Slice along an axis or two, with steps, backwards too."""
    x = g.pick()
    if x is None or x.rank < 2:
        return False
    shape, starts, ends, axes, steps = list(x.shape), [], [], [], []
    for axis in sorted({g.between(0, x.rank - 1) for _ in range(g.between(1, 2))}):
        d = x.shape[axis]
        if not isinstance(d, int) or d < 2:
            continue
        step = g.among(1, 1, 1, 2, -1)
        low, high = sorted((g.between(0, d - 1), g.between(1, d)))
        if low == high:
            continue
        axes.append(axis)
        steps.append(step)
        if step < 0:
            starts.append(high - 1)
            ends.append(low - 1 if low else -(d + 1))
        else:
            starts.append(low if g.chance(0.7) else low - d)
            ends.append(high if high < d or g.chance(0.5) else 2**63 - 1)
        shape[axis] = -(-(high - low) // abs(step))
    if not axes:
        return False
    inputs = [x.name, g.whole(*starts), g.whole(*ends), g.whole(*axes), g.whole(*steps)]
    return g.keep("Slice", inputs, tuple(shape))


def split(g: Grower) -> bool:
    """Split into two or three parts."""
    x = g.pick()
    if x is None:
        return False
    axes = x.axes(longer=2)
    if not axes:
        return False
    axis = g.among(*axes, *[a for a in axes if a == 1])
    d = size(x.shape[axis])
    cut = d // 2 if d % 2 == 0 and g.chance(0.6) else g.between(1, d - 1)
    parts = [cut, d - cut]
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in parts]
    return g.keep("Split", [x.name, g.whole(*parts)], *shapes, axis=axis)


def concat(g: Grower) -> bool:
    """Concat of two to four values that agree but for one axis."""
    a = g.pick()
    if a is None or a.rank < 2:
        return False
    axis = 1 if g.chance(0.6) else g.between(0, a.rank - 1)
    if not isinstance(a.shape[axis], int):
        return False

    def rest(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return (*shape[:axis], *shape[axis + 1 :])

    fits = [
        v for v in g.values if v.rank == a.rank and rest(v.shape) == rest(a.shape) and isinstance(v.shape[axis], int)
    ]
    parts = [a, *(g.among(*fits) for _ in range(g.between(1, 3)))]
    if g.chance(0.3):
        parts = parts[::-1]
    total = sum(size(v.shape[axis]) for v in parts)
    return g.keep("Concat", [v.name for v in parts], (*a.shape[:axis], total, *a.shape[axis + 1 :]), axis=axis)


def pad(g: Grower) -> bool:
    """Pad by a constant, the edge or a reflection."""
    x = g.pick()
    if x is None or x.rank < 3:
        return False
    mode = g.among("constant", "constant", "reflect", "edge")
    before, after, shape = [0] * x.rank, [0] * x.rank, list(x.shape)
    for axis in range(x.rank - 2 if g.chance(0.7) else 1, x.rank):
        d = x.shape[axis]
        if size(d) < 4:
            continue
        before[axis], after[axis] = g.between(0, 2), g.between(0, 3)
        grown = before[axis] + after[axis]
        if grown:
            shape[axis] = d + grown if isinstance(d, int) else Extent(f"({d.name})+{grown}", d.size + grown)
    inputs = [x.name, g.whole(*before, *after)]
    if mode == "constant" and g.chance(0.5):
        inputs.append(g.constant(np.float32(g.among(0.0, 1.5))))
    return g.keep("Pad", inputs, tuple(shape), mode=mode)


def gather(g: Grower) -> bool:
    """Gather by constant indices."""
    x = g.pick()
    if x is None:
        return False
    axes = x.axes()
    if not axes:
        return False
    axis = g.among(*axes)
    d = size(x.shape[axis])
    count = g.between(1, d + 2)
    index = g.whole(*(g.between(-d, d - 1) for _ in range(count)))
    return g.keep("Gather", [x.name, index], (*x.shape[:axis], count, *x.shape[axis + 1 :]), axis=axis)


def ones(g: Grower) -> bool:
    """Squeeze, Unsqueeze, Expand or Tile."""
    x = g.pick()
    if x is None:
        return False
    unit = [i for i, d in enumerate(x.shape) if d == 1]
    if unit and x.rank > 2 and g.chance(0.5):
        axis = g.among(*unit)
        return g.keep("Squeeze", [x.name, g.whole(axis)], (*x.shape[:axis], *x.shape[axis + 1 :]))
    if unit and x.fixed and g.chance(0.5):
        axis, to = g.among(*unit), g.between(2, 5)
        shape = (*x.shape[:axis], to, *x.shape[axis + 1 :])
        return g.keep("Expand", [x.name, g.whole(*map(size, shape))], shape)
    if g.chance(0.3):
        axes = x.axes()
        if not axes:
            return False
        axis = g.among(*axes)
        times = [1] * x.rank
        times[axis] = 2
        return g.keep(
            "Tile", [x.name, g.whole(*times)], (*x.shape[:axis], 2 * size(x.shape[axis]), *x.shape[axis + 1 :])
        )
    if x.rank > 4:
        return False
    axis = g.between(0, x.rank)
    return g.keep("Unsqueeze", [x.name, g.whole(axis)], (*x.shape[:axis], 1, *x.shape[axis:]))


STEPS = [*[transpose] * 2, flatten, shuffle, *[slices] * 2, *[split] * 2, *[concat] * 4, pad, gather, ones]
