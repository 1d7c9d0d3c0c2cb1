"""CTPO and its relatives as a plugin to unmodified verl (arXiv 2605.07331).

methods and records stand on the ground: the paper's mathematics, and the run directory that analysis reads.
positions sums log-ratios by token position; theory enumerates the propositions exactly.
sandbox runs a model's programs; tir holds the agent loop and the grader above it.
training is verl's side, on top: plugin, loss, worker, trainer, checkpoints, platforms.
"""
