"""Pure functions of arrays: no file, no plot, no run. Each says how its interval comes about."""
