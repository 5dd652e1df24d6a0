"""Programs of several variables: a mapping or a tuple of tensors goes through every public function."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import Dataset

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference.guides import Flow, guide_of, laplace
from pyro_gen.inference.objectives import ELBO
from pyro_gen.packing import PackedProgram
from pyro_gen.saving import load_program, save_program
from pyro_gen.variables import Variables

K, N = 3, 40
NAN = math.nan


class Classes(pg.Program):
    """y ~ Categorical, a | y ~ N(m_y, I), b | a ~ N(w a, s)."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.tensor([0.2, -0.3, 0.5]))
        self.means = nn.Parameter(torch.randn(K, 2, generator=g))
        self.weights = nn.Parameter(torch.tensor([1.0, -0.5]))

    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(logits=self.logits), x["y"])
            a = pg.observe("a", dist.Normal(self.means[y.long()], 1.0).to_event(1), x["a"])
            pg.observe("b", dist.Normal((a * self.weights).sum(-1), 0.5), x["b"])


class ClassesOfRows(Classes):
    """The same, written for one tensor with columns y, a, b."""

    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(logits=self.logits), x[:, 0])
            a = pg.observe("a", dist.Normal(self.means[y.long()], 1.0).to_event(1), x[:, 1:3])
            b = pg.observe("b", dist.Normal((a * self.weights).sum(-1), 0.5), x[:, 3])
        return torch.cat([y[..., None], a, b[..., None]], -1)


def rows(seed=1, n=N):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, K, (n,), generator=g)
    a = Classes().means.detach()[y] + torch.randn(n, 2, generator=g)
    return {"y": y, "a": a, "b": a @ torch.tensor([1.0, -0.5]) + 0.5 * torch.randn(n, generator=g)}


def holed(x):
    """Every other label is missing, and some of b."""
    y, b = x["y"].to(x["a"].dtype).clone(), x["b"].clone()
    y[::2], b[::3] = NAN, NAN
    return {"y": y, "a": x["a"], "b": b}


def log_joint(program, x):
    """log p(y = k, a, b) of each datum, (N, K), by hand."""
    a, b = x["a"].unsqueeze(1), x["b"]
    likelihood = dist.Normal(program.means, 1.0).log_prob(a).sum(-1)
    other = dist.Normal(x["a"] @ program.weights, 0.5).log_prob(b.nan_to_num()).where(~b.isnan(), 0.0)
    return program.logits.log_softmax(-1) + likelihood + other.unsqueeze(-1)


# ----------------------------------------------------------------------------------------------------------------------
# Labels that are missing are summed out


def test_a_missing_label_is_summed_out_of_the_likelihood_and_its_posterior_is_that_of_enumeration():
    program, x = Classes().double(), {name: part.double() for name, part in rows().items()}
    known = log_joint(program, x)
    seen = pg.log_likelihood(program, x)
    torch.testing.assert_close(seen.value, known.gather(1, x["y"].long()[:, None])[:, 0], rtol=0, atol=1e-9)
    none = {**x, "y": torch.full((N,), NAN)}
    found = pg.log_likelihood(program, none)
    assert found.kind == "exact"
    torch.testing.assert_close(found.value, known.logsumexp(1), rtol=0, atol=1e-9)
    expected = known.softmax(1)
    draws = pg.posterior(program, none, draws=1000, chains=4, progress=False).posterior["y.missing"].values
    for k in range(K):  # 40 x 3 frequencies of 4,000 independent draws: beyond 4.9 standard errors once in 1e4 tries
        share = torch.tensor((draws == k).mean((0, 1)))
        error = (expected[:, k] * (1 - expected[:, k]) / 4000).sqrt() + 1e-9
        assert ((share - expected[:, k]).abs() / error).max() < 4.9


