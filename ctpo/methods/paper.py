"""The methods that arXiv 2605.07331 compares, its ablation, and its authors' code."""

from __future__ import annotations

from ctpo.methods.log_ratios import (
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)
from ctpo.methods.method import Method, Notes
from ctpo.methods.windows import DualClip, LogWindow, PositionAdaptiveWindow, RatioWindow

CTPO_CITATION = "arXiv 2605.07331"
CUMULATIVE = "prod_{i<=t} pi_i / pi_old_i, gradient through token t alone"

PAPER = (
    Method(
        "grpo",
        token_log_ratio,
        RatioWindow(1 - 0.2, 1 + 0.2),
        "arXiv 2402.03300",
        notes=Notes(
            "pi_t / pi_old_t",
            "0.2: PPO (arXiv 1707.06347) and verl",
            "verl's `vanilla` adds a dual clip at 3 and averages over tokens unless told otherwise; here neither. The "
            "KL penalty of the paper is left out, as in arXiv 2605.07331.",
        ),
    ),
    Method(
        "gspo",
        length_normalized_log_ratio,
        RatioWindow(1 - 3e-4, 1 + 4e-4),
        "arXiv 2507.18071",
        notes=Notes(
            "(prod_i pi_i / pi_old_i)^(1/|o|), gradient through token t (GSPO-token)",
            "3e-4 and 4e-4: the paper, section 5.1",
            "verl's `gspo` states seq-mean-token-mean as its default, but verl always passes the actor's own mode, "
            "token-mean unless set.",
        ),
    ),
    Method(
        "ctpo",
        cumulative_log_ratio,
        PositionAdaptiveWindow(0.025, 0.05, 0.5),
        CTPO_CITATION,
        notes=Notes(
            CUMULATIVE,
            "0.025, 0.05 and 0.5: the paper and its script",
            "The paper's text; see `ctpo_released` for what the code does.",
        ),
    ),
    Method(
        "ctpo_fixed",
        cumulative_log_ratio,
        RatioWindow(0.5, 5.0),
        f"{CTPO_CITATION}, fixed-clip ablation",
        notes=Notes(CUMULATIVE, "[0.5, 5]: the paper's ablation", "The released code has no such option."),
    ),
    Method(
        "ctpo_released",
        cumulative_log_ratio,
        PositionAdaptiveWindow(0.025, 0.05, 0.5),
        f"{CTPO_CITATION}, the authors' released code",
        aggregation="token-mean",
        dual_clip=DualClip(0.05, 0.5),
        notes=Notes(
            CUMULATIVE,
            "as `ctpo`; dual clip 0.05: the released script",
            "Against the paper: a dual clip at exp(0.05 sqrt(t)) for A < 0, and the mean over all tokens instead of "
            "1/|o| and then 1/G.",
        ),
    ),
    Method(
        "full_sequence",
        sequence_log_ratio,
        # GSPO's interval for the mean log-ratio at a response of 1,000 tokens, where the two ratios clip alike.
        LogWindow(-0.3, 0.4),
        f"{CTPO_CITATION}, Table 1",
        notes=Notes(
            "prod_i pi_i / pi_old_i over the whole response",
            "-0.3 and 0.4: GSPO's interval at 1,000 tokens (our choice; the paper trains with no such window)",
            "In the paper a row of Table 1, without code.",
        ),
    ),
)
