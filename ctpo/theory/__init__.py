"""Table 1 and Propositions 1 and 2 of arXiv 2605.07331, computed exactly on small decision processes.

`python -m ctpo.theory` checks the propositions, prints Table 1 as numbers and writes the numbers of its figures.
"""
