"""What energy-based models are made of, and nobody reads as a model."""
