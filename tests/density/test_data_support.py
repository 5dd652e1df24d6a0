"""All rows of data are asked whether their values have a density, whatever the first rows are."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen import models
from pyro_gen.density import data_support
from pyro_gen.density.data_support import DataSupport

BAD = torch.zeros(300, 4).index_put((torch.tensor([258]), torch.tensor([3])), torch.tensor(2.0))
SAID = r"Site 'x': the value 2 at index \[258, 3\] is outside of the support of {}, which takes 0 and 1: transform"


def fit(program, data, **options):
    return pg.fit(program, data, **{"epochs": 1, "batch_size": 50, "progress": False, **options})


def of(law, **options):
    """A program with one parameter that observes its data under a law of ``law(shift, x)``."""

    def model(x, *context):
        shift = pyro.param("shift", torch.zeros(4))
        with pg.plate(x):
            return pg.observe("x", law(shift, x, *context), x)

    return pg.Program.from_functions(model)


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (lambda: models.VAE(4, 1, (3,)), "Bernoulli"),
        (lambda: models.MADE(4, (3,)), "MaskedEntries"),
        (lambda: models.BernoulliMixture(4, 2), "MixtureSameFamily"),
        (lambda: models.RestrictedBoltzmann(4, 2), "Bernoulli"),
    ],
)
def test_one_value_in_a_late_row_is_refused_by_every_verb(make, law):
    program, said = make(), SAID.format(law)
    with pytest.raises(ValueError, match=said):
        fit(program, BAD)
    with pytest.raises(ValueError, match=said):
        fit(program, BAD[:200], validation=BAD)
    with pytest.raises(ValueError, match=said):
        pg.log_likelihood(program, BAD)
    with pytest.raises(ValueError, match=said):
        pg.impute(program, BAD.index_fill(1, torch.tensor([0]), torch.nan), draws=2)
    if law == "Bernoulli" and "VAE" in type(program).__name__:
        with pytest.raises(ValueError, match=said):
            pg.reconstruct(program, BAD)


def test_without_the_question_it_trains_and_measures(monkeypatch):
    monkeypatch.setattr(DataSupport, "rows_outside", lambda *_: torch.zeros(0))
    monkeypatch.setattr(DataSupport, "check", lambda *_: None)
    assert fit(models.VAE(4, 1, (3,)), BAD).history
    assert fit(models.RestrictedBoltzmann(4, 2), BAD).history
    assert pg.impute(models.VAE(4, 1, (3,)), BAD, draws=2).shape == (2, 300, 4)


def test_events_steps_variables_and_bounds_of_each_column():
    rows = torch.eye(3)[torch.arange(300) % 3]
    one_hot = of(lambda shift, x: dist.OneHotCategorical(logits=shift[:3]))
    fit(one_hot, rows)
    with pytest.raises(ValueError, match=r"the value \[1.0, 1.0, 0.0\] at index \[299\] .* OneHotCategorical"):
        fit(one_hot, torch.cat([rows[:-1], torch.tensor([[1.0, 1.0, 0.0]])]))
    columns = of(lambda shift, x: dist.Binomial(torch.tensor([1.0, 1.0, 1.0, 2.0]), logits=shift).to_event(1))
    fit(columns, BAD)
    with pytest.raises(ValueError, match=r"the value 2 at index \[258, 2\] .* of Binomial"):
        fit(columns, BAD.flip(1).roll(2, 1))
    with pytest.raises(ValueError, match=r"Site 'x_3': the value 2 at index \[258, 0\]"):
        fit(models.VariationalRNN((4, 1), 2, hidden=(3,), likelihood="bernoulli"), BAD.unsqueeze(2))
    both = models.SemiSupervisedVAE(4, 3, latent=1, hidden=(3,))
    with pytest.raises(ValueError, match=SAID.format("Bernoulli")):
        fit(both, {"x": BAD, "y": torch.zeros(300)})


def test_bounds_of_each_row_are_those_of_the_rows_themselves():
    """The first rows have wide bounds, a later one that is wider is right, and one after it is not."""
    trials = torch.tensor([10.0] * 20 + [100.0, 5.0])[:, None].expand(-1, 4)
    program = of(lambda shift, x, n: dist.Binomial(n.contiguous(), logits=shift).to_event(1))
    right = torch.tensor([7.0] * 20 + [50.0, 5.0])[:, None].repeat(1, 4)
    wrong = right.index_put((torch.tensor(21), torch.tensor(2)), torch.tensor(7.0))  # as the first rows may have
    said = (
        r"Site 'x': the value 7 at index \[21, 2\] is outside .* Binomial, which takes integers from 0 to 5: transform"
    )
    for data, context in ((right, trials), (right.flip(0), trials.flip(0))):
        assert pg.log_likelihood(program, data, context).value.isfinite().all()
        fit(program, (data, context), batch_size=4)
    with pytest.raises(ValueError, match=said):
        pg.log_likelihood(program, wrong, trials)
    with pytest.raises(ValueError, match=said):
        pg.impute(program, wrong.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), trials)
    with pytest.raises(ValueError, match="in the model, at site 'x', values are to be within the support of Binomial"):
        fit(program, (wrong, trials), batch_size=4)


@pytest.mark.parametrize(
    "law",
    [
        lambda shift, x: dist.Bernoulli(logits=shift, validate_args=False).to_event(1),  # grey levels
        lambda shift, x: dist.Bernoulli(logits=shift).expand([len(x), 4]).mask(x <= 1).to_event(1),
        lambda shift, x: dist.Binomial(int(x.max()) + 1, logits=shift).to_event(1),  # a bound that is computed
        lambda shift, x: dist.Binomial(1 + x, logits=shift).to_event(1),  # a bound of each row
        lambda shift, x: dist.Poisson(shift.exp()).to_event(1),
    ],
)
def test_what_its_law_takes_is_taken(law):
    with pyro.validation_enabled(False) if "mask" in law.__code__.co_names else pyro.validation_enabled():
        assert fit(of(law), BAD).history
        assert pg.log_likelihood(of(law), BAD).value.shape == (300,)


def test_good_data_cost_no_run_of_the_program(monkeypatch):
    monkeypatch.delattr(data_support, "trace_side")
    assert pg.log_likelihood(models.MADE(4, (3,)), BAD[:200]).value.shape == (200,)
    with pytest.raises(NameError):
        pg.log_likelihood(models.MADE(4, (3,)), BAD)
