"""The mathematics: a method is a log-ratio, a clip window, a surrogate rule and an aggregation.

`METHODS` has them by name. A new one is an entry here, a YAML in the method group and a test; a method of your own,
outside this package, needs no entry: see `ctpo.methods.custom`.
"""

from ctpo.methods.log_ratios import (
    LogRatio,
    cumulative_log_ratio,
    length_normalized_log_ratio,
    minimum_prefix_log_ratio,
    running_mean_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
    token_positions,
)
from ctpo.methods.method import AGGREGATIONS, Method, MethodError, Notes
from ctpo.methods.objective import ClippedMin, Surrogate, clipped_surrogate
from ctpo.methods.registry import METHODS
from ctpo.methods.settings import configure, settings_of
from ctpo.methods.windows import (
    CalibratedWindow,
    DualClip,
    LogWindow,
    NoWindow,
    PositionAdaptiveWindow,
    RatioWindow,
    Window,
)

__all__ = [
    "AGGREGATIONS",
    "METHODS",
    "CalibratedWindow",
    "ClippedMin",
    "DualClip",
    "LogRatio",
    "LogWindow",
    "Method",
    "MethodError",
    "NoWindow",
    "Notes",
    "PositionAdaptiveWindow",
    "RatioWindow",
    "Surrogate",
    "Window",
    "clipped_surrogate",
    "configure",
    "cumulative_log_ratio",
    "length_normalized_log_ratio",
    "minimum_prefix_log_ratio",
    "running_mean_log_ratio",
    "sequence_log_ratio",
    "settings_of",
    "token_log_ratio",
    "token_positions",
]
