"""One figure a module: one with `make(sweep, model) -> Artifact` is drawn; nothing else lists it."""
