"""NeMo-RL: its configuration, launcher, metrics and trainer. What needs NeMo-RL imports it where it is needed."""
