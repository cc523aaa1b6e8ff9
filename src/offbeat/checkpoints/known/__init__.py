"""Published checkpoints by form: names, files, and the settings that suit them."""
