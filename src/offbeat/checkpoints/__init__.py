"""Where checkpoints are, what they hold, and whether and how they fit into memory."""
