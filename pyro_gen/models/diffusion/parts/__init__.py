"""What diffusion models share, and nobody reads as a model."""
