"""CPU kernel templates in the order they are asked; the last answers for anything."""

from __future__ import annotations

from optkit.kernel import KernelRule
from optkit_targets.cpu.kernels.attention import AttentionRule
from optkit_targets.cpu.kernels.conv import ConvRule
from optkit_targets.cpu.kernels.depthwise import DepthwiseRule
from optkit_targets.cpu.kernels.fallback import FallbackRule
from optkit_targets.cpu.kernels.injective import InjectiveRule
from optkit_targets.cpu.kernels.matmul import MatmulRule
from optkit_targets.cpu.kernels.pool import PoolRule
from optkit_targets.cpu.kernels.rows import RowsRule
from optkit_targets.cpu.kernels.tiles import TileRule
from optkit_targets.cpu.kernels.turn import TurnRule
from optkit_targets.cpu.kernels.winograd import WinogradRule

RULES: tuple[KernelRule, ...] = (
    TileRule(),
    ConvRule(),
    WinogradRule(),
    DepthwiseRule(),
    AttentionRule(),
    MatmulRule(),
    PoolRule(),
    RowsRule(),
    TurnRule(),
    InjectiveRule(),
    FallbackRule(),
)
