"""Table 1 as numbers: bias, variance and error of each importance ratio's gradient estimate."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifact, Table
from analysis.theory import ADVANTAGES, RATIOS, ZERO, Theory, setting, sources

_NAMES = {
    "token": "token (GRPO)",
    "length_normalized": "length-normalised (GSPO)",
    "sequence": "full sequence",
    "cumulative": "cumulative (CTPO)",
}
_CAPTION = (
    "Norm of the bias, trace of the covariance of one response's estimate and mean squared error of the average of "
    "{batch} responses, all relative to the true policy gradient; medians over random problems whose policies are "
    "{kl} nats per response apart. Var(rho): variance of the ratio itself, averaged over tokens. The four columns on "
    "the right: with a window of {deviations} standard deviations of each ratio's own logarithm. {sources}"
)
_COLUMNS = ("seed", "vocabulary", "horizon", "kl", "batch", "window_deviations", "advantage", "estimator", "clipping")
_QUANTITIES = ["bias", "variance", "mse_batch"]


def make(theory: Theory) -> Artifact:
    """One row per kind of advantage and ratio."""
    columns = (*_COLUMNS, "position", *_QUANTITIES, "ratio_variance", "clip_rate")
    table = theory.read("table1", columns)
    totals = table[table["position"] == "total"]
    medians = totals.groupby(["advantage", "estimator", "clipping"])[
        [*_QUANTITIES, "ratio_variance", "clip_rate"]
    ].median()
    rows = [
        [name, _NAMES[ratio], *_cells(medians, advantage, ratio)]
        for advantage, name in ADVANTAGES.items()
        for ratio in RATIOS
    ]
    batch = setting(table, "batch")
    header = ["Advantage", "ratio", "Var(rho)", "bias", "variance", f"MSE/{batch}"]
    header += ["bias, clipped", "variance, clipped", f"MSE/{batch}, clipped", "clipped tokens, %"]
    caption = _CAPTION.format(
        batch=batch,
        kl=setting(table, "kl"),
        deviations=setting(table, "window_deviations"),
        sources=sources(table),
    )
    shown = Table(header, rows, [len(RATIOS)])
    return Artifact("table1", "Table 1 as numbers", caption, [], medians.reset_index(), table=shown)


def _cells(medians: pd.DataFrame, advantage: str, ratio: str) -> list[str]:
    plain, clipped = (medians.loc[(advantage, ratio, clipping)] for clipping in ("none", "window"))
    return [
        f"{plain['ratio_variance']:.3f}",
        *_three(plain),
        *_three(clipped),
        f"{100 * clipped['clip_rate']:.1f}",
    ]


def _three(row: pd.Series) -> list[str]:
    bias = "0" if row["bias"] < ZERO else f"{row['bias']:.3f}"
    return [bias, f"{row['variance']:.1f}", f"{row['mse_batch']:.3f}"]
