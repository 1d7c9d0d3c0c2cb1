"""A model and a task that learn on two CPU cores: `model=tiny`, `dataset=arithmetic`.

Labelled arithmetic chains, a Qwen3-architecture model of about 0.1 M parameters with its own tokenizer and
chat template, and a warm start on demonstrations of mixed quality. Everything is generated from seeds.
"""
