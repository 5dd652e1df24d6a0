"""Truncated normals, against SciPy and far beyond it."""

import torch
from scipy import stats

from pyro_gen.distributions.truncated_normal import log_interval, truncated_normal

INF = torch.inf
LOWER = torch.tensor([-INF, -INF, -3.0, -0.1, 0.5, 8.0, 37.0, -90.0, 200.0, -INF, 2.0], dtype=torch.float64)
UPPER = torch.tensor([INF, -5.0, -1.0, 2.0, INF, 9.0, INF, -80.0, INF, -300.0, 2.0 + 1e-9], dtype=torch.float64)


def test_log_interval_is_that_of_scipy():
    for a, b, found in zip(LOWER.tolist(), UPPER.tolist(), log_interval(LOWER, UPPER).tolist(), strict=True):
        a, b = (a, b) if a + b <= 0 or a == -INF else (-b, -a)
        upper, lower = stats.norm.logcdf(b), stats.norm.logcdf(a)
        known = upper + torch.log(-torch.expm1(torch.tensor(lower - upper, dtype=torch.float64))).item()
        assert abs(found - known) < 1e-6 * max(1, abs(known))


def test_quantiles_are_those_of_the_interval():
    u = torch.linspace(0.001, 0.999, 41, dtype=torch.float64).unsqueeze(1)
    z = truncated_normal(u, LOWER, UPPER)
    assert bool(((z >= LOWER) & (z <= UPPER)).all())
    assert bool((z.diff(dim=0) >= 0).all())
    assert torch.equal(truncated_normal(u, LOWER, UPPER, branch=True), z)
    near = LOWER.abs() < 30
    assert torch.equal(truncated_normal(u, LOWER[near], UPPER[near], branch=True), z[:, near])
    wide = UPPER - LOWER > 1e-6
    share = log_interval(LOWER.expand_as(z)[:, wide], z[:, wide]) - log_interval(LOWER, UPPER)[wide]
    # 200 standard deviations out, one digit of z in the sixteenth place is 1e-12 of the probability.
    torch.testing.assert_close(share.exp(), u.expand_as(share), rtol=0, atol=1e-8)
