"""`METHODS`: every method by its name."""

from __future__ import annotations

from ctpo.methods.method import Method
from ctpo.methods.paper import PAPER
from ctpo.methods.relatives import RELATIVES
from ctpo.methods.variants import VARIANTS

METHODS: dict[str, Method] = {method.name: method for method in (*PAPER, *RELATIVES, *VARIANTS)}
