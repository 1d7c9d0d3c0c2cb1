"""verl's side: configuration, loss, worker, trainer, checkpoints. Imported by verl's own processes, piece by piece."""
