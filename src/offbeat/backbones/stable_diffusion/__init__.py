"""The Stable-Diffusion form: one U-Net from text to latents; its one-step models too."""
