"""What it takes to run unmodified verl and vLLM on another device than CUDA. Inert on CUDA."""
