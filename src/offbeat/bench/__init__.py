"""Benchmarks: speed beside a plain implementation, and the papers' claims."""
