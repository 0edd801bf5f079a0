"""Benchmarks of the pruning step; see README.md."""
