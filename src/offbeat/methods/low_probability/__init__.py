"""Low-probability exploration: the tail of a model's own distribution."""
