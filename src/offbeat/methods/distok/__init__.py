"""DisTok: a class distribution, or noise, becomes a token."""
