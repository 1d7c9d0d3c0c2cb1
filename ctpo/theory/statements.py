"""What the numbers say, in sentences whose numbers are computed and whose direction is not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctpo.methods.log_ratios import cumulative_log_ratio, sequence_log_ratio
from ctpo.theory.advantages import exact_advantage
from ctpo.theory.checks import random_pair
from ctpo.theory.estimators import method_coefficients, moments, without_clipping
from ctpo.theory.mdp import TokenTree, verifiable_reward
from ctpo.theory.policies import Recurrent
from ctpo.theory.study import BATCH, OUTCOME_LEVEL, THROUGH_THE_SUM, TOKEN_LEVEL, DecisionProcess, Row
from ctpo.theory.tables import NAMES, ROUNDING, median
from ctpo.theory.variance import log_ratio_spread


def statements(table_1: Sequence[Row], horizon: Sequence[Row], window: Sequence[Row]) -> list[str]:
    """Where the cumulative ratio wins, where it loses, what clipping does to it."""
    return [
        _outcome_bias(table_1),
        _variance_grows(table_1, horizon),
        _losses(table_1),
        _clipping(table_1, window),
        _growing_window(window),
        _batch_of_even_error(table_1),
        _through_the_sum(table_1),
    ]


def _of(rows: Sequence[Row], name: str, kind: str, quantity: str, clipping: str = "none") -> float:
    return median(rows, quantity, estimator=name, advantage=kind, clipping=clipping, position="total")


def _outcome_bias(rows: Sequence[Row]) -> str:
    token, cumulative = (_of(rows, name, OUTCOME_LEVEL, "bias") for name in ("token", "cumulative"))
    return (
        "Proposition 1 needs a token-level advantage. With the outcome-level one of practice the reward still comes "
        f"from the old policy's continuation: the cumulative ratio's bias is {cumulative:.3f} of the gradient, the "
        f"token ratio's {token:.3f} ({_change(token, cumulative)}); only the full-sequence ratio has none."
    )


def _variance_grows(table_1: Sequence[Row], horizon: Sequence[Row]) -> str:
    where = {"estimator": "cumulative", "advantage": TOKEN_LEVEL, "clipping": "none"}
    slots = sorted({row["position"] for row in table_1 if row["position"] != "total"})
    first, last = (median(table_1, "ratio_variance", **where, position=slots[index]) for index in (0, -1))
    longest = max(row["horizon"] for row in horizon)
    variances = {
        name: median(horizon, "ratio_variance", **where | {"estimator": name}, horizon=longest) for name in NAMES
    }
    return (
        f"The cumulative ratio's variance grows with t as well: {first:.3f} at the first token, {last:.3f} at token "
        f"{slots[-1]}, where it is the full-sequence ratio. At horizon {longest}, averaged over tokens, it is "
        f"{variances['cumulative']:.3f}; full sequence {variances['sequence']:.3f}, token {variances['token']:.3f}."
    )


def _losses(rows: Sequence[Row]) -> str:
    found = []
    for kind in (TOKEN_LEVEL, OUTCOME_LEVEL):
        errors = {name: _of(rows, name, kind, "mse_batch") for name in NAMES}
        ranked = sorted(NAMES, key=errors.__getitem__)
        rank = ranked.index("cumulative") + 1
        found.append(
            f"{kind}-level advantage: cumulative is {rank} of 4 ({errors['cumulative']:.3f}; best is {ranked[0]}, "
            f"{errors[ranked[0]]:.3f})"
        )
    return f"Mean squared error of a batch of {BATCH}: {'; '.join(found)}."


def _clipping(table_1: Sequence[Row], window: Sequence[Row]) -> str:
    plain, clipped = (_of(table_1, "cumulative", TOKEN_LEVEL, "bias", clipping) for clipping in ("none", "window"))
    less, more = (_of(table_1, "cumulative", TOKEN_LEVEL, "variance", clipping) for clipping in ("window", "none"))
    rate = _of(table_1, "cumulative", TOKEN_LEVEL, "clip_rate", "window")
    where = {"advantage": TOKEN_LEVEL, "power": 0.5}
    widths = sorted({row["deviations"] for row in window}, reverse=True)
    errors = {width: median(window, "mse_batch", **where, deviations=width) for width in widths}
    # Widest first: a narrower window must do better to be named.
    best = min(widths, key=errors.__getitem__)
    left = median(window, "clip_rate", **where, deviations=best)
    return (
        f"Clipping {100 * rate:.1f} % of the tokens takes the cumulative ratio's bias from {_shown(plain)} to "
        f"{clipped:.3f} of the gradient and its variance from {more:.2f} to {less:.2f}: it drops those tokens whose "
        "probability already moved the right way, so the bias does not vanish with more samples. Of windows of "
        f"{', '.join(f'{width:g}' for width in reversed(widths))} std, that of {best:g}, which clips "
        f"{100 * left:.1f} %, has the least error at {BATCH} responses ({errors[best]:.3f}): as an estimate a window "
        f"{'makes things worse here' if left == 0 else 'can help'}; its use is as a trust region."
    )


def _growing_window(window: Sequence[Row], rate: float = 0.1) -> str:
    """Bias of the two shapes of window at the same clip rate, interpolated between widths."""
    parts = []
    for kind in (TOKEN_LEVEL, OUTCOME_LEVEL):
        biases = []
        for power in (0.5, 0.0):
            where = {"advantage": kind, "power": power}
            widths = {row["deviations"] for row in window}
            rates, found = (
                np.array([median(window, column, **where, deviations=width) for width in sorted(widths, reverse=True)])
                for column in ("clip_rate", "bias")
            )
            # A wider window clips less, so that rates ascend as `interp` needs.
            biases.append(float(np.interp(rate, rates, found)))
        parts.append(f"{biases[0]:.3f} against {biases[1]:.3f} ({kind}-level)")
    return (
        f"Clipping {100 * rate:.0f} % of the tokens by a window that grows as sqrt(t) against the same window "
        f"everywhere: bias {', '.join(parts)}. The growing one takes its share evenly over positions and so more of it "
        "from early tokens; how evenly a window clips does not settle how much it biases."
    )


def _batch_of_even_error(rows: Sequence[Row]) -> str:
    parts = []
    for kind in (TOKEN_LEVEL, OUTCOME_LEVEL):
        bias = {name: _of(rows, name, kind, "bias") ** 2 for name in ("token", "cumulative")}
        variance = {name: _of(rows, name, kind, "variance") for name in ("token", "cumulative")}
        gain, cost = bias["token"] - bias["cumulative"], variance["cumulative"] - variance["token"]
        parts.append(f"{cost / gain:.0f} ({kind}-level)" if gain > 0 and cost > 0 else f"none ({kind}-level)")
    return f"Responses in a batch from which the cumulative ratio beats the token ratio: {', '.join(parts)}."


def _through_the_sum(rows: Sequence[Row]) -> str:
    bias, right = (_of(rows, name, OUTCOME_LEVEL, "bias") for name in (THROUGH_THE_SUM, "cumulative"))
    variance, less = (_of(rows, name, TOKEN_LEVEL, "variance") for name in (THROUGH_THE_SUM, "cumulative"))
    return (
        "Autograd through the cumulative sum is another estimator: with outcome-level advantages its bias is "
        f"{bias:.2f} of the gradient instead of {right:.2f} (on policy, token k of T counts T - k + 1 times); with "
        f"exact token-level ones, which average to 0 in every state, it is unbiased but has {variance / less:.1f} "
        "times the variance."
    )


def _shown(bias: float) -> str:
    return "0" if bias < ROUNDING else f"{bias:.3f}"


def _change(before: float, after: float) -> str:
    return f"{100 * abs(1 - after / before):.0f} % {'less' if after < before else 'more'}"


def variance_counterexamples(count: int) -> str:
    """How often the full-sequence *estimator* has less total variance than the cumulative one; small networks.

    Proposition 2 orders the ratios. The estimators' sums over positions have cross terms that it says nothing of.
    """
    smaller = 0
    for seed in range(count):
        generator = np.random.default_rng(seed)
        family = Recurrent(TokenTree(2, 6, end_token=0))
        pair = random_pair(family, generator)
        advantages = exact_advantage(pair, verifiable_reward(family.tree, generator))
        found = [
            method_coefficients(without_clipping(ratio), pair, advantages)
            for ratio in (sequence_log_ratio, cumulative_log_ratio)
        ]
        sequence, cumulative = (moment.total_variance for moment in moments(pair, found))
        smaller += sequence < cumulative
    return (
        "Proposition 2 orders the ratios, not the estimators: their sums over tokens have cross terms. In "
        f"{smaller} of {count} random recurrent policies that may stop early, the full-sequence estimator has the "
        "smaller total variance."
    )


def square_root_law(problems: Sequence[DecisionProcess], levels: Sequence[float]) -> str:
    """How far the exact variance of `log rho_t` is from its increments' summed variances."""
    parts = []
    for kl in levels:
        spreads = [log_ratio_spread(problem.pair(kl)) for problem in problems]
        worst = [np.abs(spread.variances / spread.uncorrelated - 1).max() for spread in spreads]
        parts.append(f"{100 * float(np.median(worst)):.2g} % at {kl:g} nats")
    return (
        "sqrt(t) needs no independence: d_t less its conditional mean is a martingale difference. Var(log rho_t) "
        f"differs from the summed variances of the increments by {', '.join(parts)}."
    )
