"""Log Z against closed forms, quadrature and enumeration, and the likelihoods that it gives."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.inference.likelihood import partition
from pyro_gen.inference.likelihood.weights import effective_sample_size
from tests.inference.test_unnormalised import STATES, Blocked, Ising, Modes, Shifted, Tilted, bonds

NAN = math.nan


class Quadratic(pg.Program):
    """N(0, I) in two dimensions weighed by exp(-x'Ax / 2 + b'x)."""

    event_shape = torch.Size([2])
    A = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    b = torch.tensor([1.5, -1.0])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pg.observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("energy", -0.5 * ((x @ self.A) * x).sum(-1) + x @ self.b)
            return x

    def log_z(self) -> float:
        precision = self.A + torch.eye(2)
        return float(-0.5 * torch.logdet(precision) + 0.5 * self.b @ torch.linalg.solve(precision, self.b))


class Banana(pg.Program):
    """N(0, I) weighed by exp(-(x_2 + x_1^2 - 1)^2 / (2 * 0.3^2))."""

    event_shape = torch.Size([2])

    def energy(self, x: Tensor) -> Tensor:
        return (x[..., 1] + x[..., 0].square() - 1).square() / (2 * 0.3**2)

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("energy", -self.energy(x))
            return x

    def log_z(self) -> float:
        grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)
        x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
        log_p = dist.Normal(0.0, 1.0).log_prob(x).sum(-1) - self.energy(x)
        return float(log_p.flatten().logsumexp(0) + 2 * math.log(16 / 2000))


@pytest.mark.parametrize("make", [Quadratic, Banana])
def test_log_z_on_the_plane(make: type[Quadratic | Banana]) -> None:
    program = make()
    found = pg.log_partition(program)
    assert abs(found.mean() - program.log_z()) < 4 * found.mean_standard_error()  # false alarms: 6e-5
    assert found.mean_standard_error() < 0.02
    assert abs(float(found.diagnostics["gap"])) < 0.05
    assert bool((found.diagnostics["ess"] > 500) & (found.diagnostics["ess_back"] > 500))
    assert "log Z" in str(found) and found.unit == "nats"


@pytest.mark.slow
@pytest.mark.parametrize("make", [Quadratic, Banana])
def test_the_error_of_log_z_is_its_error(make: type[Quadratic | Banana]) -> None:
    """The squares of 20 standardised errors sum to a chi-square, or less where the error is cautious (false alarms
    1e-4). The twin is an error of a third of the size.
    """
    program, exact = make(), make().log_z()
    found = [pg.log_partition(program, seed=seed, chains=256) for seed in range(20)]
    total = sum(((f.mean() - exact) / f.mean_standard_error()) ** 2 for f in found)
    bound = stats.chi2.isf(1e-4, 20)
    assert total < bound < 9 * total


def test_twin_whose_chains_back_start_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the least weight are no draws of the density, which shows in the gap."""
    monkeypatch.setattr(partition, "MOVES", 0)
    monkeypatch.setattr(partition, "FLOOR", 0.0)
    monkeypatch.setattr(partition, "FEWEST", 0.0)
    monkeypatch.setattr(partition, "resample", lambda log_w, draws: log_w.argsort(0)[: len(log_w) // 8].repeat(8, 1))
    found = pg.log_partition(Banana(), temperatures=6)
    assert abs(float(found.diagnostics["gap"])) > 0.05


def test_spins_by_chains_and_by_enumeration() -> None:
    expected = float(bonds(STATES).double().logsumexp(0)) - 9 * math.log(2)
    exact = pg.log_partition(Ising())
    assert exact.kind == "exact" and abs(exact.mean() - expected) < 1e-5
    for program in (Ising(), Blocked()):
        found = pg.log_partition(program, method="ais", chains=256)
        assert abs(found.mean() - expected) < 4 * found.mean_standard_error()  # false alarms: 6e-5
        assert abs(float(found.diagnostics["gap"])) < 5 * found.mean_standard_error()


def test_each_row_of_the_context_has_its_constant() -> None:
    c = torch.tensor([0.0, 1.0, -2.0])
    found = pg.log_partition(Shifted(), c, chains=256)
    assert found.unit == "nats per row"
    assert bool(((found.value - c.square() / 2).abs() < 4.5 * found.standard_error + 1e-6).all())  # false alarms: 2e-5


def test_the_likelihood_is_the_normalised_density() -> None:
    x = torch.tensor([2.0, 3.5, 4.0])
    found = pg.log_likelihood(Tilted(), x)
    error = found.value - dist.Normal(3.0, 1.0).log_prob(x)
    assert bool((error.abs() < 4.5 * found.standard_error).all())  # one constant for all: false alarms 7e-6
    assert torch.allclose(error, error[:1].expand(3), atol=1e-5)
    # Its error does not average out over the data.
    assert math.isclose(found.mean_standard_error(), float(found.standard_error[0]), rel_tol=1e-6)
    # It lies between bounds, the lower one by the upper one of log Z.
    log_z = pg.log_partition(Tilted(), seed=1)  # the same draws
    log_p = dist.Normal(0.0, 1.0).log_prob(x).double() + 3 * x
    assert found.kind == "sandwich" and found.lower is not None and found.upper is not None
    assert torch.allclose(found.lower, log_p - log_z.upper) and torch.allclose(found.upper, log_p - log_z.lower)
    assert f"in [{found.lower.mean():.3f}, {found.upper.mean():.3f}]" in str(found)


def test_the_likelihood_of_seen_spins_is_exact() -> None:
    x = torch.full((2, 3, 3), NAN)
    x[0, 0] = 1.0
    x[1] = STATES[77]
    found = pg.log_likelihood(Ising(), x)
    weights = bonds(STATES).double().softmax(0)
    expected = torch.stack([weights[(STATES[:, 0] == 1).all(1)].sum(), weights[77]]).log()
    assert found.kind == "exact" and torch.allclose(found.value, expected, atol=1e-5)


def test_few_effective_chains_are_refused() -> None:
    class Needle(Modes):
        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                x = pg.observe("x", dist.Normal(torch.zeros(1), 3.0).to_event(1), x)
                pyro.factor("needle", -5e5 * (x.squeeze(1) - 4).square())
                return x

    with pytest.raises(ValueError, match=r"of 1024 chains only \d+\.\d count by their weights, and at least 51 are to"):
        pg.log_partition(Needle(), temperatures=2)
    # A spread of 0 for all but one, which is 3 nats above: of few chains as many must count.
    log_w = torch.zeros(32, 1)
    log_w[0] = 3.0
    with pytest.raises(ValueError, match=r"at least 16 are to.*more temperatures="):
        partition._refuse_few(effective_sample_size(log_w), 32)
    partition._refuse_few(effective_sample_size(torch.zeros(32, 1)), 32)
    with pytest.raises(ValueError, match="for 1 of 2 rows"):
        partition._refuse_few(torch.tensor([math.nan, 30.0]), 32)


class Pairs(pg.Program):
    """Two coins that may not both be heads: Z = 3 / 4."""

    event_shape = torch.Size([2])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), x)
            pyro.factor("apart", torch.where(x.sum(1) > 1, -math.inf, 0.0))
            return x


