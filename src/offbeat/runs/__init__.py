"""A run: its folder, what is written into it, and how it is shown. Knows no method."""
