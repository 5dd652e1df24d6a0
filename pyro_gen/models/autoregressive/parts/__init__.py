"""What autoregressive models are made of, and nobody reads as a model."""
