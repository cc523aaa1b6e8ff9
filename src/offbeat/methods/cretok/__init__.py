"""CreTok: one reusable token that means "creative mixture"."""
