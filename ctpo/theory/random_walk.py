"""Which assumption makes the standard deviation of `log rho_t` grow as sqrt(t), and what happens without it.

Each scenario draws the increments `d_1, d_2, ...` of many responses and where each response ends. Exactly one
assumption of "independent, equally spread, finite variance, ending whenever" is dropped at a time. Where the
variance over the responses that reach t is known in closed form the scenario says so, so that a fit can be judged
against the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ctpo.theory.mdp import FloatArray, IntArray

SIGMA = 0.02
"""Standard deviation of one increment, nats; every scenario's spread is in units of it."""

IQR_OF_NORMAL = 1.3489795003921634

Walks = tuple[FloatArray, IntArray]
"""Increments `[responses, positions]` and the number of tokens of each response, `[responses]`."""


@dataclass(frozen=True)
class Scenario:
    """One law of the increments.

    Attributes:
        name: in tables.
        assumption: what it changes against independent increments.
        exponent: of the standard deviation as t grows, or of the robust scale where there is no such deviation.
        draw: `(generator, responses, positions) -> Walks`.
        variance: of `log rho_t` over the responses that reach t, as a function of t; None where not known or
            infinite.
    """

    name: str
    assumption: str
    exponent: float
    draw: Callable[[np.random.Generator, int, int], Walks]
    variance: Callable[[FloatArray], FloatArray] | None = None


@dataclass(frozen=True)
class Growth:
    """Spread of simulated `log rho_t`, per position `[positions]`."""

    positions: FloatArray
    responses: IntArray
    """How many reach the position."""
    std: FloatArray
    robust: FloatArray
    """IQR / 1.349: what the standard deviation would be if the values were normal."""


def growth(walks: Walks, points: int = 40) -> Growth:
    """Spread at about `points` positions, evenly spaced in log t; only positions that 20 responses reach."""
    increments, lengths = walks
    ratios = increments.cumsum(axis=1)
    at = np.unique(np.geomspace(1, increments.shape[1], points).round().astype(np.int64))
    at = at[[int((lengths >= t).sum()) >= 20 for t in at]]
    columns = [ratios[lengths >= t, t - 1] for t in at]
    quartiles = np.array([np.quantile(column, [0.25, 0.75]) for column in columns])
    return Growth(
        at.astype(np.float64),
        np.array([len(column) for column in columns]),
        np.array([column.std(ddof=1) for column in columns]),
        (quartiles[:, 1] - quartiles[:, 0]) / IQR_OF_NORMAL,
    )


def fit_exponent(positions: FloatArray, spread: FloatArray, first: float = 1, last: float = np.inf) -> float:
    """b of `sigma * t**b`, by least squares of logarithms over `first <= t <= last`.

    Raises:
        ValueError: fewer than two positions there.
    """
    chosen = (positions >= first) & (positions <= last)
    if chosen.sum() < 2:
        raise ValueError(f"fit: {chosen.sum()} positions between {first:g} and {last:g}; two are the least")
    return float(np.polyfit(np.log(positions[chosen]), np.log(spread[chosen]), 1)[0])


def _endless(increments: FloatArray) -> Walks:
    return increments, np.full(len(increments), increments.shape[1])


