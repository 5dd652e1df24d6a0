import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_gen import models
from pyro_gen.inference import proposals
from pyro_gen.inference.likelihood import enumeration, exact
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA
from pyro_gen.observation import observe
from pyro_gen.program import Program


class MeanField(ProbabilisticPCA):
    """PPCA with a guide that ignores the correlations of its posterior."""

    def guide(self, x):
        with self.plate(x):
            posterior = self._posterior(x)
            pyro.sample("z", dist.Normal(posterior.loc, posterior.variance.sqrt()).to_event(1))


class Sequential(MeanField):
    """The same guide, in two sites."""

    def model(self, x):
        with self.plate(x):
            a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z = torch.cat([a, b], -1)
            return observe("x", dist.Normal(z @ self.loadings.T + self.loc, self.log_scale.exp()).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            q = self._posterior(x)
            scale = q.variance.sqrt()
            pyro.sample("a", dist.Normal(q.loc[:, :1], scale[:, :1]).to_event(1))
            pyro.sample("b", dist.Normal(q.loc[:, 1:], scale[:, 1:]).to_event(1))


@pytest.fixture
def data():
    x = torch.randn(50, 3) @ torch.randn(3, 20) + 0.5 * torch.randn(50, 20)
    x[::2, :10] = torch.nan
    return x


@pytest.fixture
def program(data):
    program = MeanField(20, 3)
    with torch.no_grad():
        program.loadings.normal_()
        program.log_scale.fill_(-0.5)
    return program


def test_bounds_rise_with_k_and_stay_below_exact(program, data, untouched_rng):
    exact = log_likelihood(program, data)
    assert exact.method == "exact" and exact.kind == "exact" and exact.mean_standard_error() == 0
    assert exact.event_dims == 15.0  # seen entries
    gaps = []
    for seed, k in enumerate((1, 10, 100, 2000)):
        result = log_likelihood(program, data, method="iwae" if k > 1 else "elbo", num_particles=k, seed=seed)
        gaps.append(exact.mean() - result.mean())
        if k > 1:  # 4 standard errors: false-alarm rate 3e-5 each
            assert gaps[-1] > -4 * result.mean_standard_error()
    assert gaps[0] > gaps[1] > gaps[2] > 0 and abs(gaps[3]) < 0.02
    # The twin: the bound of another, better, program crosses the exact value of this one.
    program.log_scale.data -= 0.1
    other = log_likelihood(program, data, method="iwae", num_particles=2000)
    program.log_scale.data += 0.1
    assert abs(other.mean() - exact.mean()) > 4 * other.mean_standard_error()


def test_elbo_against_closed_form(program, data):
    # E_q log p(x, z) - E_q log q = log p(x) - KL(q, posterior), the latter between Gaussians.
    q = program._posterior(data)
    field = dist.Normal(q.loc, q.variance.sqrt()).to_event(1)
    diagonal = dist.MultivariateNormal(q.loc, torch.diag_embed(field.variance))
    expected = log_likelihood(program, data).value - torch.distributions.kl_divergence(diagonal, q)
    result = log_likelihood(program, data, method="elbo", num_particles=500)
    z = (result.mean() - expected.mean().item()) / result.mean_standard_error()
    assert abs(z) < 4  # false-alarm rate 6e-5
    assert 0.5 < ((result.value - expected) / result.standard_error).square().mean() < 1.8  # errors are honest


def test_jackknife_error_is_the_spread_over_seeds(program, data):
    runs = [log_likelihood(program, data, method="iwae", num_particles=50, seed=s) for s in range(100)]
    spread = torch.stack([r.value for r in runs]).var(0)
    stated = torch.stack([r.standard_error for r in runs]).square().mean(0)
    assert 0.7 < (stated / spread).median() < 1.4


def test_two_site_guide_is_the_same_guide(program, data):
    other = Sequential(20, 3)
    other.load_state_dict(program.state_dict())
    a = log_likelihood(program, data, method="iwae", num_particles=500)
    b = log_likelihood(other, data, method="iwae", num_particles=500)
    difference = (a.value - b.value) / (a.standard_error**2 + b.standard_error**2).sqrt()
    assert difference.abs().max() < 5.5  # 50 of them: false-alarm rate 2e-6 if normal


def test_chunks_do_not_matter(program, data, monkeypatch):
    whole = log_likelihood(program, data, method="iwae", num_particles=4000)
    monkeypatch.setattr(proposals, "rows_per_chunk", lambda entries, device: 300)
    parts = log_likelihood(program, data, method="iwae", num_particles=4000)
    difference = (whole.value - parts.value) / (whole.standard_error**2 + parts.standard_error**2).sqrt()
    assert difference.abs().max() < 5.5 and not torch.equal(whole.value, parts.value)
    exact_value = log_likelihood(program, data)
    monkeypatch.setattr(exact, "rows_per_chunk", lambda entries, device: 7)
    torch.testing.assert_close(log_likelihood(program, data).value, exact_value.value)


def test_reproducible(program, data, untouched_rng):
    first = log_likelihood(program, data, method="iwae", num_particles=20, seed=3)
    again = log_likelihood(program, data, method="iwae", num_particles=20, seed=3)
    other = log_likelihood(program, data, method="iwae", num_particles=20, seed=4)
    assert torch.equal(first.value, again.value) and not torch.equal(first.value, other.value)


def test_discrete_latents():
    class Mixture(Program):
        loc = torch.tensor([-2.0, 0.0, 3.0])

        def model(self, x):
            with self.plate(x):
                k = pyro.sample("k", dist.Categorical(torch.ones(3)))
                return observe("x", dist.Normal(self.loc[k], 1.0), x)

        def guide(self, x):
            with self.plate(x):
                pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))

    x = torch.randn(20)
    exact = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Normal(Mixture.loc, 1.0)).log_prob(x)
    result = log_likelihood(Mixture(), x, method="iwae", num_particles=5000)
    assert ((result.value - exact) / result.standard_error).abs().max() < 5


