"""Variants of CTPO: the running geometric mean of the authors' code, and two of this project's own."""

from __future__ import annotations

from ctpo.methods.log_ratios import cumulative_log_ratio, running_mean_log_ratio
from ctpo.methods.method import Method, Notes
from ctpo.methods.paper import CTPO_CITATION, CUMULATIVE
from ctpo.methods.rules import ClippedWeight
from ctpo.methods.windows import CalibratedWindow, PositionAdaptiveWindow

VARIANTS = (
    Method(
        "ctpo_geomean",
        running_mean_log_ratio,
        PositionAdaptiveWindow(0.025, 0.05, -0.5),
        f"{CTPO_CITATION}, the authors' released code (geomean mode)",
        notes=Notes(
            "(prod_{i<=t} pi_i / pi_old_i)^(1/t), gradient through token t alone",
            "0.025 and 0.05, and -0.5 for this ratio: the released script",
            "Not in the paper. The code adds the dual clip and the aggregation of `ctpo_released`; here both are the "
            "paper's, so that only ratio and window differ from `ctpo`.",
        ),
    ),
    Method(
        "ctpo_calibrated",
        cumulative_log_ratio,
        CalibratedWindow(1.25, 2.5, 0.9),
        "this project",
        notes=Notes(
            CUMULATIVE,
            "1.25 and 2.5 deviations, 0.9 a step: our choice. Before anything is measured this is `ctpo`'s window; a "
            "normal log-ratio would have 5.6 % of its tokens clipped",
            "The window follows the measured standard deviation of log rho_t at each position, an exponential average "
            "over training steps, instead of an assumed sqrt(t). See `ctpo.positions.calibration`.",
        ),
    ),
    Method(
        "ctpo_cispo",
        cumulative_log_ratio,
        PositionAdaptiveWindow(0.025, 0.05, 0.5),
        "this project, after arXiv 2605.07331 and 2506.13585",
        rule=ClippedWeight(),
        notes=Notes(
            CUMULATIVE,
            "as `ctpo`",
            "CTPO's ratio and window as a stop-gradient weight: what CTPO drops keeps a bounded weight here.",
        ),
    ),
)
