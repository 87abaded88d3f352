"""Diffusion: a denoiser at every noise level, and what can be made of it."""
