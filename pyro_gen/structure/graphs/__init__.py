"""Engines that draw graphs of columns from their posterior: Bayesian networks, and undirected graphs."""
