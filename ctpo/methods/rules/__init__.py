"""The relatives' surrogates: what each makes of a token's log-ratio, its advantage and its window. One file each."""

from ctpo.methods.rules.clipped_weight import ClippedWeight
from ctpo.methods.rules.divergence_mask import BinaryKLMask, BinaryTVMask
from ctpo.methods.rules.geometric_mean import GeometricMean
from ctpo.methods.rules.interface import MAX_LOG_RATIO, SurrogateRule, Terms, TokenInputs
from ctpo.methods.rules.prefix_budget import PrefixBudget
from ctpo.methods.rules.soft_gate import SoftGate

__all__ = [
    "MAX_LOG_RATIO",
    "BinaryKLMask",
    "BinaryTVMask",
    "ClippedWeight",
    "GeometricMean",
    "PrefixBudget",
    "SoftGate",
    "SurrogateRule",
    "Terms",
    "TokenInputs",
]
