"""The paper's quantitative sentences as tests on records. Every rule was fixed before any run was looked at.

A verdict is `holds`, `fails`, `undecided` (the evidence does not separate the two) or `not testable here`
(the records lack what the sentence speaks of). A sentence about *methods* needs at least two seeds of each:
with one, a difference between two training runs is no difference between methods, however small its p-value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.accuracy_claims import better, better_on_each_benchmark, reported_margin, with_seeds
from analysis.growth import MAX_STEPS, clip_rates, flatness_difference, measure_growth, overall_rate, uniformity
from analysis.inputs import OBSERVED_METHOD, NothingToShow, Sweep
from analysis.position_sums import ADAPTIVE, FIXED, PositionSums, over_steps
from analysis.statistics.intervals import Interval
from analysis.verdicts import NOT_TESTABLE, above, all_of, below, grow_alike, in_order, within

#: An exponent within this of one half counts as a square root.
EXPONENT_TOLERANCE = 0.1
#: A clip rate below this counts as near 0.
NEAR_ZERO = 0.01
#: Positions that a run must reach before it can say anything about the paper's late positions (8,000).
LATE_POSITION = 4000
#: The authors' plots stop here.
LAST_POSITION = 5000
#: Responses that a bin needs for its rate to count.
LEAST_RESPONSES = 30


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, the rule that tests it, what was measured, and the verdict."""

    sentence: str
    rule: str
    measured: str
    verdict: str


def judge_claims(sweep: Sweep, model: str) -> list[Claim]:
    """All claims, in the paper's order."""
    return [
        _judge(sentence, rule, lambda test=test: test(sweep, model))  # type: ignore[misc]
        for sentence, rule, test in _CLAIMS
    ]


def _judge(sentence: str, rule: str, test: Callable[[], tuple[str, str]]) -> Claim:
    try:
        measured, verdict = test()
    except NothingToShow as reason:
        measured, verdict = str(reason), NOT_TESTABLE
    return Claim(sentence, rule, measured, verdict)


def _shown(sweep: Sweep, model: str) -> list[tuple[str, PositionSums]]:
    """`"step 4"`, or `"grpo, step 4"` where CTPO itself was not run, and the statistics."""
    method = sweep.observed_method(model)
    whose = "" if method == OBSERVED_METHOD else f"{method}, "
    return [(f"{whose}step {step}", sums) for step, sums in sweep.shown_sums(model, method)[1]]


def _square_root(sweep: Sweep, model: str) -> tuple[str, str]:
    method = sweep.observed_method(model)
    loaded = sweep.sums_over_training(model, method, MAX_STEPS)[1]
    exponent = measure_growth(over_steps([sums for _, sums in loaded])).free[1]
    verdict = within(exponent, 0.5 - EXPONENT_TOLERANCE, 0.5 + EXPONENT_TOLERANCE)
    return f"{method}, {len(loaded)} steps from {loaded[0][0]} to {loaded[-1][0]}: b = {exponent.text()}", verdict


def _fixed_rises(sweep: Sweep, model: str) -> tuple[str, str]:
    step, sums = _shown(sweep, model)[-1]
    early, slope = _rate_of_bin(sums, 0), uniformity(sums, FIXED)[0]
    measured = f"{step}: first bin {early.text(2, 100)} %, slope {slope.text(2, 100)} points per 100 tokens"
    return measured, all_of([above(slope), within(early, 0.0, NEAR_ZERO)])


def _fixed_reaches_twenty(sweep: Sweep, model: str) -> tuple[str, str]:
    step, sums = _shown(sweep, model)[-1]
    last, at = _last_bin(sums)
    late = _rate_of_bin(sums, last)
    return f"{step}: near token {at:.0f} {late.text(1, 100)} %", within(late, 0.1, 0.3)


def _last_bin(sums: PositionSums) -> tuple[int, float]:
    """The last bin of `measure_growth` that the authors' plots show and enough responses reach, and its position."""
    growth = measure_growth(sums)
    usable = np.flatnonzero((growth.responses >= LEAST_RESPONSES) & (growth.positions <= LAST_POSITION))
    at = float(growth.positions[usable[-1]]) if len(usable) else 0.0
    if at < LATE_POSITION:
        raise NothingToShow(f"{LEAST_RESPONSES} responses reach token {at:.0f} at most, the paper's 8,000")
    return int(usable[-1]), at


def _rate_of_bin(sums: PositionSums, index: int) -> Interval:
    rates = clip_rates(sums, FIXED)
    return Interval(rates.estimate[index], rates.low[index], rates.high[index])


def _adaptive_rate(sweep: Sweep, model: str) -> tuple[str, str]:
    measured, verdicts = [], []
    for step, sums in _shown(sweep, model):
        thirds = np.array_split(np.arange(_last_bin(sums)[0] + 1), 3)
        rates = [overall_rate(sums, ADAPTIVE, slice(part[0], part[-1] + 1)) for part in thirds]
        measured.append(f"{step}: {', '.join(rate.text(1, 100) for rate in rates)} %")
        verdicts += [within(rate, 0.05, 0.10) for rate in rates]
    return "; ".join(measured), all_of(verdicts)


