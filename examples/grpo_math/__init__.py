"""GRPO on math problems with self-speculative rollouts: `python -m examples.grpo_math --help`."""
