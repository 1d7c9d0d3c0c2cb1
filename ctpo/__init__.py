"""CTPO and its relatives as a plugin to verl (arXiv 2605.07331)."""
