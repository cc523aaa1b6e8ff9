"""Mathematics that all layers above share; knows torch, and of ours errors and types alone."""
