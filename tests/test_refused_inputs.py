"""Data and context that a program does not take end in one sentence, before anything runs."""

import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen import models
from pyro_gen.data.schema import Schema
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.imputation.completed import Completed
from pyro_gen.registry import MODELS

LABELS = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0])


def vae():
    return models.VAE(6, 2, (4,))


def completed():
    table = np.array([[1.0, 2.0], [2.0, np.nan]])
    schema = Schema.infer(table, {"x0": "real", "x1": "real"})
    cells = torch.tensor([[3.0], [4.0]])
    return Completed.from_cells(cells, np.isnan(table), schema=schema, like=table)


class Unready(pg.Program):
    def __init__(self):
        self.loc = torch.nn.Parameter(torch.zeros(2))


def vectors(x):
    """Two independent variables."""
    loc = pyro.param("loc", torch.zeros(()))
    with pg.plate(x["a"]):
        pg.observe("a", dist.Normal(loc, 1.0), x["a"])
        pg.observe("b", dist.Normal(loc, 1.0), x["b"])


@pytest.mark.parametrize("wrong", [7.0, 0.5, -1.0])
def test_labels_that_are_no_class_are_refused_and_unknown_ones_are_taken(wrong):
    rows, bad = binary_rows(5, 6), LABELS.clone().index_fill(0, torch.tensor([4]), wrong)  # not in the first minibatch
    said = f"has the 3 classes 0, ..., 2, and was given the label {wrong:g}: .*NaN for a label that is not known"
    gan = models.DCGAN((4, 4), 3, (4,), classes=3)
    conditional = models.ConditionalVAE(6, 3, latent=2, hidden=(4,))
    joint = models.SemiSupervisedVAE(6, 3, latent=2, hidden=(4,))
    with pytest.raises(ValueError, match=f"DCGAN {said}"):
        pg.sample(gan, 5, context=(bad,))
    with pytest.raises(ValueError, match=f"ConditionalVAE {said}"):
        pg.log_likelihood(conditional, rows, bad)
    with pytest.raises(ValueError, match=f"ConditionalVAE {said}"):
        pg.fit(conditional, (rows, bad), epochs=1, batch_size=2, progress=False)
    with pytest.raises(ValueError, match=f"SemiSupervisedVAE {said}"):
        pg.fit(joint, {"x": rows, "y": bad}, epochs=1, batch_size=2, progress=False)
    unknown = torch.where(bad == wrong, torch.nan, bad)
    assert pg.sample(gan, 5, context=(unknown,)).isfinite().all()
    for labels in (unknown, LABELS.long(), LABELS > 0):
        conditional.check_inputs(rows, labels)
    joint.check_inputs({"x": rows, "y": unknown})


def test_labels_are_as_many_as_the_data():
    with pytest.raises(
        ValueError, match=r"one context, the label .* each of the 3 data, .*given context of shapes \[\(5"
    ):
        pg.sample(models.DCGAN((4, 4), 3, (4,), classes=3), 3, context=(LABELS,))


def test_a_context_is_refused_where_none_is_taken_and_asked_for_where_one_is():
    rows, beside = binary_rows(5, 6), normal_rows(5, 2)
    said = "VAE was given 1 context beside the data and takes none: .* are one mapping"
    for verb in (pg.log_likelihood, pg.impute, pg.latents):
        with pytest.raises(ValueError, match=said):
            verb(vae(), rows, beside)
    with pytest.raises(ValueError, match=said):
        pg.fit(vae(), (rows, beside), epochs=1, progress=False)
    in_training = r"data and context are one tuple in training, fit\(program, \(x, context\)\)"
    for context, named in (((beside,), {}), ((), {"context": beside})):
        with pytest.raises(TypeError, match=in_training):
            pg.fit(models.MAF(6, context=2), normal_rows(5, 6), *context, epochs=1, progress=False, **named)
    with pytest.raises(ValueError, match=said):
        pg.sample(pg.with_noise(vae(), 0.1), 5, context=(beside,))
    with pytest.raises(ValueError, match="ConditionalVAE is conditional on c, and was given no context"):
        pg.sample(models.ConditionalVAE(6, 3, latent=2, hidden=(4,)), 5)
    for program in (models.MAF(6, context=2), models.EnergyBased(6, (4,), context=2)):
        program.check_inputs(rows, beside)
        with pytest.raises(ValueError, match=r"context=2\) is conditional on 2 numbers a row, and was given none"):
            program.check_inputs(rows)
        with pytest.raises(ValueError, match=r"and was given 4: .*, or make it with context=4"):
            program.check_inputs(rows, beside, beside)
    with pytest.raises(ValueError, match=r"MADE is conditional on its context, and was given NaN .*index \[0, 0\]"):
        pg.log_likelihood(models.MADE(6, context=2), rows, torch.full((5, 2), torch.nan))


