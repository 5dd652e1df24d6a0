"""What models of series are made of, and nobody reads as a model."""