def _adaptive_is_flatter(sweep: Sweep, model: str) -> tuple[str, str]:
    method = sweep.observed_method(model)
    loaded = sweep.sums_over_training(model, method, MAX_STEPS)[1]
    found = flatness_difference(over_steps([sums for _, sums in loaded]), ADAPTIVE, FIXED)
    return f"{method}, {len(loaded)} steps: {found.text()}", below(found)


def _clip_fraction_between(sweep: Sweep, model: str) -> tuple[str, str]:
    means = {method: _late_means(sweep, model, method, "actor/pg_clipfrac") for method in ("grpo", "ctpo", "gspo")}
    measured = ", ".join(f"{method} {100 * np.mean(values):.2g} %" for method, values in means.items())
    return with_seeds(measured, in_order(*means.values()), min(map(len, means.values())))


def _lengths_alike(sweep: Sweep, model: str) -> tuple[str, str]:
    methods = [method for method in ("grpo", "gspo", "ctpo") if method in sweep.methods(model)]
    if len(methods) < 2:
        raise NothingToShow(f"fewer than two of grpo, gspo, ctpo were run on {model}")
    late = {method: _late_means(sweep, model, method, "model_tokens/mean") for method in methods}
    early = {method: _late_means(sweep, model, method, "model_tokens/mean", late=False) for method in methods}
    ends = [float(np.mean(late[method])) for method in methods]
    changes = ", ".join(f"{method} {np.mean(early[method]):.0f} to {np.mean(late[method]):.0f}" for method in methods)
    measured = f"{changes} tokens; longest over shortest at the end {max(ends) / min(ends):.2f}"
    return with_seeds(measured, grow_alike(early, late), min(map(len, late.values())))


def _late_means(sweep: Sweep, model: str, method: str, key: str, late: bool = True) -> list[float]:
    """Mean of a metric over the second (or first) half of training, one number per seed."""
    found = []
    for run in sweep.runs(model, method, finished=True):
        steps, values = run.series(key)
        half = steps > (steps.max() / 2) if len(steps) else steps
        if np.isnan(values).any():
            raise NothingToShow(f"{run.name} has NaN in {key}")
        if len(steps):
            found.append(float(np.mean(values[half == late])))
    if not found:
        raise NothingToShow(f"no finished run of {model}/{method} has {key}")
    return found


_CLAIMS: tuple[tuple[str, str, Callable[[Sweep, str], tuple[str, str]]], ...] = (
    (
        "The standard deviation of the cumulative log-ratio grows as the square root of the position.",
        "95 % interval of the exponent b, all shown steps and seeds added up before the fit, inside [0.4, 0.6]; "
        "fails if outside",
        _square_root,
    ),
    (
        "Under the fixed window the clip rate is near 0 for early tokens and rises with position.",
        "last shown step: interval of the first bin's rate below 1 % and slope's interval above 0",
        _fixed_rises,
    ),
    (
        "Under the fixed window it reaches about 20 % at late positions.",
        "last shown step: interval of the rate in the last bin up to token 5,000 that 30 responses reach inside "
        "[10 %, 30 %]; needs positions beyond 4,000",
        _fixed_reaches_twenty,
    ),
    (
        "Under the adaptive window 5 to 10 % of tokens are clipped.",
        "interval of the rate inside [5 %, 10 %] in each third of the positions up to 5,000, at every shown step; "
        "fails if outside in any; needs positions beyond 4,000",
        _adaptive_rate,
    ),
    (
        "The adaptive window clips more evenly along a response than the fixed one.",
        "squared coefficient of variation over bins less what noise adds, steps and seeds added up, adaptive minus "
        "fixed: interval below 0; fails if above",
        _adaptive_is_flatter,
    ),
    (
        "CTPO's clip fraction lies between GRPO's and GSPO's.",
        "means over the second half of training, by seed: Welch's intervals of CTPO minus GRPO and of GSPO minus "
        "CTPO above 0; fails if one is below",
        _clip_fraction_between,
    ),
    (
        "Response length grows alike under GRPO, GSPO and CTPO.",
        "by seed: interval of each method's growth from the first to the second half of training above 0, and of "
        "each pair's ratio of lengths within a factor of 1.15; fails if one lies outside",
        _lengths_alike,
    ),
    (
        "GSPO is the strongest baseline.",
        "interval of the paired difference GSPO minus GRPO above 0; fails if below 0",
        better("gspo", "grpo"),
    ),
    (
        "CTPO leads the strongest baseline by 3.7 points (4B) and 3.3 (14B).",
        "interval of the paired difference holds the paper's margin and lies above 0; fails if below the margin",
        reported_margin("ctpo", "gspo"),
    ),
    (
        "The adaptive window gains 3.1 points over the fixed one (14B).",
        "interval of the paired difference holds the paper's margin and lies above 0; fails if below the margin",
        reported_margin("ctpo", "ctpo_fixed"),
    ),
    (
        "The adaptive window gains on all four benchmarks.",
        "t test of the paired difference on each benchmark, together at 5 %: all above 0; fails if one is below",
        better_on_each_benchmark("ctpo", "ctpo_fixed"),
    ),
    (
        "CTPO is the most accurate on average.",
        "interval of the paired difference above 0 against GRPO and GSPO; fails if below 0 against one",
        better("ctpo", "grpo", "gspo"),
    ),
    (
        "The adaptive window is more accurate than the fixed one.",
        "interval of the paired difference CTPO minus CTPO with fixed clip above 0; fails if below 0",
        better("ctpo", "ctpo_fixed"),
    ),
)