def test_a_function_says_by_its_arguments_what_it_is_conditional_on():
    def regression(y, u):
        with pg.plate(y):
            return pg.observe("y", dist.Normal(u, 1.0), y)

    program = pg.Program.from_functions(regression)
    assert pg.log_likelihood(program, torch.zeros(3), torch.zeros(3)).value.shape == (3,)
    with pytest.raises(ValueError, match="conditional on u"):
        pg.log_likelihood(program, torch.zeros(3))
    with pytest.raises(ValueError, match=r"given 2 context .* takes at most 1 \(u\)"):
        pg.log_likelihood(program, torch.zeros(3), torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((5, 4), r"\(5, 4\)\."), ((5, 2, 3), r"x.reshape\(5, 6\)"), ((6,), r"one datum give x\[None\]")],
)
def test_data_of_another_shape_are_refused_by_every_verb(shape, advice):
    x = torch.ones(shape)
    for verb in (pg.log_likelihood, pg.impute, pg.latents, pg.reconstruct):
        with pytest.raises(ValueError, match=rf"VAE takes data of shape \(N, 6\), and was given .*{advice}"):
            verb(vae(), x)
    with pytest.raises(ValueError, match=r"takes data of shape \(N, 6\)"):
        pg.fit(vae(), x, epochs=1, progress=False)


def test_sequences_have_any_length_and_a_shape_that_was_found_in_data_binds_nothing():
    hmm = models.HiddenMarkov((5, 2), 2)
    hmm.check_inputs(normal_rows(3, 7, 2))
    with pytest.raises(ValueError, match=r"takes data of shape \(N, T, 2\), and was given \(3, 7\)"):
        hmm.check_inputs(normal_rows(3, 7))

    def steps(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(loc.expand(x.shape[1]), 1.0).to_event(1), x)

    program = pg.fit(pg.Program.from_functions(steps), normal_rows(4, 3), epochs=1, progress=False).program
    assert program.event_shape == (3,) and pg.log_likelihood(program, normal_rows(2, 9)).value.shape == (2,)


def test_options_that_the_method_chosen_does_not_take_are_refused():
    x = normal_rows(4, 3)
    for program in (models.Gaussian(3), models.FactorAnalysis(3, 1)):
        said = f'"auto"\\) of {type(program).__name__} is method="exact", which has no'
        with pytest.raises(ValueError, match=f"{said} option 'temperatures'"):
            pg.log_likelihood(program, x, temperatures=5)
        with pytest.raises(ValueError, match=f"{said} particles"):
            pg.log_likelihood(program, x, num_particles=5)
    with pytest.raises(ValueError, match='of DDPM is method="elbo", which has no option'):
        pg.log_likelihood(models.DDPM(3, steps=3), x, temperatures=5)
    holes = torch.where(torch.arange(3) == 0, torch.nan, x)
    with pytest.raises(ValueError, match=r'Missing entries of ScoreSDE .*: use method="smc"'):
        pg.log_likelihood(models.ScoreSDE(3), holes, method="exact")


def test_steps_of_a_chain_are_checked_when_they_are_set():
    for chain in (models.DDPM(3), models.ScoreSDE(3), models.DDIM(models.DDPM(3))):
        with pytest.raises(ValueError, match=f"{type(chain).__name__}\\(steps=0\\): give a positive integer"):
            chain.steps = 0


