"""Every statistic against a value computed by hand, a naive loop, or what it was planted with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.histograms import quantile, robust_scale
from analysis.statistics.intervals import Interval, wider
from analysis.statistics.jackknife import delete_group_jackknife
from analysis.statistics.power_law import BinnedPositions, fit_power_law, fit_scale
from analysis.statistics.resampling import (
    _interaction,
    _stretched,
    difference_interval,
    difference_p_value,
    holm,
    mean_interval,
    stratified_interval,
)
from analysis.statistics.seeds import seed_band


def test_jackknife_of_a_mean_has_the_standard_error_of_group_means_and_counts_the_groups_that_matter() -> None:
    groups = np.array([1.0, 2.0, 4.0, 9.0])
    without = np.array([np.delete(groups, j).mean() for j in range(4)])
    interval = delete_group_jackknife(groups.mean(), without, np.full(4, 5.0))
    # Deviations -3, -2, 0, 5: degrees of freedom (9 + 4 + 25)^2 / (81 + 16 + 625) = 2.
    half = stats.t.ppf(0.975, 2) * groups.std(ddof=1) / 2
    assert interval.estimate == 4.0
    assert interval.low == pytest.approx(4.0 - half)
    assert interval.high == pytest.approx(4.0 + half)


def test_jackknife_of_unequal_groups_matches_its_formula_by_hand() -> None:
    # Deleting the groups changes the estimate by 1, 0 and -2: (3 - 1) / 3 * (1 + 0 + 4), and (1 + 4)^2 / (1 + 16).
    interval = delete_group_jackknife(5.0, np.array([6.0, 5.0, 3.0]), np.array([2.0, 5.0, 3.0]))
    half = stats.t.ppf(0.975, 25 / 17) * np.sqrt(10 / 3)
    assert (interval.low, interval.high) == (pytest.approx(5.0 - half), pytest.approx(5.0 + half))


def test_jackknife_ignores_empty_groups_cell_by_cell_and_has_no_bounds_for_one_group() -> None:
    sizes = np.array([[1.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
    without = np.array([[2.0, np.nan], [3.0, 5.0], [4.0, 5.0]])
    interval = delete_group_jackknife(np.array([3.0, 5.0]), without, sizes)
    assert np.isfinite(interval.low[0])
    assert np.isnan(interval.low[1])
    assert interval.estimate.tolist() == [3.0, 5.0]


def test_a_single_position_per_bin_grows_as_the_power_itself() -> None:
    positions = BinnedPositions(np.ones(5), 1)
    np.testing.assert_allclose(positions.growth(0.7), np.arange(1, 6) ** 0.7)
    np.testing.assert_allclose(positions.centres, np.arange(1, 6))


def test_a_bin_grows_as_the_root_mean_square_over_its_tokens() -> None:
    positions = BinnedPositions(np.array([3.0, 1.0, 2.0]), 2)
    np.testing.assert_allclose(positions.growth(0.5), [np.sqrt((3 * 1 + 1 * 2) / 4), np.sqrt(3.0)])
    np.testing.assert_allclose(positions.centres, [5 / 4, 3.0])


@pytest.mark.parametrize("exponent", [0.2, 0.5, 0.71, 1.54])
def test_an_exact_power_law_is_recovered_exactly(exponent: float) -> None:
    positions = BinnedPositions(np.arange(100, 0, -1).astype(np.float64), 8)
    std = 0.03 * positions.growth(exponent)
    fit = fit_power_law(std, positions.per_bin(positions.counts), positions)
    assert fit.exponent == pytest.approx(exponent, abs=1e-6)
    assert fit.sigma == pytest.approx(0.03, rel=1e-5)


def test_jackknife_has_all_degrees_of_freedom_only_where_groups_weigh_alike() -> None:
    interval = delete_group_jackknife(0.0, np.array([1.0, -1.0, 1.0, -1.0]), np.ones(4))
    assert interval.high == pytest.approx(stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * 4))


def test_scale_is_weighted_least_squares_of_logarithms_by_hand() -> None:
    # minimise 1 (log(1 / s))^2 + 2 (log(5 / (2 s)))^2: log s = 2 log(5 / 2) / 3
    positions = BinnedPositions(np.array([1.0, 2.0]), 1)
    found = fit_scale(np.array([1.0, 5.0]), np.array([1.0, 2.0]), positions, 1.0)
    assert found == pytest.approx(2.5 ** (2 / 3))


def test_many_fits_at_once_are_the_fits_one_by_one() -> None:
    positions = BinnedPositions(np.arange(100, 0, -1).astype(np.float64), 8)
    generator = np.random.default_rng(0)
    std = 0.03 * positions.growth(0.6) * np.exp(0.2 * generator.normal(size=(5, positions.bins)))
    weights = generator.random((5, positions.bins)) * (generator.random((5, positions.bins)) > 0.2)
    together = fit_power_law(std, weights, positions)
    alone = [fit_power_law(one, weight, positions) for one, weight in zip(std, weights, strict=True)]
    np.testing.assert_allclose(together.exponent, [fit.exponent for fit in alone], rtol=1e-12)
    np.testing.assert_allclose(together.sigma, [fit.sigma for fit in alone], rtol=1e-12)


def test_fits_without_enough_bins_or_spread_are_nan_not_numbers() -> None:
    positions = BinnedPositions(np.array([1.0, 1.0]), 1)
    assert np.isnan(fit_power_law(np.ones(2), np.ones(2), positions).exponent)
    flat = BinnedPositions(np.ones(6), 1)
    assert np.isnan(fit_power_law(np.zeros(6), np.ones(6), flat).exponent)


def test_histogram_quantiles_are_linear_within_a_bucket() -> None:
    edges = np.array([-np.inf, 0.0, 1.0, 3.0, np.inf])
    counts = np.array([[0, 2, 2, 0], [0, 0, 0, 0], [9, 1, 0, 0]])
    np.testing.assert_allclose(quantile(counts, edges, 0.75), [2.0, np.nan, np.nan])
    np.testing.assert_allclose(quantile(counts, edges, 0.25)[0], 0.5)


def test_robust_scale_of_normal_values_is_their_standard_deviation() -> None:
    from analysis.position_sums import histogram_edges

    values = np.random.default_rng(0).normal(scale=0.3, size=200_000)
    counts, _ = np.histogram(values, bins=histogram_edges())
    assert robust_scale(counts, histogram_edges()) == pytest.approx(0.3, rel=0.02)


def test_bootstrap_of_one_seed_is_the_t_interval_of_a_mean_over_problems() -> None:
    scores = np.random.default_rng(1).random((1, 50))
    interval = mean_interval(scores)
    half = stats.t.ppf(0.975, 49) * scores.std(ddof=1) / np.sqrt(50)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.03)


def test_variance_of_a_crossed_design_by_hand() -> None:
    # Seed means 0.25 and 0.75, problem means 0 and 1 and 0.5; nothing is left besides: no interaction.
    scores = np.array([[-0.25, 0.75, 0.25], [0.25, 1.25, 0.75]])
    assert _interaction(scores) == pytest.approx(0.0)
    # Variance over seeds 0.125 / 2 with 1 degree of freedom, over problems 0.25 / 3 with 2.
    variance, freedom = 0.0625 + 0.25 / 3, (0.0625 + 0.25 / 3) ** 2 / (0.0625**2 / 1 + (0.25 / 3) ** 2 / 2)
    interval = _stretched(0.5, np.random.default_rng(0).normal(0.5, 1.0, 200_000), [(0.0625, 1), (0.25 / 3, 2)], 0.0)
    assert interval.high - 0.5 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance), rel=0.02)


def test_interval_is_clustered_so_more_samples_of_the_same_problems_do_not_narrow_it_to_nothing() -> None:
    # Problems are all right or all wrong: a thousand samples each say no more than one.
    scores = np.repeat([[0.0, 1.0]], 10, axis=0).reshape(1, 20)
    interval = mean_interval(scores)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.1)


def simulated_scores(
    generator: np.random.Generator, seeds: int, chance: np.ndarray, k: int, seed_spread: float
) -> np.ndarray:
    """Mean scores `[seeds, problems]` of k samples each; a training run shifts all of its chances alike."""
    shifted = np.clip(chance + seed_spread * generator.normal(size=(seeds, 1)), 0.0, 1.0)
    return generator.binomial(k, shifted) / k


@pytest.mark.parametrize(("seeds", "k", "spread"), [(1, 4, 0.0), (1, 32, 0.0), (3, 4, 0.0), (3, 8, 0.05)])
def test_intervals_cover_nominally_over_problems_samples_and_seeds(seeds: int, k: int, spread: float) -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        # Chances within [0.2, 0.8], so that shifts are never cut off and the truth is 0.5.
        chance = 0.2 + 0.6 * generator.beta(1.0, 1.0, size=30)
        interval = mean_interval(simulated_scores(generator, seeds, chance, k, spread), resamples=500)
        hits += int(interval.low <= 0.5 <= interval.high)
    # 0.95 +- 3 standard errors of a share of 400, and a little more on the safe side.
    assert 0.915 <= hits / 400 <= 0.99


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.05)])
def test_paired_differences_cover_nominally(seeds: int, spread: float) -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        chance = 0.25 + 0.4 * generator.beta(1.0, 1.0, size=30)
        better = chance + 0.1 * generator.random(size=30)
        first, second = (simulated_scores(generator, seeds, one, 8, spread) for one in (better, chance))
        interval = difference_interval(first, second, resamples=500)
        hits += int(interval.low <= 0.05 <= interval.high)
    assert 0.915 <= hits / 400 <= 0.99


def test_an_average_over_benchmarks_draws_their_problems_apart_and_their_seeds_together() -> None:
    generator = np.random.default_rng(4)
    one = generator.random((1, 40))
    alone, twice = mean_interval(one), stratified_interval([one, generator.permutation(one, axis=1)])
    # Two benchmarks of the same size: half the variance.
    assert twice.high - twice.low == pytest.approx((alone.high - alone.low) / np.sqrt(2), rel=0.05)
    # Seeds that differ, problems that do not: a second benchmark of the same runs adds nothing.
    shifts = np.repeat([[0.2], [0.4], [0.6]], 40, axis=1)
    widths = [np.ptp(stratified_interval([shifts] * number)[1:]) for number in (1, 2)]
    assert widths[1] == pytest.approx(widths[0], rel=0.01)


def test_a_single_problem_has_no_interval() -> None:
    interval = mean_interval(np.array([[0.25]]))
    assert interval.estimate == 0.25
    assert np.isnan(interval.low)


@pytest.mark.parametrize("seeds", [1, 3])
def test_none_or_all_of_the_problems_solved_is_not_certainty(seeds: int) -> None:
    none, every = mean_interval(np.zeros((seeds, 30))), mean_interval(np.ones((seeds, 30)))
    bound = stats.binomtest(0, 30).proportion_ci(0.95, "exact").high
    assert tuple(map(float, none)) == pytest.approx((0.0, 0.0, bound))
    assert tuple(map(float, every)) == pytest.approx((1.0, 1 - bound, 1.0))
    two = stratified_interval([np.zeros((seeds, 30)), np.zeros((seeds, 50))])
    assert float(two.high) == pytest.approx(stats.binomtest(0, 60).proportion_ci(0.95, "exact").high)


def test_scores_without_any_spread_have_no_interval() -> None:
    half = np.full((2, 30), 0.5)
    assert mean_interval(half).text() == "0.50"
    assert difference_interval(half, half).text() == "0.00"


def test_a_seed_that_tells_nothing_does_not_take_the_other_seeds_variation_away() -> None:
    prompts = Interval(*np.array([0.6, 0.5, 0.7]))
    two = wider(prompts, np.array([0.4, 0.8]))
    assert wider(prompts, np.array([0.4, np.nan, 0.8])) == two
    assert float(two.high) == pytest.approx(0.6 + 12.706 * np.std([0.4, 0.8], ddof=1) / np.sqrt(2), rel=1e-4)
    assert np.isnan(wider(prompts, np.array([0.4, np.nan]))[1:]).all()
    assert wider(prompts, np.array([0.4])) == prompts


def test_equal_input_gives_equal_intervals() -> None:
    scores = np.random.default_rng(3).random((2, 30))
    assert mean_interval(scores) == mean_interval(scores)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_equal_methods_whose_runs_differ_are_told_apart_one_time_in_twenty(seeds: int) -> None:
    """A test over problems alone takes the runs as given: p < 0.05 in 47 to 56 % where runs differ by 3 points."""
    found = []
    for number in range(400):
        generator = np.random.default_rng([5, seeds, number])
        chance = generator.beta(2, 2, size=120)

        def runs(generator: np.random.Generator = generator, chance: np.ndarray = chance) -> np.ndarray:
            moved = np.clip(chance + 0.03 * generator.normal(size=(seeds, 1)), 0, 1)
            return generator.binomial(32, moved) / 32

        found.append(difference_p_value(runs(), runs()))
    assert np.mean(np.array(found) < 0.05) <= 0.075
    assert np.mean(np.array(found) < 0.5) > 0.2


def test_a_difference_of_runs_that_agree_is_found_and_one_seed_is_never_tested() -> None:
    generator = np.random.default_rng(6)
    chance = generator.beta(2, 2, size=120)
    low, high = (generator.binomial(32, np.clip(chance + shift, 0, 1), size=(3, 120)) / 32 for shift in (0.0, 0.15))
    assert difference_p_value(high, low) < 0.01
    assert difference_p_value(high, low) == pytest.approx(difference_p_value(low, high))
    assert np.isnan(difference_p_value(high[:1], low))
    assert np.isnan(difference_p_value(high[:, :1], low[:, :1]))
    assert difference_p_value(high, high) == 1.0
    assert np.isnan(difference_p_value(np.ones((2, 9)), np.zeros((2, 9))))  # nothing says how runs or problems vary


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def test_seed_band_uses_common_steps_and_students_t() -> None:
    first = (np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0]))
    second = (np.array([2, 3, 4]), np.array([4.0, 3.0, 9.0]))
    steps, mean, low, high = seed_band([first, second])
    assert steps.tolist() == [2, 3]
    assert mean.tolist() == [3.0, 3.0]
    half = stats.t.ppf(0.975, 1) * np.sqrt(2) / np.sqrt(2)
    np.testing.assert_allclose([low[0], high[0]], [3 - half, 3 + half])
    assert low[1] == high[1] == 3.0


def test_seed_band_of_one_seed_has_no_band_and_a_nan_stays_a_nan() -> None:
    _, mean, low, _ = seed_band([(np.array([1, 2]), np.array([1.0, np.nan]))])
    assert np.isnan(low).all()
    assert np.isnan(mean[1])


def test_interval_text() -> None:
    assert Interval(*np.array([0.714, 0.66, 0.76])).text() == "0.71 [0.66, 0.76]"
    assert Interval(*np.array([0.5, np.nan, np.nan])).text(1, 100) == "50.0"
