"""The paper's claims and what these records say about them."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifact, Table
from analysis.claims import judge_claims
from analysis.inputs import NothingToShow, Sweep
from analysis.scores import final_scores

_CAPTION = (
    "Each sentence of the paper as a test on these records. The rules were fixed in code before any run was "
    "looked at (`analysis/claims.py`); a verdict speaks of this model and these runs, not of the paper's."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per claim."""
    claims = judge_claims(sweep, model)
    rows = [[claim.sentence, claim.rule, claim.measured, f"**{claim.verdict}**"] for claim in claims]
    data = pd.DataFrame([vars(claim) for claim in claims])
    table = Table(["Claim", "rule", "measured", "verdict"], rows, prose=True)
    try:
        drawn = f" {final_scores(sweep, model).drawn}"
    except NothingToShow:
        drawn = ""
    return Artifact(f"claims_{model}", f"Claims ({model})", _CAPTION + drawn, sweep.runs(model), data, table=table)