def test_what_is_advised_for_missing_entries_is_for_the_programs_of_the_objective():
    holes = torch.where(torch.arange(3) == 0, torch.nan, normal_rows(4, 3))
    for program, objective, way in (
        (models.GAN((3,)), pg.inference.Adversarial(), "or fill them in by pg.impute"),
        (models.DDPM(3, steps=3), None, "or train a density by ELBO"),
        (models.EnergyBased(3), pg.inference.NoiseContrastive(), "or train an energy by ContrastiveDivergence"),
    ):
        with pytest.raises(ValueError, match=f"is for complete data.*rows that have some, {way}"):
            pg.fit(program, holes, objective=objective, epochs=1, progress=False)


@pytest.mark.parametrize("verb", [pg.sample, pg.log_likelihood, pg.impute, pg.latents, pg.reconstruct, pg.log_evidence])
def test_what_is_no_program_is_refused_in_one_sentence(verb):
    x = binary_rows(5, 6)
    trained = pg.fit(vae(), x, epochs=1, progress=False)
    name = verb.__name__
    for given, said in (
        (models.VAE, f"{name} needs a Program, got the class VAE itself: create an instance, VAE"),
        (trained, f"{name} needs a Program, got FitResult, which has one: give its attribute program"),
        (pg.zoo.load("vae-digits"), f"{name} needs a Program, got Entry: the program comes first, one of pg.models"),
        ("VAE", f"{name} needs a Program, got str: the program comes first"),
    ):
        with pytest.raises(TypeError, match=said):
            verb(given, 3 if verb is pg.sample else x)
    with pytest.raises(ValueError, match=r"FunctionProgram observes nothing, so data have no likelihood: observe them"):
        pg.log_likelihood(lambda x: None, x)