def test_forbidden_values_are_in_both_directions() -> None:
    """Chains back never see what is forbidden. The twin is the bound without the share of chains that live."""
    found = pg.log_partition(Pairs(), method="ais", temperatures=8)
    assert found.upper is not None
    assert abs(found.mean() - math.log(0.75)) < 4 * found.mean_standard_error()  # false alarms: 6e-5
    assert abs(float(found.upper) - math.log(0.75)) < 0.1  # the twin is off by -log(3 / 4) = 0.29


def test_discrete_entries_take_a_kernel() -> None:
    """That of the test's own, in the place of Gibbs sampling entry by entry."""
    Blocked.calls = 0
    found = pg.log_partition(Ising(), method="ais", chains=256, kernel=Blocked().kernel)
    assert Blocked.calls > 30
    assert abs(found.mean() - pg.log_partition(Ising()).mean()) < 4 * found.mean_standard_error()  # false alarms: 6e-5
    assert "effective sample size" in str(found) and "of 256" in str(found)


def test_what_has_no_constant_is_refused() -> None:
    class Plain(pg.Program):
        event_shape = torch.Size([])

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return pg.observe("x", dist.Normal(0.0, 1.0), x)

    with pytest.raises(ValueError, match=r"Plain is exact \(no latent variable\): its densities are normalised"):
        pg.log_partition(Plain())
    with pytest.raises(ValueError, match='choose "auto", "exact" or "ais"'):
        pg.log_partition(Tilted(), method="smc")
    with pytest.raises(ValueError, match=r'use method="ais"'):
        pg.log_partition(Tilted(), method="exact")


def test_several_variables_have_one_constant() -> None:
    class Two(pg.Program):
        """N(0, 1) twice, weighed by exp(a b / 2): Z = (1 - 1/4)^(-1/2)."""

        event_shape = {"a": torch.Size([1]), "b": torch.Size([])}  # noqa: RUF012

        def model(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
            with self.plate(x["b"]):
                a = pg.observe("a", dist.Normal(torch.zeros(1), 1.0).to_event(1), x["a"])
                b = pg.observe("b", dist.Normal(0.0, 1.0), x["b"])
                pyro.factor("energy", a[:, 0] * b / 2)
                return {"a": a, "b": b}

    found = pg.log_partition(Two())
    assert abs(found.mean() + 0.5 * math.log(0.75)) < 4 * found.mean_standard_error()  # false alarms: 6e-5


def test_a_kernel_tempers_measurements_beside_the_factor() -> None:
    """Two spins, a measurement of their sum and a factor: the chains' log Z is that of the sum over the spins."""

    class Measured(pg.Program):
        event_shape = torch.Size([2])

        def model(self, x: Tensor, y: Tensor) -> Tensor:
            with self.plate(x):
                x = pg.observe("x", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), x)
                pg.observe("y", dist.Normal(3 * x.sum(-1), 1.0), y)
                pyro.factor("bond", x.prod(-1))
                return x

        def kernel(self, x: Tensor, missing: Tensor, beta: float, y: Tensor) -> Tensor:
            for j in range(2):
                up, down = (torch.cat([x[..., :j], 0 * x[..., :1] + v, x[..., j + 1 :]], -1) for v in (1.0, 0.0))
                up_by = [dist.Normal(3 * v.sum(-1), 1.0).log_prob(y) + v.prod(-1) for v in (up, down)]
                chance = (beta * (up_by[0] - up_by[1])).sigmoid()
                x = torch.where((torch.rand_like(chance) < chance).unsqueeze(-1), up, down)
            return x

    y = torch.tensor([5.5])
    exact = pg.log_partition(Measured(), y, method="exact")
    found = pg.log_partition(Measured(), y, method="ais", seed=0)
    # Five standard errors: a false alarm in 10^6; the measurement left out is 2.1 nats off.
    assert abs(found.mean() - exact.mean()) < 5 * found.mean_standard_error() < 0.5
