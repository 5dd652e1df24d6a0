"""Judging a model: conformance of programs, and the baselines that a likelihood must beat."""
