"""CreativeSynth: real-world content enters an artwork."""
