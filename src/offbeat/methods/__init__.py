"""One file a method: its config, its losses and its loop. They see protocols, never models."""
