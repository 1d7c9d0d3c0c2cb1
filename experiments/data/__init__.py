"""Training problems and benchmarks: found or fetched, checked, freed of overlap, written with a data card."""
