"""One table a module: one with `make(sweep, model) -> Artifact` is made; nothing else lists it."""
