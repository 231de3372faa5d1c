"""Element types of at most 8 bits that numpy lacks: the caller sees them as ml_dtypes has them, kernels see bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optkit.artifact import TensorSpec
from optkit.errors import DataError
from optkit.runtime import Runner, load
from tests.relax_models import pack, payload

NARROW = ("float8_e4m3fn", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2")


def reversing(folder: Path) -> Runner:
    """A model with an input and an output of every type; each is turned around."""

    def body(builder: Any, *inputs: Any) -> Any:
        from tvm import relax

        return builder.emit(relax.Tuple([builder.emit(relax.op.flip(x, 0)) for x in inputs]))

    ends = [[TensorSpec(f"{end}_{n}", n, ["n"]) for n in NARROW] for end in "xy"]
    pack(folder / "narrow.optk", payload(folder, *ends, [], body))
    return load(folder / "narrow.optk", threads=1)


def test_narrow_types_at_the_edge(tmp_path: Path) -> None:
    """Types and bits come back; strided and unaligned arrays are copied; another type is refused."""
    codes = np.arange(6, dtype=np.uint8) % 4
    with reversing(tmp_path) as runner:
        feed = {f"x_{n}": codes.view(getattr(ml_dtypes, n)) for n in NARROW}
        wide = {name: np.repeat(array, 2)[::2] for name, array in feed.items()}
        for given in (feed, wide):
            found = runner.run(given)
            for name in NARROW:
                out = found[f"y_{name}"]
                assert out.dtype == getattr(ml_dtypes, name)
                assert np.array_equal(out.view(np.uint8), codes[::-1])
        with pytest.raises(DataError, match="must be int4, got uint8"):
            runner.run({**feed, "x_int4": codes})


@pytest.mark.needs_torch
def test_float8_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    codes = np.arange(6, dtype=np.uint8)
    with reversing(tmp_path) as runner:
        feed: dict[str, Any] = {f"x_{n}": (codes % 4).view(getattr(ml_dtypes, n)) for n in NARROW}
        feed["x_float8_e4m3fn"] = torch.from_numpy(codes).view(torch.float8_e4m3fn)
        assert np.array_equal(runner.run(feed)["y_float8_e4m3fn"].view(np.uint8), codes[::-1])
