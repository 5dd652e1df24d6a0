"""What topic models share, and nobody reads as a model."""