@pytest.mark.parametrize("seed", [-1, 1.5, None, "a", True, 2**63])
def test_seeds_are_integers_of_0_or_more(seed):
    x = normal_rows(4, 3)
    holes = torch.where(x > 1e3, x, torch.nan)
    for call in (
        lambda: pg.fit(models.Gaussian(3), x, epochs=1, seed=seed, progress=False),
        lambda: pg.sample(models.Gaussian(3), 2, seed=seed),
        lambda: pg.impute(models.Gaussian(3), holes, draws=2, seed=seed),
    ):
        with pytest.raises(ValueError, match=rf"seed={re.escape(repr(seed))}: give an integer of 0 or more"):
            call()
    assert pg.sample(models.Gaussian(3), 2, seed=np.int64(3)).equal(pg.sample(models.Gaussian(3), 2, seed=3))


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_counts_are_positive_integers(count):
    x, shown = binary_rows(4, 6), re.escape(repr(count))
    with pytest.raises(ValueError, match=rf"The number of data to generate is {shown}: give a positive integer"):
        pg.sample(vae(), count)
    for name, call in (
        ("impute(draws", lambda: pg.impute(vae(), x, draws=count)),
        ("reconstruct(draws", lambda: pg.reconstruct(vae(), x, draws=count)),
        ("log_likelihood(num_particles", lambda: pg.log_likelihood(vae(), x, method="iwae", num_particles=count)),
    ):
        with pytest.raises(ValueError, match=rf"{re.escape(name)}={shown}\): give a positive integer"):
            call()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": "0.1"}, 'lr="0.1": give a number'),
        ({"kl_warmup": "3"}, 'kl_warmup="3": give a number'),
        ({"clip_norm": "1"}, 'clip_norm="1": give a number'),
        ({"weight_decay": "0.1"}, 'weight_decay="0.1": give a number'),
        ({"fill_missing": "mean"}, 'fill_missing="mean": give a number'),
        ({"transform": "binarize=8"}, r"transform='binarize=8': give a function of data, .* pg.data.Binarize\(8\)"),
        ({"transform": pg.data.Binarize}, r"transform=Binarize: .* or an instance, pg.data.Binarize\(8\)"),
        ({"accelerator": "gpux"}, r"fit\(accelerator='gpux', .* does not suit this machine: .* on cpu"),
        ({"objective": pg.inference.IWAE}, "give an objective such as"),
        ({"devices": 0}, r"fit\(accelerator='cpu', devices=0, .* does not suit this machine"),
    ],
)
def test_settings_of_a_wrong_type_are_refused_in_one_sentence(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        pg.fit(vae(), binary_rows(5, 6), epochs=1, progress=False, **options)


@pytest.mark.parametrize("program", [models.Gaussian(2), pg.Program.from_functions(vectors)], ids=["tensor", "mapping"])
def test_data_of_which_nothing_was_observed_are_refused_and_a_row_of_them_is_taken(program):
    x = normal_rows(6, 2)
    x[1], nothing = torch.nan, torch.full((6, 2), torch.nan)
    wrapped = (lambda x: x) if isinstance(program, models.Gaussian) else (lambda x: {"a": x[:, 0], "b": x[:, 1]})
    pg.fit(program, wrapped(x), epochs=1, batch_size=2, progress=False)
    for data, validation, said in ((nothing, x, "data"), (x, nothing, "validation")):
        with pytest.raises(ValueError, match=f"fit: nothing is observed in {said}: all 6 rows are NaN throughout"):
            pg.fit(program, wrapped(data), validation=wrapped(validation), epochs=1, batch_size=2, progress=False)


@pytest.mark.parametrize("verb", [pg.sample, pg.fit, pg.impute, pg.log_likelihood, pg.latents, pg.check_program])
def test_arguments_that_are_left_out_are_named(verb):
    with pytest.raises(TypeError, match=rf"{verb.__name__}\(\) missing .*'program'"):
        verb()
    with pytest.raises(TypeError, match=rf"{verb.__name__}\(\) missing 1 required positional argument: '(x|n|data)'"):
        verb(program=vae())


def test_sparse_data_are_refused():
    with pytest.raises(TypeError, match=r"expected a dense tensor, got a sparse one: give x.to_dense\(\)"):
        pg.fit(models.Gaussian(3), normal_rows(4, 3).to_sparse(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pg.zoo.prepare("vae-digits"), r"an entry of the zoo is needed, and 'vae-digits' is none: give .*load"),
        (lambda: pg.zoo.train("vae-digits", None), "an entry of the zoo is needed, and 'vae-digits' is none"),
        (lambda: pg.compare([vae()], binary_rows(4, 6)), r"compare\(list\): give models by name"),
        (lambda: pg.data.load("digits", transform="binarize=8"), "transform='binarize=8': give a function of data"),
        (lambda: models.VAE(6, latents=2), "unexpected keyword argument 'latents': .* 'bernoulli' has no options"),
        (lambda: models.VAE(6, likelihood="categorical", level=3), "'level': .* 'categorical' has the options levels"),
        (lambda: models.Gaussian("3"), r"Gaussian\(event_shape='3'\): give a positive integer"),
        (lambda: models.Gaussian(0), r"Gaussian\(event_shape=0\): give a positive integer"),
        (lambda: pg.inference.IWAE(1.5), "num_particles=1.5: at least one particle is needed, a whole number"),
        (lambda: pg.fit(models.Gaussian(2), [[1, 2], [3]]), "x: rows of different lengths, 2 in row 1 and 1 in row 2"),
        (
            lambda: pg.fit(models.RealNVP(2, context=1), (normal_rows(3, 2), [[1], [2, 3], [4]])),
            "context 1: rows of different lengths, 1 in row 1 and 2 in row 2, expected .*: pad shorter ones with NaN",
        ),
        (
            lambda: models.VariationalDequantization(3, 5, torch.nn.Sequential(torch.nn.ReLU())),
            r"VariationalDequantization\(flow=<Sequential>\): give the name of a flow, one of ContinuousFlow, Glow, ",
        ),
        (lambda: models.SemiSupervisedVAE(6, 1), r"SemiSupervisedVAE\(classes=1\): give an integer of 2 or more"),
        (lambda: models.ConditionalVAE(6, 1), r"ConditionalVAE\(given=1\): give an integer of 2 or more"),
        (
            lambda: models.ClassConditional(models.GaussianMixture(3, 1)),
            r"GaussianMixture\(components=1\): give an integer of 2 or more",
        ),
        (lambda: models.Gaussian(torch.nn.Sequential(torch.nn.ReLU())), r"Gaussian\(event_shape=<Sequential>\): give"),
        (lambda: MODELS.find(models.VAE), r"there is no model <class VAE> \(did you mean 'VAE'\?\): choose one of"),
        (
            lambda: pg.Imputer("factor_analysis", options={"rnk": 3}).fit(normal_rows(9, 3)),
            r"Imputer\(method='factor_analysis'\) has no option 'rnk' \(did you mean 'rank'\?\): choose from rank\.",
        ),
        (
            lambda: pg.Imputer("gaussian", options={"rank": 3}).fit(normal_rows(9, 3)),
            r"Imputer\(method='gaussian'\) has no option 'rank': it has none\.",
        ),
        (lambda: pg.Imputer("copul").fit(normal_rows(9, 3)), r"method='copul'\) \(did you mean 'copula'\?\): give"),
        (lambda: pg.Imputer("copula", options="rank=3").fit(normal_rows(9, 3)), r"options='rank=3'\): give a mapping"),
        (lambda: pg.Imputer("copula", schema=["x0"]).fit(normal_rows(9, 3)), r"schema=\['x0'\]\): give a mapping"),
        (
            lambda: pg.Imputer("factor_analysis", options={"rank": "3"}).fit(normal_rows(9, 3)),
            r"TableFactors\(rank='3'\): give a positive integer",
        ),
        (
            lambda: pg.Imputer("mixture", options={"components": 1}).fit(normal_rows(9, 3)),
            r"TableMixture\(components=1\): give an integer of 2 or more",
        ),
        (
            lambda: pg.Imputer().fit("table.csv"),
            "a data frame or an array is needed.* by pandas.read_csv",
        ),
        (
            lambda: pg.Imputer("deep", options={"hidden": 32}).fit(normal_rows(9, 3)),
            r"DeepLatentTable\(hidden=32\): give a sequence",
        ),
        (
            lambda: pg.Imputer("not_miwae", options={"strength": "a"}).fit(normal_rows(9, 3)),
            r"NotMIWAE\(strength='a'\): the scale of a prior is positive",
        ),
        (lambda: completed().delta(5), r"delta\(5\): give a mapping from columns to shifts"),
        (lambda: completed().delta({"x1": "5"}), r"expected for column 'x1' a finite number, .* got '5'"),
        (lambda: completed()["x0"], r"draw 'x0': give the number of a draw, completed\[0\] say"),
        (lambda: completed().fit(None), "The analysis is None: give a function of a completed table"),
        (
            lambda: pg.imputation.report(pd.DataFrame(), "r.html"),
            "what Imputer.impute returns, and was given DataFrame",
        ),
        (lambda: pg.structure.find_clusters("table.csv"), r"Clusters: a data frame or an array is needed"),
        (lambda: pg.structure.find_factors({"a": [1.0, 2.0]}), r"Factors: a data frame or an array is needed"),
        (
            lambda: pg.structure.find_factors(pd.DataFrame({"a": [1, 2], "b": ["1", "x"]})),
            "Factors: column 'b' holds words, 'x' say, and is to hold numbers",
        ),
        (
            lambda: pg.Program.from_functions(vectors, "AutoNormal"),
            r"from_functions\(<function .*, 'AutoNormal'\): give",
        ),
        (lambda: Unready(), r"Unready has no .* yet: call super\(\).__init__\(\) first of all in its"),
        (lambda: pg.sample(vae(), binary_rows(4, 6)), "The number of data to generate is <Tensor>: give a positive"),
        (
            lambda: pg.log_evidence(
                lambda x: pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x),
                torch.tensor(0.5),
                method="bridge",
                leap=3,
            ),
            "the sampler '.*' has no option 'leap': choose from",
        ),
        (lambda: pg.Imputer(time_limit="1h").fit(normal_rows(9, 3)), r"time_limit='1h'\): give a positive number"),
        (lambda: pg.latents(vae(), binary_rows(4, 6), draws=1.5), r"latents\(draws=1.5\): give a positive integer"),
        (
            lambda: pg.log_likelihood(vae(), binary_rows(4, 6), method="ais", chains=1.5),
            r"ais\(chains=1.5\): give a pos",
        ),
        (
            lambda: pg.log_likelihood(vae(), binary_rows(4, 6), method="ais", spread="a"),
            r"ais\(spread='a'\): give a pos",
        ),
    ],
)
def test_other_mistakes_end_in_one_sentence(call, said):
    with pytest.raises((TypeError, ValueError, AttributeError), match=said):
        call()
