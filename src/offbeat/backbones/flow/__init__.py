"""Flow-matching transformers: Stable Diffusion 3 and FLUX."""
