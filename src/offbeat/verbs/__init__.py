"""The verbs: what a user asks for. One file a verb, read from top to bottom."""
