"""Every figure and table, in the report's order. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analysis.artifacts import Artifact
from analysis.figures import exponents, figure1, figure1_sides, figure2, heat_maps, ratios, swept, theory
from analysis.tables import claims, clip_uniformity, growth_laws, table1, table2, table2_differences, table3


@dataclass(frozen=True)
class Entry:
    """`make(sweep, model)`, or `make(sweep, model, method)` where there is one `each_method`, returns an `Artifact`.

    It raises `NothingToShow` where the sweep lacks its input.
    """

    name: str
    make: Callable[..., Artifact]
    each_method: bool = False


OF_RUNS = (
    Entry("claims", claims.make),
    Entry("table2", table2.make),
    Entry("figure1", figure1.make, each_method=True),
    Entry("figure2", figure2.make),
    Entry("table2_differences", table2_differences.make),
    Entry("table3", table3.make),
    Entry("swept", swept.make),
    Entry("exponents", exponents.make),
    Entry("growth_laws", growth_laws.make),
    Entry("figure1_sides", figure1_sides.make, each_method=True),
    Entry("ratios", ratios.make, each_method=True),
    Entry("clip_uniformity", clip_uniformity.make),
    Entry("heat_maps", heat_maps.make, each_method=True),
)
#: `make(theory)`: what belongs to no run.
OF_THEORY = (
    Entry("table1", table1.make),
    Entry("theory_off_policyness", theory.off_policyness),
    Entry("theory_horizon", theory.horizon),
    Entry("theory_window", theory.window),
    Entry("theory_random_walk", theory.random_walk),
)