def test_model_that_cannot_be_vectorised():
    class Branch(Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                return observe("x", dist.Normal(z if z.sum() < 1e9 else -z, 1.0), x)

        def guide(self, x):
            with self.plate(x):
                pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(5)
    with pytest.warns(UserWarning, match="particles are evaluated one after another"):
        result = log_likelihood(Branch(), x, method="iwae", num_particles=30)
    torch.testing.assert_close(result.value, dist.Normal(0.0, 2**0.5).log_prob(x).double(), rtol=1e-5, atol=1e-5)


def test_autoguides():
    def model(x):
        from pyro_gen.program import plate

        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            return observe("x", dist.Normal(z, 1.0), x)

    x = torch.randn(30)
    program = Program.from_functions(model, pyro.infer.autoguide.AutoNormal).initialise(x)
    result = log_likelihood(program, x, method="iwae", num_particles=3000)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert abs(result.mean() - exact.mean().item()) < 1.0  # untrained, narrow guide: a loose bound
    with pytest.raises(ValueError, match="parameters for 30 data"):
        log_likelihood(program, x[:7], method="iwae")


def test_refusals(program, data):
    with pytest.raises(ValueError, match="choose one of"):
        log_likelihood(program, data, method="guess")
    with pytest.raises(ValueError, match="the empty shape"):
        log_likelihood(program, data[:0])
    with pytest.raises(ValueError, match="no particles"):
        log_likelihood(program, data, method="exact", num_particles=3)
    with pytest.raises(ValueError, match="option 'chains'"):
        log_likelihood(program, data, method="iwae", chains=3)
    with pytest.raises(ValueError, match="positive"):
        log_likelihood(program, data, method="iwae", num_particles=0)
    with pytest.raises(ValueError, match='method="exact"'):
        log_likelihood(program.marginal(), data, method="iwae")

    class Misses(MeanField):
        def guide(self, x):
            pass

    class Invents(MeanField):
        def guide(self, x):
            with self.plate(x):
                pyro.sample("z", self._posterior(x))
                pyro.sample("extra", dist.Normal(torch.zeros(len(x)), 1.0))

    class Hierarchical(Program):
        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with self.plate(x):
                return observe("x", dist.Normal(w, 1.0), x)

    with pytest.raises(ValueError, match="does not sample the latent variable 'z'"):
        log_likelihood(Misses(20, 3), data, method="iwae")
    with pytest.raises(ValueError, match="'extra'"):
        log_likelihood(Invents(20, 3), data, method="iwae")
    for method in ("iwae", "ais"):
        with pytest.raises(ValueError, match="global latent variable 'w'"):
            log_likelihood(Hierarchical(), torch.randn(4), method=method)
    with pytest.raises(ValueError, match="no closed-form"):
        log_likelihood(_NoMarginal(), torch.randn(4), method="exact")


class _NoMarginal(Program):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            return observe("x", dist.Normal(z, 1.0), x)


class Mixture(Program):
    """What EnumELBO trains: the label is in the model alone."""

    loc = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [3.0, -1.0]])
    chances = torch.tensor([0.5, 0.3, 0.2])

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(self.chances))
            return observe("x", dist.Normal(self.loc[k], 0.7).to_event(1), x)


