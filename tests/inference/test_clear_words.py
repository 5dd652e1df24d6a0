"""Ordinary programs that do not fit a verb: one clear line each, whose advice is taken by the verb that it names."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference.likelihood import enumeration

Y = torch.randn(20, generator=torch.Generator().manual_seed(0)) + 1.0


def holes() -> Tensor:
    y = Y.clone()
    y[3] = torch.nan
    return y


class PerRow(pg.Program):
    """A guide with parameters for each row, as in Pyro's tutorials; the posterior of those rows."""

    event_shape = torch.Size([])

    def __init__(self, rows: int = 20) -> None:
        super().__init__()
        self.loc = nn.Parameter(0.5 * torch.cat([Y.nan_to_num(), torch.zeros(100)])[:rows].clone())

    def model(self, y: Tensor) -> Tensor:
        with self.plate(y):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand(y.shape))
            return pg.observe("y", dist.Normal(z, 1.0), y)

    def guide(self, y: Tensor) -> None:
        with self.plate(y):
            pyro.sample("z", dist.Normal(self.loc, 0.5**0.5))


class PerRowAndGlobal(PerRow):
    def model(self, y: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(y):
            z = pyro.sample("z", dist.Normal(w, 1.0).expand(y.shape))
            return pg.observe("y", dist.Normal(z, 1.0), y)

    def guide(self, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.5, 0.1))
        super().guide(y)


@pytest.mark.filterwarnings("ignore:impute. the guide")
def test_a_guide_with_parameters_for_each_row() -> None:
    # On its own rows it is used, on others what needs no guide is: y | nothing seen is N(0, 2).
    filled = pg.impute(PerRow(), holes(), draws=400)[:, 3]
    assert filled.isfinite().all()
    assert filled.unique().numel() == 400
    fewer = pg.impute(PerRow(), holes()[2:8], draws=400)
    assert abs(float(fewer[:, 1].mean())) < 5 * (2 / 400) ** 0.5  # false alarms: 6e-7
    assert torch.equal(fewer[:, 0], holes()[2].expand(400))
    assert pg.sample(PerRow(), 7).shape == (7,)  # latent variables of the prior: no guide
    with pytest.raises(ValueError, match=r"not amortised: .* does not run on 7 rows"):
        pg.sample(PerRowAndGlobal(), 7)
    assert pg.sample(PerRowAndGlobal(), 20).isfinite().all()
    assert pg.impute(PerRowAndGlobal(), holes(), draws=3).isfinite().all()
    with pytest.raises(ValueError, match=r"not amortised: .* does not run on 6 rows"):
        pg.impute(PerRowAndGlobal(), holes()[2:8], draws=3, method="guide")
    some = pg.impute(PerRowAndGlobal(), holes()[2:8], draws=400, method="auto")[:, 1]
    seen = holes()[2:8][[0, 2, 3, 4, 5]]  # y | w is N(w, 2), so w is N(sum / 7, 2 / 7) and the missing y has its mean
    assert abs(float(some.mean() - seen.sum() / 7)) < 5 * ((2 + 2 / 7) / 400) ** 0.5 < abs(float(seen.sum() / 7)) + 1


def test_minibatches_of_a_guide_with_parameters_for_each_row() -> None:
    with pytest.raises(ValueError, match=r"minibatch of 5 of 20 rows: .* not amortised: give batch_size=20"):
        pg.fit(PerRow(), Y, epochs=1, batch_size=5, progress=False)
    assert pg.fit(PerRow(), Y, epochs=1, batch_size=20, progress=False).steps == 1


def test_a_last_batch_of_one_row_and_batch_norm() -> None:
    class Normed(pg.Program):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

        def guide(self, x: Tensor) -> None:
            with self.plate(x):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    with pytest.raises(ValueError, match="minibatch of 1 of 21 rows is too small for BatchNorm"):
        pg.fit(Normed(), torch.randn(21, 2), epochs=1, batch_size=10, progress=False)
    assert pg.fit(Normed(), torch.randn(21, 2), epochs=1, batch_size=7, progress=False).steps == 3


def test_a_guide_is_no_attribute() -> None:
    class Set(PerRow):
        def __init__(self) -> None:
            super().__init__()
            self.guide = AutoNormal(self.model)  # type: ignore[method-assign,assignment]

    with pytest.raises(ValueError, match=r"self.guide = AutoNormal: guide is a method .* Program.from_functions"):
        Set()
    program = PerRow()
    assert pg.Program.from_functions(program.model, AutoNormal).initialise(Y)  # the advice works


def mean_of_all(y: Tensor) -> Tensor:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(w, 1.0), y)


def local_mean(y: Tensor) -> Tensor:
    with pg.plate(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand(y.shape))
        return pg.observe("y", dist.Normal(z, 1.0), y)


