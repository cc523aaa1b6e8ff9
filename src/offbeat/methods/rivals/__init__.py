"""Plain rivals: what a user would try without any of the four papers."""
