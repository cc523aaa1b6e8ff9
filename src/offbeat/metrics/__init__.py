"""Measures: pure functions of tensors, each with a known better direction."""
