"""What a target is: numbers that kernels are shaped by, and the ordered rules that schedule them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from optkit.kernel import KernelRule


@dataclass(frozen=True)
class Target:
    """A machine to compile for, as data.

    Code asks `target.has("int8_dot")` and reads the numbers; it never branches on the name.

    Attributes:
        name: as given on the command line, e.g. "cpu", "icelake-server", "cuda:sm_90".
        device: device kind the artifact runs on, "cpu" or "cuda".
        tvm: keyword form of the TVM target, e.g. {"kind": "llvm", "mcpu": "icelake-server"}.
        tvm_host: keyword form of the host target where `tvm` is a device; empty for CPUs.
        lanes: float32 elements in a vector register, and the channel block of activations NCHW{lanes}c but for those
            of tensor cores, whose blocks are of 16 bytes where that divides the channels.
        registers: vector registers that a kernel may keep accumulators in.
        cores: cores that parallel loops are partitioned for.
        cache: bytes of L1 data and L2 cache of one core; 0 where unknown.
        features: capabilities: "int8_dot" (u8 x s8 dot product into int32), "int8_words" (one of four
            bytes that lie in one int32), "int8_signed" (its dot product is of signed bytes alone), "int16_dot",
            "int8_tiles" and "bf16_tiles" (products are planned for tile registers), "tile_registers" (it has them),
            "f16_convert", "bf16_pairs", "bf16_vector" (one instruction multiplies and adds them), "tensor_fours"
            (tensor cores take weights in fours along the input channels), "row_threads" (threads share the sums of a
            row, and kernels of rows end in element-wise operators), "f16", "tensor_core", "winograd" and
            "attention" (it has those templates), ...
        isa: what code needs to run: architecture and feature words, compared at load time.
    """

    name: str
    device: str
    tvm: Mapping[str, object]
    tvm_host: Mapping[str, object] = field(default_factory=dict)
    lanes: int = 4
    registers: int = 16
    cores: int = 1
    cache: tuple[int, int] = (32 * 1024, 512 * 1024)
    features: frozenset[str] = frozenset()
    isa: tuple[str, ...] = ()
    summary: str = ""

    def has(self, feature: str) -> bool:
        """Whether the target offers the named capability."""
        return feature in self.features

    def runs_here(self) -> str | None:
        """`None` where this machine can execute the target's code, else the reason why not."""
        from optkit.registry import target_family

        return target_family(self.name.split(":")[0], default="cpu").why_not_here(self)

    def rules(self) -> tuple[KernelRule, ...]:
        """The kernel rules in the order they are asked; the last one answers for anything."""
        from optkit.registry import target_family

        return target_family(self.name.split(":")[0], default="cpu").rules(self)

    def templates(self) -> Mapping[str, int]:
        """Versions of the templates that tuning chooses among, by name."""
        found: dict[str, int] = {}
        for rule in self.rules():
            found |= getattr(rule, "templates", {})
        return found

    def with_threads(self, count: int) -> Target:
        """The target laid out for so many threads of its CPU; a GPU's multiprocessors stay what they are."""
        return replace(self, cores=count) if self.device == "cpu" else self

    def package(self, executable: Any) -> Any:
        """The VM executable as it is linked: a family with a compiler of its own adds device code here."""
        from optkit.registry import target_family

        family = target_family(self.name.split(":")[0], default="cpu")
        return family.package(self, executable) if isinstance(family, PackagingFamily) else executable


class TargetFamily(Protocol):
    """What an entry point of the group `optkit.targets` provides: one folder, many named targets."""

    name: str

    def names(self) -> Mapping[str, str]:
        """Every target name of the family with a line that says what it is."""
        ...

    def make(self, name: str) -> Target:
        """The target of that name; raises UsageError for one the family does not know."""
        ...

    def rules(self, target: Target) -> tuple[KernelRule, ...]:
        """Kernel rules in order; the last always answers."""
        ...

    def why_not_here(self, target: Target) -> str | None:
        """`None` where this machine can execute the target's code, else the reason."""
        ...


@runtime_checkable
class RecordedFamily(Protocol):
    """A family that comes with tuning records."""

    def records(self) -> Sequence[Path]:
        """Files of records as JSON lines, of whatever machines of the family."""
        ...


@runtime_checkable
class PackagingFamily(Protocol):
    """A family whose code needs another compiler than TVM's LLVM before it is linked."""

    def package(self, target: Target, executable: Any) -> Any:
        """An executable with `mod` and `export_library` like `tvm.relax.VMExecutable`'s."""
        ...
