"""What a method is."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctpo.methods.log_ratios import LogRatio
from ctpo.methods.objective import ClippedMin
from ctpo.methods.rules import SurrogateRule
from ctpo.methods.windows import DualClip, Window

AGGREGATIONS = ("seq-mean-token-mean", "token-mean", "seq-mean-token-sum-norm", "seq-mean-token-sum", "token-sum")
"""Names of verl's `agg_loss`."""

CONSTANT_NORMALISER = "seq-mean-token-sum-norm"
"""Divides by `actor.loss_scale_factor`. Left unset, verl takes the width of the padded micro-batch instead, and the
gradient depends on how a batch was cut."""


class MethodError(ValueError):
    """A method or one of its settings does not exist or is out of range."""


@dataclass(frozen=True)
class Notes:
    """What the list of methods says of one, in a line or two each.

    Attributes:
        ratio: `rho_t`, in formulas.
        defaults: where each default value is from.
        differences: where the authors' code differs from their paper, and this project's from either.
    """

    ratio: str = ""
    defaults: str = ""
    differences: str = ""


@dataclass(frozen=True)
class Method:
    """What distinguishes one method from another; everything else of a run is the same for all.

    Attributes:
        name: key of `METHODS`, choice of the `method` config group, `ctpo/<name>` among verl's losses.
        log_ratio: which importance log-ratio a token gets.
        window: the interval of log-ratios that is left alone, by position.
        citation: where it is from.
        aggregation: how tokens become a loss, a name of verl's `agg_loss`.
        dual_clip: None for every method of the paper; only `ClippedMin` knows it.
        rule: what the surrogate makes of log-ratio, window and advantage.
        std_normalised: whether advantages are divided by their group's standard deviation (verl's
            `algorithm.norm_adv_by_std_in_grpo`).
        notes: for the list of methods.

    Raises:
        MethodError: a component has the wrong type, or the rule does not support a dual clip.
    """

    name: str
    log_ratio: LogRatio
    window: Window
    citation: str
    aggregation: str = "seq-mean-token-mean"
    dual_clip: DualClip | None = None
    rule: SurrogateRule = field(default_factory=ClippedMin)
    std_normalised: bool = True
    notes: Notes = field(default_factory=Notes, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.log_ratio, LogRatio):
            raise MethodError(f"method {self.name!r}: log_ratio must be a ctpo.methods.LogRatio: {self.log_ratio!r}")
        if not callable(getattr(self.window, "log_bounds", None)):
            raise MethodError(f"method {self.name!r}: window must have log_bounds(positions): {self.window!r}")
        if not callable(self.rule):
            raise MethodError(f"method {self.name!r}: rule must be a function of rules.TokenInputs: {self.rule!r}")
        if self.aggregation not in AGGREGATIONS:
            raise MethodError(
                f"method {self.name!r}: aggregation {self.aggregation!r}; known: {', '.join(AGGREGATIONS)}"
            )
        if self.dual_clip is not None and not isinstance(self.rule, ClippedMin):
            raise MethodError(f"method {self.name!r}: {type(self.rule).__name__} has no dual clip")
