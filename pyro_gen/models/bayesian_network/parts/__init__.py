"""What Bayesian networks are made of, and nobody reads as a model."""
