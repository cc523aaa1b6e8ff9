"""Simple baselines that the four papers must beat: what a user would try without them."""
