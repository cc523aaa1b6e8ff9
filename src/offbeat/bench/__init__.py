"""Measure: speed side by side with the plain way, and the papers' claims as programs."""
