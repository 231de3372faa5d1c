"""Random products of every kind in one model, each computed by a plan drawn at random, and what they are exactly.

`Products` puts cases into one ONNX model; `Drawn` stands for tuning records and answers with any plan of the wanted
template; `Products.problems` compares with sums in float64, or in int64 where the arithmetic is whole numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates
from optkit.compiler.schedule import Kernel
from optkit.target import Target
from tests.compiler.bundle import BUNDLED, Bundle
from tests.targets.cpu.geometry import Conv, Matmul, to_bfloat16

DIRECT_LIMIT, LARGE_TILES_LIMIT, ROUNDED_TILES_LIMIT = 1e-6, 5e-6, 1e-5
"""Of the error's norm: of float32 sums, whatever the operands were rounded to; by F(4, 3); of tiles in bfloat16, a few
of which may be rounded the other way."""
ROUNDING_OF_TILES = 1e-2
"""What rounding tiles to bfloat16 costs at most."""


def in_vectors(target: Target) -> Target:
    """A target without what it may have of tile registers."""
    return replace(target, features=target.features - {"int8_tiles", "bf16_tiles"})


def explore(name: str, check: Callable[[st.DataObject], None], examples: int = 1) -> None:
    """Run a check on what hypothesis draws: other examples for every name, the same ones every time."""
    chosen = settings(BUNDLED, max_examples=examples, derandomize=False, database=None)
    seed(zlib.crc32(name.encode()))(chosen(given(st.data())(check)))()


class Drawn:
    """Records that answer with a random plan of certain templates, and remember it.

    Args:
        pick: one of a list of plans.
        templates: the wanted ones; operators that none of them computes get a plan of the direct form.
    """

    def __init__(self, pick: Callable[[list[Plan]], Plan], *templates: str) -> None:
        self.pick, self.templates = pick, templates
        self.plans: dict[Operator, Plan] = {}

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan:
        """The same plan for the same operator."""
        if operator not in self.plans:
            direct = next(iter(templates))
            wanted = {name for name in templates if name in self.templates} or {direct}
            # The model behind the default, which comes first, wants to know of the direct form.
            plans = candidates(operator, target, [direct, *(name for name in templates if name in wanted - {direct})])
            self.plans[operator] = self.pick([plan for plan in plans if plan.template in wanted])
        return self.plans[operator]


def extremes(generator: np.random.Generator, shape: Sequence[int], low: int, high: int) -> np.ndarray:
    """Whole numbers, a third of them the smallest or the largest."""
    values = generator.integers(low, high, shape, endpoint=True)
    return np.where(generator.random(shape) < 0.3, generator.choice([low, high], shape), values)


@dataclass(frozen=True)
class Expected:
    """What a case is, and the norm that its error is measured by: of sums of such terms with random signs.

    A sum that happens to be small has the rounding errors of a large one, so its own size is no measure.
    """

    label: str
    exact: np.ndarray
    norm: float


class Products(Bundle):
    """A model of products in one arithmetic, and their exact results.

    Args:
        compute: "float32", "bfloat16" or "int8".
        template: what the products are computed by; Winograd's round tiles to bfloat16 or nothing, not the operands.
    """

    def __init__(self, compute: str, template: str = "", seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.compute, self.template = compute, template
        self.expected: list[Expected] = []

    def add(self, case: Conv | Matmul) -> None:
        """Add a case with random operands."""
        if isinstance(case, Conv):
            (self._whole_conv if self.compute == "int8" else self._real_conv)(case)
        elif case.other:
            self._two(case)
        else:
            (self._whole_matmul if self.compute == "int8" else self._real_matmul)(case)

    def marked(self) -> ir.Model:
        """The model, its products marked with their arithmetic."""
        model = self.model()
        for node in model.graph:
            if node.op_type in ("Conv", "MatMul", "Gemm") and self.compute == "bfloat16":
                node.metadata_props["optkit.compute_type"] = "bfloat16"
        return model

    def problems(self, found: Sequence[np.ndarray], limit: float) -> list[str]:
        """Cases that are wrong: by one bit where they are whole numbers, by more than the limit elsewhere."""
        wrong = []
        for case, y in zip(self.expected, found, strict=True):
            if y.shape != case.exact.shape:
                wrong.append(f"{case.label}: {y.shape} for {case.exact.shape}")
            elif self.compute == "int8":
                # A float32 output is the sum rounded once.
                same = np.asarray(y == case.exact.astype(y.dtype))
                if not same.all():
                    wrong.append(f"{case.label}: {int((~same).sum())} of {same.size} differ")
            else:
                error = float(np.linalg.norm(y.astype("float64") - case.exact)) / case.norm
                if not error <= limit:
                    wrong.append(f"{case.label}: relative error {error:.1e} over {limit:.0e}")
        return wrong

    def _expect(self, y: str, case: Conv | Matmul, exact: np.ndarray, squares: np.ndarray | None = None) -> None:
        label = f"{len(self.expected)} {self.compute} {case}"
        self.case(y, label)
        norm = 1.0 if squares is None else float(np.sqrt(squares.sum())) + 1e-30
        self.expected.append(Expected(label, exact, norm))

    def _rounded(self, array: np.ndarray, apply: bool = True) -> np.ndarray:
        """An operand as it is multiplied, in float64."""
        wide = np.asarray(array.astype("float64"))
        return to_bfloat16(wide) if apply and self.compute == "bfloat16" else wide

    def _real_conv(self, case: Conv) -> None:
        x = self.input(case.images, case.channels, *case.size)
        weight = self.normal(case.filters, case.channels // case.groups, *case.kernel)
        # The identity before a convolution rounds, whatever the convolution does.
        tiles = self.template.startswith("winograd")
        data, taps = self._rounded(self.feeds[x], case.before or not tiles), self._rounded(weight, not tiles)
        exact, squares = case.sums(data, taps), case.sums(data**2, taps**2)
        if self.compute == "bfloat16" and self.template == "winograd2x3":
            plain, exact = exact, case.sums_of_rounded_tiles(data, taps)
            assert np.linalg.norm(exact - plain) <= ROUNDING_OF_TILES * np.sqrt(squares.sum())
        extra = []
        if case.bias:
            bias = self.normal(case.filters)
            extra = [self.const(bias)]
            exact = exact + bias.astype("float64")[:, None, None]
        if case.before:
            x = self.op("Conv", x, self.const(np.eye(case.channels, dtype="float32")[:, :, None, None]))
        self._expect(self.op("Conv", x, self.const(weight), *extra, **case.attributes()), case, exact, squares)

    def _real_matmul(self, case: Matmul) -> None:
        x = self.input(*case.lead, case.rows, case.depth)
        weight, bias = self.normal(case.depth, case.columns), self.normal(case.columns) * np.float32(case.bias)
        left, right = self._rounded(self.feeds[x]), self._rounded(weight)
        if not case.lead and case.transposed:
            y = self.op("Gemm", x, self.const(weight.T.copy()), self.const(bias), transB=1)
        else:
            y = self.op("MatMul", x, self.const(weight))
            y = self.op("Add", y, self.const(bias)) if case.bias else y
        self._expect(y, case, left @ right + bias.astype("float64"), left**2 @ right**2)

    def _two(self, case: Matmul) -> None:
        x = self.input(*case.lead, case.rows, case.depth)
        turned = case.transposed
        y = self.input(*case.other, *((case.columns, case.depth) if turned else (case.depth, case.columns)))
        left, right = (self._rounded(self.feeds[name]) for name in (x, y))
        right = right.swapaxes(-1, -2) if turned else right
        if turned:
            axes = len(case.other)
            y = self.op("Transpose", y, perm=[*range(axes), axes + 1, axes])
        self._expect(self.op("MatMul", x, y), case, left @ right, left**2 @ right**2)

    def _bytes(self, *shape: int) -> tuple[str, np.ndarray, str, int]:
        """A quantized input, unsigned or signed, with any zero point: name, values, type, zero point."""
        signed = bool(self.generator.integers(2))
        low, high, kind = (-128, 127, "int8") if signed else (0, 255, "uint8")
        zero = int(self.generator.choice([low, high, 0, int(self.generator.integers(low, high, endpoint=True))]))
        values = extremes(self.generator, shape, low, high)
        return self.input(*shape, dtype=kind, values=values), values, kind, zero

    def _pair(self, q: str, zero: str) -> str:
        """The value of a quantized tensor whose step is one."""
        return str(self.op("DequantizeLinear", q, self.const(np.array(1, "float32")), zero))

    def _whole_conv(self, case: Conv) -> None:
        q, values, kind, offset = self._bytes(case.images, case.channels, *case.size)
        zero, no_zero = self.const(np.array(offset, kind)), self.const(np.array(0, "int8"))
        per_in = case.channels // case.groups
        weight = extremes(self.generator, (case.filters, per_in, *case.kernel), -128, 127).astype("int8")
        exact = case.sums(values - offset, weight.astype("int64"))
        if case.sums_only:
            self._expect(self.op("ConvInteger", q, self.const(weight), zero, **case.attributes()), case, exact)
            return
        x = self._pair(q, zero)
        if case.before:
            same = self._pair(self.const(np.eye(case.channels, dtype="int8")[:, :, None, None]), no_zero)
            again = self.op("QuantizeLinear", self.op("Conv", x, same), self.const(np.array(1, "float32")), zero)
            x = self._pair(again, zero)
        extra = []
        if case.bias:
            bias = self.generator.integers(-999, 1000, case.filters)
            extra = [self._pair(self.const(bias.astype("int32")), self.const(np.array(0, "int32")))]
            exact = exact + bias[:, None, None]
        y = self.op("Conv", x, self._pair(self.const(weight), no_zero), *extra, **case.attributes())
        self._expect(y, case, exact)

    def _whole_matmul(self, case: Matmul) -> None:
        q, values, kind, offset = self._bytes(*case.lead, case.rows, case.depth)
        zero, no_zero = self.const(np.array(offset, kind)), self.const(np.array(0, "int8"))
        weight = extremes(self.generator, (case.depth, case.columns), -128, 127).astype("int8")
        exact = (values - offset) @ weight.astype("int64")
        if case.sums_only:
            y = self.op("MatMulInteger", q, self.const(weight), zero)
        elif not case.lead and case.transposed:
            bias = self.generator.integers(-999, 1000, case.columns) * case.bias
            exact = exact + bias
            added = self._pair(self.const(bias.astype("int32")), self.const(np.array(0, "int32")))
            w = self._pair(self.const(weight.T.copy()), no_zero)
            y = self.op("Gemm", self._pair(q, zero), w, added, transB=1)
        else:
            y = self.op("MatMul", self._pair(q, zero), self._pair(self.const(weight), no_zero))
        self._expect(y, case, exact)


def misused(drawn: Drawn, kernels: Sequence[Kernel], compute: Callable[[Plan], str]) -> list[str]:
    """Where a plan that was drawn is not what the kernels of a build do, or not in the arithmetic that it is for."""
    used = {plan.template for plan in drawn.plans.values()}
    wrong = [f"nothing is computed by {name}" for name in drawn.templates if name not in used]
    for operator, plan in drawn.plans.items():
        made = [k for k in kernels if k.operator == str(operator)]
        wrong += [f"{operator} has no kernel"] * (not made)
        for k in made:
            if (k.template, dict(k.params)) != (plan.template, dict(plan.params)) or k.refused:
                wrong.append(f"{operator}: {k.template} {dict(k.params)} for {plan}; refused by {k.refused}")
            if k.compute != compute(plan):
                wrong.append(f"{operator}: computed in {k.compute}, not in {compute(plan)}")
    return wrong