def test_the_elbo_of_minibatches_with_some_labels_is_the_exact_sum():
    program, x = Classes().double(), holed({name: part.double() for name, part in rows().items()})
    known = log_joint(program, x)
    label = x["y"].nan_to_num().long()[:, None]
    exact = torch.where(x["y"].isnan(), known.logsumexp(1), known.gather(1, label)[:, 0])
    loss = ELBO().loss(program, x)
    torch.testing.assert_close(loss, -exact.sum(), rtol=1e-9, atol=0)
    expected = torch.autograd.grad(-exact.sum(), list(program.parameters()))
    for found, gradient in zip(torch.autograd.grad(loss, list(program.parameters())), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-9)
    result = pg.fit(program, x, epochs=1, batch_size=N, lr=1e-12, progress=False)
    assert result.mode == "traced" and abs(result.history[0]["train_loss"] + exact.mean().item()) < 1e-6
    small = pg.fit(program, x, epochs=1, batch_size=8, lr=1e-12, progress=False)  # five batches of 8
    assert abs(small.history[0]["train_loss"] + exact.mean().item()) < 1e-6


def test_a_label_filled_in_place_of_summed_out_gives_another_likelihood():
    class Filled(Classes):
        def model(self, x):
            return super().model({**x, "y": x["y"].nan_to_num()})

    x = holed(rows())
    gap = pg.log_likelihood(Filled(), x).value - pg.log_likelihood(Classes(), x).value
    assert gap[x["y"].isnan()].mean() < -1
    assert "missing_exact" in {result.name for result in pg.check_program(Filled(), rows()).failures}


def test_labels_and_other_entries_are_imputed_from_their_conditional():
    program, x = Classes(), holed(rows())
    completed = pg.impute(program, x, draws=1000, seed=3)
    assert isinstance(completed, dict) and {n: tuple(v.shape) for n, v in completed.items()} == {
        "y": (1000, N), "a": (1000, N, 2), "b": (1000, N)
    }  # fmt: skip
    for name, part in x.items():
        seen = ~part.isnan()
        assert (completed[name][:, seen] == part[seen]).all() and not completed[name].isnan().any()
    lost = x["y"].isnan()
    expected = log_joint(program, x).softmax(1)[lost].detach()
    for k in range(K):  # 60 frequencies, some of them small: beyond 6 standard errors once in 1e4 tries
        share = (completed["y"][:, lost] == k).double().mean(0)
        assert ((share - expected[:, k]).abs() / (expected[:, k] * (1 - expected[:, k]) / 1000).sqrt()).max() < 6
    lost = x["b"].isnan()
    mean = completed["b"][:, lost].mean(0)
    assert ((mean - (x["a"] @ program.weights)[lost]).abs() / (0.5 / 1000**0.5)).max() < 4.9


# ----------------------------------------------------------------------------------------------------------------------
# A program of several variables is the program of one tensor


def test_training_equals_that_of_the_program_written_for_one_tensor(tmp_path):
    x = holed(rows())
    table = torch.cat([x["y"][:, None], x["a"], x["b"][:, None]], 1)
    options = {"epochs": 4, "batch_size": 16, "lr": 0.05, "progress": False}
    several, one = Classes(), ClassesOfRows()
    result = pg.fit(several, x, validation=x, checkpoint=tmp_path / "a.pt", **options)
    pg.fit(one, table, validation=table, **options)
    assert result.program is several and type(several) is Classes
    for name, value in one.state_dict().items():
        assert torch.equal(several.state_dict()[name], value), name
    state = torch.load(tmp_path / "a.pt", weights_only=False)
    assert set(state["module"]) == {f"program.{name}" for name in several.state_dict()}
    assert several.event_shape == {"y": torch.Size([]), "a": torch.Size([2]), "b": torch.Size([])}
    torch.testing.assert_close(pg.log_likelihood(several, x).value, pg.log_likelihood(one, table).value)


