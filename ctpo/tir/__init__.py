"""Tool-integrated reasoning: prompts, turn parsing, the agent loop and the grader.

Importing this package imports neither torch nor verl; only `ctpo.tir.agent_loop` does.
"""
