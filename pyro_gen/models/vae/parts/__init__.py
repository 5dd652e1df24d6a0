"""What variational autoencoders share, and nobody reads as a model."""