def test_a_run_is_resumed(tmp_path):
    x, options = holed(rows()), {"batch_size": 16, "lr": 0.05, "progress": False}
    whole, halves = Classes(), Classes()
    pg.fit(whole, x, epochs=4, **options)
    path = tmp_path / "run.pt"
    pg.fit(halves, x, epochs=2, checkpoint=path, **options)
    again = Classes()
    pg.fit(again, x, epochs=4, checkpoint=path, resume=True, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_saved_file_knows_the_variables(tmp_path):
    program = Classes()
    pg.fit(program, rows(), epochs=1, progress=False)
    save_program(tmp_path / "p.pt", program, f"{__file__}:Classes")
    again = load_program(tmp_path / "p.pt", Classes).program
    assert again.event_shape == program.event_shape
    for name, part in pg.sample(program, 5).items():
        assert torch.equal(part, pg.sample(again, 5)[name])


def test_generated_data_have_the_moments_of_the_program():
    program = Classes()
    program.event_shape = {"y": (), "a": (2,), "b": ()}
    x = pg.sample(program, 20_000, seed=1)
    probabilities = program.logits.softmax(-1).detach()
    share = torch.stack([(x["y"] == k).double().mean() for k in range(K)])
    assert ((share - probabilities).abs() / (probabilities * (1 - probabilities) / 20_000).sqrt()).max() < 4.5
    residual = x["b"] - x["a"] @ program.weights.detach()
    assert abs(residual.std().item() - 0.5) < 5 * 0.5 / (2 * 20_000) ** 0.5
    for k in range(K):
        own = x["a"][x["y"] == k]
        assert ((own.mean(0) - program.means[k].detach()).abs() * len(own) ** 0.5).max() < 4.5


class Views(pg.Program):
    """z ~ N(0, I), two views of it that are linear in z; the data are a tuple."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.first, self.second = (nn.Parameter(torch.randn(2, d, generator=g)) for d in (3, 2))
        self.encoder = nn.Linear(5, 2)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            one = pg.observe("one", dist.Normal(z @ self.first, 1.0).to_event(1), x[0])
            return one, pg.observe("two", dist.Normal(z @ self.second, 1.0).to_event(1), x[1])

    def guide(self, x):
        with self.plate(x):
            loc = self.encoder(torch.cat([x[0].nan_to_num(), x[1].nan_to_num()], -1))
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))

    def covariance(self):
        loadings = torch.cat([self.first, self.second], 1).detach()
        return loadings.T @ loadings + torch.eye(5)


def pair(n=30):
    g = torch.Generator().manual_seed(2)
    return torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g)


def test_one_view_is_imputed_from_the_other_and_scored_exactly():
    program, (one, two) = Views(), pair(6)
    covariance = program.covariance()
    marginal = torch.distributions.MultivariateNormal(torch.zeros(3), covariance[:3, :3])
    data = (one, torch.full_like(two, NAN))
    found = pg.log_likelihood(program, data, method="iwae", num_particles=5_000)
    assert ((found.value - marginal.log_prob(one)).abs() / found.standard_error).max() < 5
    completed = pg.impute(program, data, draws=500, num_proposals=1000)
    assert isinstance(completed, tuple) and completed[1].shape == (500, 6, 2)
    expected = one @ torch.linalg.solve(covariance[:3, :3], covariance[:3, 3:])
    # Draws resampled from 1,000 proposals are worth a hundred and more: 5 of their standard errors are 0.6.
    assert (completed[1].mean(0) - expected).abs().max() < 0.6
    assert pg.reconstruct(program, data)[1].shape == (6, 2)


def test_fit_takes_a_tuple_of_variables_as_the_first_element():
    program = Views()
    result = pg.fit(program, (pair(),), validation=(pair(10),), epochs=2, progress=False)
    assert program.event_shape == (torch.Size([3]), torch.Size([2])) and len(result.history) == 2
    assert [part.shape for part in pg.sample(program, 4)] == [torch.Size([4, 3]), torch.Size([4, 2])]
    assert pg.bdmc(program, 20, chains=4, temperatures=50).value.shape == (20,)
    assert pg.sbc(program, pair(4), simulations=20, draws=7, method="guide").draws == 7
    report = pg.check_guide(program, pair(10), draws=200)
    assert report.khat.shape == (10,)


def test_posteriors_of_both_views_equal_that_of_one_tensor():
    program, data = Views(), pair(4)
    target = density(program, *(data,))
    assert target.dim == 2 and target.batch_shape == (4,)
    found = pg.posterior(program, data, chains=64, draws=200, progress=False, compile="off")
    joined = torch.cat(data, 1)
    loadings = torch.cat([program.first, program.second], 1).detach()
    precision = torch.eye(2) + loadings @ loadings.T
    mean = torch.linalg.solve(precision, loadings @ joined.T).T
    assert abs(found.posterior["z"].mean(("chain", "draw")).values - mean.numpy()).max() < 0.05
    assert set(found.observed_data) == {"one", "two"}


def test_global_latent_variables_context_and_autoguides():
    def model(x, t):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pg.plate(x):
            pg.observe("a", dist.Normal(slope * t, 1.0), x["a"])
            pg.observe("b", dist.Normal(slope * t, 0.5), x["b"])

    t = torch.linspace(-1, 1, 20)
    x = {"a": 2 * t, "b": torch.where(t > 0, NAN, 2 * t)}
    precision = 1 + t.square().sum() + 4 * t[t <= 0].square().sum()
    mean = ((2 * t.square()).sum() + 4 * 2 * t[t <= 0].square().sum()) / precision
    program = laplace(pg.Program.from_functions(model), x, t)
    assert abs(guide_of(program).loc.item() - mean) < 1e-4
    evidence = pg.log_evidence(program, x, t, method="importance", num_particles=4000)
    smc = pg.log_evidence(program, x, t)
    assert abs(evidence.mean() - smc.mean()) < 0.1
    trained = pg.Program.from_functions(model, AutoNormal)
    pg.fit(trained, (x, t), epochs=400, batch_size=20, lr=0.05, schedule="cosine", progress=False)
    drawn = pg.impute(trained, x, t, draws=500)
    assert drawn["b"].shape == (500, 20) and (drawn["a"] == x["a"]).all()
    assert abs(drawn["b"][:, -1].mean() - mean) < 0.2
    flow = pg.with_guide(pg.Program.from_functions(model), Flow("affine", layers=1))
    pg.fit(flow, (x, t), epochs=2, batch_size=20, progress=False)
    assert flow.event_shape == {"a": torch.Size([]), "b": torch.Size([])}


def test_plain_functions_predictions_and_the_posterior_of_labels():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pg.plate(x):
            pg.observe("a", dist.Normal(mean, 1.0), x["a"])
            pg.observe("b", dist.Normal(mean, 1.0), x["b"])

    x = {"a": torch.linspace(-1, 2, 5), "b": torch.full((5,), NAN)}
    draws = {"mean": torch.full((200,), 0.5)}
    predicted = pg.predict(model, x, posterior=draws, draws=2000)
    assert predicted["b"].shape == (2000, 5) and (predicted["a"] == x["a"]).all()
    assert abs(predicted["b"].mean() - 0.5) < 5 / 10_000**0.5
    found = pg.log_likelihood(model, x, posterior=draws)
    torch.testing.assert_close(found.value.float(), dist.Normal(0.5, 1.0).log_prob(x["a"]))
    assert pg.impute(model, x, draws=10)["b"].shape == (10, 5)
    program, data = Classes(), holed(rows())
    lost = data["y"].isnan()
    probabilities = pg.latents(program, data)["y"].probabilities
    torch.testing.assert_close(
        probabilities[lost].float(), log_joint(program, data).softmax(1)[lost], atol=1e-5, rtol=0
    )
    assert (probabilities[~lost].argmax(1) == data["y"][~lost]).all()


# ----------------------------------------------------------------------------------------------------------------------
# Data sets and transforms


class Items(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x["y"])

    def __getitem__(self, i):
        return {name: part[i] for name, part in self.x.items()}


def test_a_data_set_of_mappings_trains_as_the_mapping():
    x, options = holed(rows()), {"epochs": 2, "batch_size": 16, "lr": 0.05, "progress": False}
    one, other = Classes(), Classes()
    pg.fit(one, x, **options)
    pg.fit(other, Items(x), **options)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_transforms_of_some_variables_and_of_all():
    x, options = rows(), {"epochs": 1, "batch_size": N, "lr": 1e-9, "progress": False}
    plain = pg.fit(Classes(), {**x, "b": 2 * x["b"]}, **options).history[0]["train_loss"]
    one = pg.fit(Classes(), x, transform={"b": lambda b: 2 * b}, **options).history[0]["train_loss"]
    all_ = pg.fit(Classes(), x, transform=lambda x: {**x, "b": 2 * x["b"]}, **options).history[0]["train_loss"]
    assert abs(one - plain) < 1e-5 and abs(all_ - plain) < 1e-5
    with pytest.raises(ValueError, match="no variable 'c'"):
        pg.fit(Classes(), x, transform={"c": torch.exp}, **options)


# ----------------------------------------------------------------------------------------------------------------------
# The packed program is the user's own


def packed():
    program = Classes()
    return program, PackedProgram(program, Variables.of(rows()))


def test_parameters_modes_and_names_are_those_of_the_users_program():
    program, seen = packed()
    assert type(seen).__name__ == "Classes" and isinstance(seen, PackedProgram)
    assert list(seen.state_dict()) == list(program.state_dict())
    seen.eval()
    assert not program.training
    seen.double()
    assert program.means.dtype == torch.float64
    clone = copy.deepcopy(seen)
    with torch.no_grad():
        next(clone.parameters()).add_(1)
    assert clone.inner is not program and clone.inner.logits is clone.logits
    assert not torch.equal(program.logits, clone.inner.logits)


def test_closed_forms_and_objectives_are_found():
    class WithMarginal(Views):
        objective = ELBO(num_particles=3)

        def marginal(self):
            covariance = self.covariance()

            def model(x):
                with pg.plate(x):
                    whole = torch.cat([x[0], x[1]], -1)
                    return pg.observe("x", dist.MultivariateNormal(torch.zeros(5), covariance), whole).split([3, 2], -1)

            return pg.Program.from_functions(model)

    program, data = WithMarginal(), pair(5)
    found = pg.log_likelihood(program, data)
    expected = torch.distributions.MultivariateNormal(torch.zeros(5), program.covariance())
    assert found.kind == "exact"
    torch.testing.assert_close(found.value.float(), expected.log_prob(torch.cat(data, 1)))
    assert PackedProgram(program, Variables.of(data)).objective.num_particles == 3


def test_values_are_found_by_site_by_name_and_by_what_is_returned():
    def by_name(x):
        with pg.plate(x):
            pg.observe("a", dist.Normal(0.0, 1.0), x["a"] * 1)

    def returned(x):
        with pg.plate(x):
            steps = [pg.observe(f"step {t}", dist.Normal(0.0, 1.0), x["a"][:, t]) for t in range(2)]
        return {"a": torch.stack(steps, -1)}

    for model, a in ((by_name, torch.tensor([NAN, 1.0])), (returned, torch.tensor([[NAN, 1.0], [2.0, NAN]]))):
        completed = pg.impute(pg.Program.from_functions(model), {"a": a}, draws=3)["a"]
        assert completed.shape == (3, *a.shape) and not completed.isnan().any()


# ----------------------------------------------------------------------------------------------------------------------
# What is wrong is said by name

TRAINED = {"y": (), "a": (2,), "b": ()}

WRONG = {
    "lengths": ({**rows(), "b": torch.zeros(7)}, "differ in their number of data: 40 of 'y', 40 of 'a', 7 of 'b'"),
    "lacking": ({"y": torch.zeros(3), "a": torch.zeros(3, 2)}, "the data lack 'b'.*give NaN"),
    "unknown": ({**rows(), "c": torch.zeros(N)}, "not 'c'.*context"),
    "shape": ({**rows(), "a": torch.zeros(N, 3)}, r"'a' of Classes has shape \(2,\) per datum.*\(40, 3\)"),
    "tensor": (torch.zeros(3, 4), "several variables, 'y', 'a', 'b': give a mapping"),
    "tuple": ((torch.zeros(3), torch.zeros(3, 2), torch.zeros(3)), "give a mapping"),
    "text": ({1: torch.zeros(3)}, "lack"),
    "empty": ({}, "lack"),
    "large": ({**rows(), "y": torch.full((N,), 2**24 + 1)}, "'y' has whole numbers beyond 16777216"),
    "infinite": ({**rows(), "b": torch.full((N,), math.inf)}, "variable 'b': 40 infinite values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_are_named(name):
    data, message = WRONG[name]
    program = Classes()
    program.event_shape = TRAINED
    for function in (pg.log_likelihood, pg.impute, pg.check_program, lambda p, x: pg.fit(p, x, epochs=1)):
        if name == "tuple" and function not in (pg.log_likelihood, pg.impute, pg.check_program):
            continue  # to fit a tuple is (x, *context)
        with pytest.raises(ValueError, match=message):
            function(program, data)


def test_data_before_any_training_are_looked_at_too():
    with pytest.raises(ValueError, match="empty mapping"):
        pg.fit(Classes(), {})
    with pytest.raises(ValueError, match="The name of a variable is text"):
        pg.fit(Classes(), {1: torch.zeros(3)})
    with pytest.raises(ValueError, match="40 of 'y', 40 of 'a', 7 of 'b'"):
        pg.fit(Classes(), {**rows(), "b": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"one variable, of shape \(3,\) per datum, and was given several \('x'\)"):
        pg.log_likelihood(pg.models.Gaussian(3), {"x": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="does not know the shape of one datum"):
        pg.sample(Classes(), 3)
    with pytest.raises(KeyError, match="no variable 'z', but 'y', 'a'"):
        pg.fit(pg.Program.from_functions(lambda x: x["z"]), {"y": torch.zeros(2), "a": torch.zeros(2)})


def test_a_variable_that_is_not_observed_is_named():
    def model(x):
        with pg.plate(x):
            pg.observe("a", dist.Normal(0.0, 1.0), x["a"])

    with pytest.raises(
        ValueError, match=r"observes variable 'b' nowhere: observe it by pg.observe\('b', ..., x\['b'\]"
    ):
        pg.log_likelihood(pg.Program.from_functions(model), {"a": torch.zeros(2), "b": torch.zeros(2)})


def test_whole_numbers_keep_their_value_and_data_in_double_precision_theirs():
    x = {"y": torch.tensor([0, 2**30]), "t": torch.tensor([1.0, 2.0])}
    assert Variables.of(x).pack(x).dtype == torch.float64
    assert Variables.of(x).unpack(Variables.of(x).pack(x))["y"].tolist() == [0, 2**30]
    small = {**x, "y": torch.tensor([0, 2])}
    assert Variables.of(small).pack(small).dtype == torch.float32
    with pytest.raises(ValueError, match="beyond 9007199254740992"):
        Variables.of({"y": torch.tensor([2**53 + 1])})


def test_warnings_are_those_of_the_line_that_calls():
    def model(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        return x

    with pytest.warns(UserWarning, match="Nothing is observed") as caught:
        pg.posterior(model, torch.zeros(3), chains=2, draws=2, warmup=10, progress=False, predictive=False)
    assert [w.filename for w in caught if "Nothing is" in str(w.message)] == [__file__]


def test_no_warning_and_no_random_number_is_used_up(untouched_rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.log_likelihood(Classes(), holed(rows()), method="iwae", num_particles=20)
