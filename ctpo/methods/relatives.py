"""Close relatives from other papers, one entry each.

Except where a paper's contribution is the normalisation itself (DAPO, Dr. GRPO, CISPO), tokens are averaged as in
arXiv 2605.07331 and advantages divided by their group's deviation, so that methods differ in their ratio and their
trust region alone.
"""

from __future__ import annotations

from ctpo.methods.log_ratios import minimum_prefix_log_ratio, token_log_ratio
from ctpo.methods.method import CONSTANT_NORMALISER, Method, Notes
from ctpo.methods.rules import BinaryKLMask, BinaryTVMask, ClippedWeight, GeometricMean, PrefixBudget, SoftGate
from ctpo.methods.windows import LogWindow, NoWindow, RatioWindow

TOKEN = "pi_t / pi_old_t"

NO_LOWER_BOUND = 1e-9
"""A ratio below all that the clamp of a token's log-ratio lets through."""

RELATIVES = (
    Method(
        "dapo",
        token_log_ratio,
        RatioWindow(1 - 0.2, 1 + 0.28),
        "arXiv 2503.14476",
        aggregation="token-mean",
        notes=Notes(
            TOKEN,
            "0.2 and 0.28 (clip-higher), token-mean: the paper",
            "The objective alone. DAPO's dynamic sampling and overlong reward shaping are part of sampling and reward, "
            "not of the loss, and are not here. The authors' code is verl's `vanilla`, whose dual clip (at 10 in their "
            "recipe) the paper does not have; nor has this.",
        ),
    ),
    Method(
        "dr_grpo",
        token_log_ratio,
        RatioWindow(1 - 0.2, 1 + 0.2),
        "arXiv 2503.20783",
        aggregation=CONSTANT_NORMALISER,
        std_normalised=False,
        notes=Notes(
            TOKEN,
            "0.2: PPO; the constant is data.max_response_length: the paper's code divides by the generation budget",
            "The paper's formula has neither 1/|o| nor a constant; its code has the constant. verl takes the padded "
            "width of each micro-batch for it unless loss_scale_factor is set, which makes the gradient depend on "
            "the cut: here the field must be set, and the YAML does.",
        ),
    ),
    Method(
        "gmpo",
        token_log_ratio,
        LogWindow(-0.4, 0.4),
        "arXiv 2507.20673",
        rule=GeometricMean(),
        notes=Notes(
            f"{TOKEN}, clipped, then its geometric mean over the response",
            "(e^-0.4, e^0.4): the paper, section 4",
            "verl's `geo_mean` (by the authors) returns the mean over the micro-batch, so its gradient grows with the "
            "number of micro-batches, and has 0.2 unless told otherwise; this normalises by the whole mini-batch.",
        ),
    ),
    Method(
        "cispo",
        token_log_ratio,
        RatioWindow(NO_LOWER_BOUND, 1 + 0.2),
        "arXiv 2506.13585",
        aggregation="token-mean",
        rule=ClippedWeight(),
        notes=Notes(
            TOKEN,
            "no lower bound and token-mean: the paper; 1.2 above: verl's CISPO example (the paper tunes the upper "
            "bound and does not name it)",
            "None in the gradient. The reported objective has log(pi / pi_old) in place of log pi, a constant apart.",
        ),
    ),
    Method(
        "sapo",
        token_log_ratio,
        NoWindow(),
        "arXiv 2511.20347",
        rule=SoftGate(tau_pos=1.0, tau_neg=1.05),
        notes=Notes(
            TOKEN,
            "1.0 and 1.05: the paper",
            "verl's `sapo` ignores the configured aggregation (it always uses the paper's) and reports no clipping.",
        ),
    ),
    Method(
        "dppo_tv",
        token_log_ratio,
        NoWindow(),
        "arXiv 2602.04879",
        rule=BinaryTVMask(low=0.15, high=0.15, max_ratio=20.0),
        notes=Notes(
            TOKEN,
            "0.15: the authors' script; ratios truncated at 20: their code (verl's `dppo_tv`; 10,000 in their script)",
            "The authors anchor at the rollout engine's probabilities and normalise as Dr. GRPO does; here both are as "
            "for every method. verl reads max_ratio from clip_ratio_c, whose default is 3 and not the 20 that its code "
            "names. Binary approximation; the paper's top-K one needs logits that verl's loss never sees.",
        ),
    ),
    Method(
        "dppo_kl",
        token_log_ratio,
        NoWindow(),
        "arXiv 2602.04879",
        rule=BinaryKLMask(low=0.05, high=0.05, max_ratio=20.0),
        notes=Notes(TOKEN, "0.05: the authors' script; 20 as in `dppo_tv`", "As `dppo_tv`."),
    ),
    Method(
        "minpro",
        minimum_prefix_log_ratio,
        RatioWindow(NO_LOWER_BOUND, 1 + 0.2),
        "arXiv 2601.22718",
        rule=ClippedWeight(),
        notes=Notes(
            "min_{i<t} (pi_i / pi_old_i) pi_t / pi_old_t",
            "the window is `cispo`'s: our choice",
            "Known to us is the weight sg[clip(min_{i<t} rho_i rho_t)] and that it stands for the prefix' product; the "
            "paper's thresholds, its aggregation and its code were not at hand. Ours: the first token's minimum is 1, "
            "a minimum above 1 is not capped, tokens are averaged as in `ctpo`.",
        ),
    ),
    Method(
        "cppo",
        token_log_ratio,
        NoWindow(),
        "arXiv 2606.10968",
        rule=PrefixBudget(delta=0.2, delta_b=0.02, w_min=0.8),
        notes=Notes(
            TOKEN,
            "0.2, 0.02 and 0.8: the authors' code (UniRL)",
            "After the authors' code, Binary-TV variant, whose budget a token is the response's 0.9 quantile, clamped. "
            "The authors anchor at the rollout engine's probabilities and average over tokens; here both are as for "
            "every method. Tool output counts neither as position nor as drift.",
        ),
    ),
)
