"""Ratios measured side by side. Run as modules: `python -m benchmarks.overhead`."""
