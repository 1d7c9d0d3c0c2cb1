"""The tables, one file each; `analysis/registry.py` lists them."""
