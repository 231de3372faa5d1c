"""GPU kernel templates in the order they are asked; the last answers for anything."""

from __future__ import annotations

from optkit.kernel import KernelRule
from optkit_targets.cuda.kernels.conv import ConvRule
from optkit_targets.cuda.kernels.fallback import FallbackRule, OwnThreadsRule
from optkit_targets.cuda.kernels.injective import InjectiveRule
from optkit_targets.cuda.kernels.matmul import MatmulRule
from optkit_targets.cuda.kernels.reduce import ReduceRule
from optkit_targets.cuda.kernels.rows import RowsRule
from optkit_targets.cuda.kernels.tensor_attention import TensorAttentionRule
from optkit_targets.cuda.kernels.tensor_conv import TensorConvRule
from optkit_targets.cuda.kernels.tensor_matmul import TensorMatmulRule
from optkit_targets.cuda.kernels.tensor_product import TensorProductRule
from optkit_targets.cuda.kernels.window import DepthwiseRule, PoolRule

RULES: tuple[KernelRule, ...] = (
    TensorConvRule(),
    ConvRule(),
    DepthwiseRule(),
    TensorMatmulRule(),
    TensorProductRule(),
    TensorAttentionRule(),
    MatmulRule(),
    PoolRule(),
    RowsRule(),
    InjectiveRule(),
    OwnThreadsRule(),
    ReduceRule(),
    FallbackRule(),
)