POINTS: list[tuple[Callable[..., Tensor], Callable[[pg.Program], object], Callable[[pg.Program], object]]] = [
    (
        mean_of_all,
        lambda p: pg.posterior(p, Y, method="guide", progress=False),
        lambda p: pg.posterior(p, Y, method="hmc", chains=4, draws=5, warmup=20, progress=False),
    ),
    (
        mean_of_all,
        lambda p: pg.log_evidence(p, Y, method="importance"),
        lambda p: pg.log_evidence(p, Y, method="smc", particles=64, islands=2),
    ),
    (
        local_mean,
        lambda p: pg.log_likelihood(p, Y, method="iwae"),
        lambda p: pg.log_likelihood(p, Y, method="ais", start="prior", chains=4, temperatures=8),
    ),
    (
        local_mean,
        lambda p: pg.impute(p, holes(), method="guide", draws=2),
        lambda p: pg.impute(p, holes(), method="ais", draws=2),
    ),
]


@pytest.mark.parametrize(("model", "refused", "advised"), POINTS, ids=["posterior", "evidence", "likelihood", "impute"])
def test_the_advice_about_a_point_is_taken(
    model: Callable[..., Tensor], refused: Callable[[pg.Program], object], advised: Callable[[pg.Program], object]
) -> None:
    program = pg.Program.from_functions(model, AutoDelta).initialise(Y)
    with pytest.raises(ValueError, match=r"is a point at .*(pg\.posterior|pg\.log_likelihood)"):
        refused(program)
    advised(program)


class Steps(pg.Program):
    """A random walk, observed step by step in any order; the mean of a step is its state."""

    def model(self, x: Tensor) -> Tensor:
        seen = {}
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            for t in (2, 0, 1):
                seen[t] = pg.observe(f"x_{t}", dist.Normal(z[..., t], 1.0), x[:, t])
        return torch.stack([seen[t] for t in range(3)], 1)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Delta(2 * x.nan_to_num()).to_event(1))


def test_what_is_observed_step_by_step_is_reconstructed() -> None:
    x = torch.randn(5, 3)
    x[1, 2] = torch.nan
    torch.testing.assert_close(pg.reconstruct(Steps(), x), 2 * x.nan_to_num())

    class Half(Steps):
        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pg.observe("x_0", dist.Normal(z[..., 0], 1.0), x[:, 0])
            return x

    with pytest.raises(ValueError, match="No observed site of Half has the shape"):
        pg.reconstruct(Half(), x)


class Switches(pg.Program):
    """Four switches, whose number on is seen twice with noise."""

    names = ("a", "b", "c", "d")

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            on = sum(pyro.sample(name, dist.Bernoulli(0.3)) for name in self.names)
            return pg.observe("x", dist.Normal(on.unsqueeze(-1), 1.0).expand([*on.shape, 2]).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            for name in self.names:
                pyro.sample(name, dist.Bernoulli(0.4))


def test_more_joint_values_than_are_summed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb names what it can do, and that gives the number on given 2.5: by enumeration."""
    monkeypatch.setattr(enumeration, "MAX_ASSIGNMENTS", 15)
    x = torch.tensor([[2.5, torch.nan]])
    k = torch.arange(5.0)
    weights = (dist.Binomial(4, 0.3).log_prob(k) + dist.Normal(k, 1.0).log_prob(x[0, 0])).softmax(0)
    mean = float((weights * k).sum())
    sd = float((weights * (k - mean) ** 2).sum()) ** 0.5
    with pytest.raises(ValueError, match=r'16 joint values, .*: sample them by .*blocks=\{"a": "enumerate", ...\}'):
        pg.posterior(Switches(), x, progress=False)
    blocks = dict.fromkeys(Switches.names, "enumerate")
    found = pg.posterior(Switches(), x, method="gibbs", blocks=blocks, draws=20, warmup=10, progress=False)
    on = sum(found.posterior[name].values[..., 0] for name in Switches.names)
    # Standard errors of 64 chains from their own means: a false alarm for 1e-5 of seeds (t with 63 degrees).
    assert abs(on.mean() - mean) < 5 * on.mean(1).std() / 8
    assert abs(on.mean() - 4 * 0.3) > 5 * on.mean(1).std() / 8  # the twin: the prior
    with pytest.raises(ValueError, match=r'16 joint values, .*: give method="guide", with a guide'):
        pg.impute(Switches(), x)
    filled = pg.impute(Switches(), x, draws=1000, method="guide", num_proposals=5000)[:, 0, 1]
    assert abs(float(filled.mean()) - mean) < 5 * ((1 + sd**2) / 1000 + sd**2 / 2000) ** 0.5
    with pytest.raises(ValueError, match=r'16 joint values, .*: use method="iwae"'):
        pg.log_likelihood(Switches(), x, method="exact")
