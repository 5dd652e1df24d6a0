"""What the programs for tables are made of, and nobody reads as a model."""
