"""The figures, one file each; `analysis/registry.py` lists them."""