def _independent(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    return _endless(generator.normal(scale=SIGMA, size=(responses, positions)))


def _student(degrees: float) -> Callable[[np.random.Generator, int, int], Walks]:
    # Scaled to variance SIGMA**2 where there is one.
    scale = SIGMA * (np.sqrt((degrees - 2) / degrees) if degrees > 2 else 1.0)

    def draw(generator: np.random.Generator, responses: int, positions: int) -> Walks:
        return _endless(scale * generator.standard_t(degrees, size=(responses, positions)))

    return draw


CORRELATION = 0.9


def _autocorrelated(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    noise = generator.normal(scale=SIGMA, size=(responses, positions))
    increments = noise.copy()
    for t in range(1, positions):
        increments[:, t] = CORRELATION * increments[:, t - 1] + np.sqrt(1 - CORRELATION**2) * noise[:, t]
    return _endless(increments)


def _autocorrelated_variance(t: FloatArray) -> FloatArray:
    phi = CORRELATION
    return SIGMA**2 * (t * (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**t) / (1 - phi) ** 2)


HURST = 0.75


def _long_memory(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    # Fractional Gaussian noise by circulant embedding (Davies and Harte, Biometrika 74, 1987).
    lags = np.arange(positions + 1, dtype=np.float64)
    covariances = 0.5 * ((lags + 1) ** (2 * HURST) - 2 * lags ** (2 * HURST) + np.abs(lags - 1) ** (2 * HURST))
    eigenvalues = np.fft.fft(np.concatenate([covariances, covariances[-2:0:-1]])).real.clip(min=0)
    noise = generator.normal(size=(2, responses, len(eigenvalues)))
    spectrum = np.sqrt(eigenvalues / len(eigenvalues)) * (noise[0] + 1j * noise[1])
    return _endless(SIGMA * np.fft.fft(spectrum, axis=1).real[:, :positions])


SHARED = SIGMA / 8


def _shared_drift(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    drift = generator.normal(scale=SHARED, size=(responses, 1))
    return _endless(drift + generator.normal(scale=SIGMA, size=(responses, positions)))


RETURN_RATE = 1 / 32


def _mean_reverting(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    increments = generator.normal(scale=SIGMA, size=(responses, positions))
    total = np.zeros(responses)
    for t in range(positions):
        increments[:, t] -= RETURN_RATE * total
        total += increments[:, t]
    return _endless(increments)


def _mean_reverting_variance(t: FloatArray) -> FloatArray:
    kept = (1 - RETURN_RATE) ** 2
    return SIGMA**2 * (1 - kept**t) / (1 - kept)


def _scaled_by_position(power: float) -> Callable[[np.random.Generator, int, int], Walks]:
    def draw(generator: np.random.Generator, responses: int, positions: int) -> Walks:
        scales = SIGMA * np.arange(1, positions + 1) ** power
        return _endless(scales * generator.normal(size=(responses, positions)))

    return draw


def _scaled_variance(power: float) -> Callable[[FloatArray], FloatArray]:
    def variance(t: FloatArray) -> FloatArray:
        sums = np.cumsum(np.arange(1, int(t.max()) + 1) ** (2 * power))
        return SIGMA**2 * sums[t.astype(np.int64) - 1]

    return variance


MEAN_LENGTH = 512


def _stops_whenever(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    increments, _ = _independent(generator, responses, positions)
    return increments, np.minimum(generator.geometric(1 / MEAN_LENGTH, size=responses), positions)


BARRIER = 16 * SIGMA


def _stops_when_far(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    increments, _ = _independent(generator, responses, positions)
    outside = np.abs(increments.cumsum(axis=1)) > BARRIER
    return increments, np.where(outside.any(axis=1), outside.argmax(axis=1) + 1, positions)


SHAPE = 3.0


def _volatile_live_longer(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    # Variance v, hazard 1 / (v MEAN_LENGTH), 1/v ~ Gamma: given survival to t, E[v] is linear in t.
    precisions = generator.gamma(SHAPE, size=responses)
    return _with_variances(generator, 1 / precisions, precisions / MEAN_LENGTH, positions)


def _volatile_die_sooner(generator: np.random.Generator, responses: int, positions: int) -> Walks:
    # Variance v, hazard v / MEAN_LENGTH, v ~ Gamma: given survival to t, E[v] falls as 1 / t.
    variances = generator.gamma(SHAPE, size=responses)
    return _with_variances(generator, variances, variances / MEAN_LENGTH, positions)


def _with_variances(
    generator: np.random.Generator, variances: FloatArray, hazards: FloatArray, positions: int
) -> Walks:
    increments = SIGMA * np.sqrt(variances)[:, None] * generator.normal(size=(len(variances), positions))
    ends = np.ceil(generator.exponential(size=len(variances)) / hazards)
    return increments, np.clip(ends, 1, positions).astype(np.int64)


SCENARIOS = (
    Scenario("independent", "none dropped", 0.5, _independent, lambda t: SIGMA**2 * t),
    Scenario("heavy_tailed", "Student t(3): heavy tails, finite variance", 0.5, _student(3.0), lambda t: SIGMA**2 * t),
    Scenario("infinite_variance", "Student t(1.5): no variance", 1 / 1.5, _student(1.5)),
    Scenario("autocorrelated", f"AR(1), correlation {CORRELATION}", 0.5, _autocorrelated, _autocorrelated_variance),
    Scenario(
        "long_memory",
        f"fractional noise, Hurst {HURST}",
        HURST,
        _long_memory,
        lambda t: SIGMA**2 * t ** (2 * HURST),
    ),
    Scenario(
        "shared_drift",
        "each response has a drift of its own",
        1.0,
        _shared_drift,
        lambda t: SIGMA**2 * t + SHARED**2 * t**2,
    ),
    Scenario("mean_reverting", "the sum is pulled back to 0", 0.0, _mean_reverting, _mean_reverting_variance),
    Scenario(
        "growing_increments", "std of d_t grows as t^0.25", 0.75, _scaled_by_position(0.25), _scaled_variance(0.25)
    ),
    Scenario(
        "shrinking_increments", "std of d_t falls as t^-0.25", 0.25, _scaled_by_position(-0.25), _scaled_variance(-0.25)
    ),
    Scenario("stops_whenever", "stops, whatever the ratio", 0.5, _stops_whenever, lambda t: SIGMA**2 * t),
    Scenario("stops_when_far", "stops once |log rho| is large", 0.0, _stops_when_far),
    Scenario(
        "volatile_live_longer",
        "responses with large increments run longer",
        1.0,
        _volatile_live_longer,
        lambda t: SIGMA**2 * t * (1 + (t - 1) / MEAN_LENGTH) / (SHAPE - 1),
    ),
    Scenario(
        "volatile_die_sooner",
        "responses with large increments stop sooner",
        0.0,
        _volatile_die_sooner,
        lambda t: SIGMA**2 * t * SHAPE / (1 + (t - 1) / MEAN_LENGTH),
    ),
)
