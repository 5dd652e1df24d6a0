"""What flows share, and nobody reads as a model."""
