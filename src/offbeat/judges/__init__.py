"""Judges: each answers "Is this still a ...?" about pictures, and never sees an embedding."""
