"""The only room that imports NeMo-RL."""