def mixture_density(x):
    terms = torch.where(
        x.isnan().unsqueeze(1), 0.0, dist.Normal(Mixture.loc, 0.7).log_prob(x.nan_to_num().unsqueeze(1))
    )
    return (terms.sum(-1) + Mixture.chances.log()).logsumexp(-1).double()


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_discrete_latents_are_summed_out(method, monkeypatch, untouched_rng):
    with torch.random.fork_rng():
        x = 2 * torch.randn(40, 2)
    x[::3, 0] = torch.nan
    result = log_likelihood(Mixture(), x, method=method)
    assert result.kind == "exact" and result.mean_standard_error() == 0
    torch.testing.assert_close(result.value, mixture_density(x), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(enumeration, "rows_per_chunk", lambda entries, device: 7)  # chunks of rows and of values
    torch.testing.assert_close(log_likelihood(Mixture(), x).value, result.value)
    # The twin: one value left out.
    monkeypatch.setattr(dist.Categorical, "enumerate_support", lambda self, expand=True: torch.arange(2).unsqueeze(-1))
    with pytest.raises(ValueError, match="do not sum to probability 1"):
        log_likelihood(Mixture(), x)


class Chain(Program):
    """Two labels, the second depending on the first, and two switches in a plate within the datum."""

    table = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    scale = torch.tensor([0.5, 2.0])

    def model(self, x):
        rows = self.plate(x)
        with rows:
            a = pyro.sample("a", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            b = pyro.sample("b", dist.Categorical(self.table[a]))
        with pyro.plate("columns", 2, dim=-2), rows:
            s = pyro.sample("s", dist.Bernoulli(0.3))
        loc = torch.stack([a, b.to(a.dtype)], -1) + 2 * s.movedim(0, -1)
        with rows:
            return observe("x", dist.Normal(loc, self.scale[b].unsqueeze(-1)).to_event(1), x)


def test_joint_values_of_several_sites_against_loops(monkeypatch):
    x = 2 * torch.randn(20, 2)
    terms = []
    for a in range(3):
        for b in range(2):
            for s in ((0, 0), (0, 1), (1, 0), (1, 1)):
                prior = (torch.tensor([0.2, 0.3, 0.5])[a] * Chain.table[a, b]).log()
                prior = prior + dist.Bernoulli(0.3).log_prob(torch.tensor(s).float()).sum()
                loc = torch.tensor([a, b]) + 2.0 * torch.tensor(s)
                terms.append(prior + dist.Normal(loc, Chain.scale[b]).log_prob(x).sum(-1))
    expected = torch.stack(terms).logsumexp(0).double()
    torch.testing.assert_close(log_likelihood(Chain(), x).value, expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(enumeration, "MAX_ASSIGNMENTS", 23)
    with pytest.raises(ValueError, match="24 joint values"):
        log_likelihood(Chain(), x)


def test_advice_names_a_method_that_applies(data):
    x = torch.randn(10, 2)
    for method, words in (("iwae", r'guide that does.* method="exact"'), ("ais", 'method="exact".*, which sums')):
        with pytest.raises(ValueError, match=words):
            log_likelihood(Mixture(), x, method=method, **({"start": "prior"} if method == "ais" else {}))

    class Hierarchical(Program):
        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with self.plate(x):
                return observe("x", dist.Normal(w, 1.0), x)

    for method in ("auto", "exact", "elbo", "iwae", "ais", "bdmc"):
        with pytest.raises(ValueError, match="no likelihood one by one"):
            log_likelihood(Hierarchical(), x[:, 0], method=method)
    with pytest.raises(ValueError, match=r'guide that does.* method="ais", start="prior"'):
        log_likelihood(_NoMarginal(), x[:, 0], method="iwae")


@pytest.mark.parametrize("method", ["elbo", "iwae"])
def test_a_point_gives_no_bound(method):
    def model(x):
        from pyro_gen.program import plate

        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            return observe("x", dist.Normal(z, 1.0), x)

    def guide(x):
        from pyro_gen.program import plate

        with plate(x):
            pyro.sample("z", dist.Delta(x / 2))

    x = torch.randn(12)
    for program in (
        Program.from_functions(model, guide),
        Program.from_functions(model, pyro.infer.autoguide.AutoDelta).initialise(x),
    ):
        with pytest.raises(ValueError, match=r"is a point at 'z'.*method=\"ais\", start=\"prior\""):
            log_likelihood(program, x, method=method)


def test_holes_in_an_observed_context():
    class Pair(Program):
        def model(self, x, y):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                observe("y", dist.Normal(z, 1.0), y)
                return observe("x", dist.Normal(z, 1.0), x)

        def guide(self, x, y):
            with self.plate(x):
                seen = 1.0 + (~y.isnan()).float()
                pyro.sample("z", dist.Normal((x + y.nan_to_num()) / (1 + seen), (1 + seen).rsqrt()))

    x, y = torch.randn(2, 30)
    y[::2] = torch.nan
    pair = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1)
    exact = torch.where(
        y.isnan(), dist.Normal(0.0, 2**0.5).log_prob(x), pair.log_prob(torch.stack([x, y.nan_to_num()], -1))
    ).double()
    iwae = log_likelihood(Pair(), x, y, method="iwae", num_particles=20)  # the guide is the posterior
    torch.testing.assert_close(iwae.value, exact, rtol=1e-4, atol=1e-4)
    assert abs(log_likelihood(Pair(), x, y, method="ais").mean() - exact.mean()) < 0.02


class Waiting(Program):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return observe("x", dist.Exponential(z.exp()), x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("method", ["elbo", "iwae", "ais"])
def test_data_outside_of_the_support_are_named(method):
    with pytest.raises(ValueError, match=r"Site 'x': the value -1 at index \[2\] is outside of the support"):
        log_likelihood(Waiting(), torch.tensor([1.0, torch.nan, -1.0]), method=method)
    assert log_likelihood(Waiting(), torch.tensor([1.0, torch.nan]), method="iwae").value[1].abs() < 1e-6


@pytest.mark.parametrize("method", ["elbo", "iwae", "ais", "bdmc", "smc"])
def test_what_has_nothing_to_draw_is_told_why(method):
    x = torch.zeros(3, 4)
    for program in (models.MADE(4), models.MAF(4), models.Gaussian(4)):
        reason = f'has no latent variable and no entry of these data is missing, so method="{method}" has nothing to '
        with pytest.raises(
            ValueError, match=f'{type(program).__name__} {reason}draw: its likelihood is method="exact"'
        ):
            log_likelihood(program, x, method=method)
    holes = x.index_fill(1, torch.tensor([1]), torch.nan)
    if method == "smc":
        assert log_likelihood(models.MADE(4), holes, method="smc").method == "smc"
    with pytest.raises(ValueError, match=f'Gaussian has no latent variable, so method="{method}" has nothing'):
        log_likelihood(models.Gaussian(4), holes, method=method)
