"""Benchmarks: ``python -m benchmarks.NAME [--quick]``. Sides alternate in one run; medians are quoted."""
