"""Figures, tables and verdicts from run records (`ctpo.records`). Reads, never trains; needs no torch."""
