"""Functions without a free rounding: every runtime that computes in IEEE float32 gets the same bits.

IEEE 754 rounds a sum, a product, a quotient and a square root in one way only. What differs from runtime to
runtime is how `exp` or `erf` is approximated and in which order a row is summed. Here approximations are
spelled out in operations that round one way, and sums are taken over integers, where order does not matter.
A quantized model that uses them gives the same integers everywhere.
"""

from optkit.exact.functions import DOMAIN, VERSION, definition, is_ours, stand_in, stands_for

__all__ = ["DOMAIN", "VERSION", "definition", "is_ours", "stand_in", "stands_for"]
