"""The factors of rows against the formulas with full matrices."""

import torch

from pyro_gen.distributions.factor_posterior import factor_posterior


def test_agrees_with_full_matrices() -> None:
    torch.manual_seed(0)
    components, rows, columns, rank = 2, 7, 5, 3
    x = torch.randn(rows, columns, dtype=torch.float64)
    x[torch.rand(x.shape) < 0.4] = torch.nan
    x[0] = torch.nan
    loadings = torch.randn(components, columns, rank, dtype=torch.float64)
    loc = torch.randn(components, columns, dtype=torch.float64)
    noise = torch.rand(components, columns, dtype=torch.float64) + 0.2
    found = factor_posterior(x, loadings, loc, noise)
    draws = torch.randn(rank, components, rows, dtype=torch.float64)
    drawn = found.draw(draws)
    means, variances = found.entries(loadings.movedim((-1, -2), (0, 1)).unsqueeze(-1))
    for c in range(components):
        for n in range(rows):
            o = ~torch.isnan(x[n])
            w = loadings[c, o]
            precision = torch.eye(rank).double() + w.T @ (w / noise[c, o, None])
            factor = torch.linalg.cholesky(precision)
            mean = torch.linalg.solve(precision, w.T @ ((x[n, o] - loc[c, o]) / noise[c, o]))
            e = factor.T @ mean
            torch.testing.assert_close(found.e[:, c, n], e)
            torch.testing.assert_close(found.log_det()[c, n], torch.linalg.slogdet(precision)[1] / 2)
            own = mean + torch.linalg.solve(factor.T, draws[:, c, n])
            torch.testing.assert_close(drawn[c, n], own)
            torch.testing.assert_close(found.covariance()[c, n], torch.linalg.inv(precision))
            torch.testing.assert_close(means[:, c, n], loadings[c] @ mean)
            covariance = loadings[c] @ torch.linalg.inv(precision) @ loadings[c].T
            torch.testing.assert_close(variances[:, c, n], covariance.diagonal())


def test_selects_rows() -> None:
    torch.manual_seed(0)
    x, loadings = torch.randn(6, 4).double(), torch.randn(3, 4, 2).double()
    every = factor_posterior(x, loadings, torch.zeros(3, 4).double(), torch.ones(3, 4).double())
    one = factor_posterior(x, loadings[1], torch.zeros(4).double(), torch.ones(4).double())
    some = every.select(lambda v: v[:, 1, 2:4])
    noise = torch.randn(2, 6).double()
    torch.testing.assert_close(some.draw(noise[:, 2:4]), one.draw(noise)[2:4])
