"""Surrogate rules: what a method makes of a token's log-ratio, its advantage and its window. One file each."""

from ctpo.surrogates.clipped_min import ClippedMin
from ctpo.surrogates.clipped_weight import ClippedWeight
from ctpo.surrogates.divergence_mask import BinaryKLMask, BinaryTVMask
from ctpo.surrogates.geometric_mean import GeometricMean
from ctpo.surrogates.prefix_budget import PrefixBudget
from ctpo.surrogates.soft_gate import SoftGate
from ctpo.surrogates.terms import MAX_LOG_RATIO, SurrogateRule, Terms, Tokens

__all__ = [
    "MAX_LOG_RATIO",
    "BinaryKLMask",
    "BinaryTVMask",
    "ClippedMin",
    "ClippedWeight",
    "GeometricMean",
    "PrefixBudget",
    "SoftGate",
    "SurrogateRule",
    "Terms",
    "Tokens",
]
