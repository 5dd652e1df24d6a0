"""How likely the data are under a program: `log_likelihood` and all estimators behind it.

From the ground up: weights, result, and enumeration (sums over discrete latent variables); paths, particles and
annealing, which move particles to a target; the estimators exact, guide_bounds, ais, bdmc, smc and bridge; and above
them the public functions, of the likelihood of each datum (api.py) and of the evidence of a data set (evidence.py).
"""
