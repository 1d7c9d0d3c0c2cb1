"""avg@k of a model or checkpoint, through the agent loop, sandbox and grader of training."""
