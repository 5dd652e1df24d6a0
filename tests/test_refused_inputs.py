"""Data and context that a program does not take end in one sentence, before anything runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen import models
from pyro_gen.data.small import binary_rows, normal_rows

LABELS = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0])


def vae():
    return models.VAE(6, 2, (4,))


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
