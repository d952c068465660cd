"""Benchmarks for one data-centre GPU; `--quick` runs each on a CPU with a tiny model, to show that it works."""
