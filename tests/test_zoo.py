"""The zoo: recipes are checked when they are read, figures are reproduced, and the README says so."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch

import pyro_gen as pg
from pyro_gen import data, zoo
from pyro_gen.evaluation.baselines import full_gaussian, independent_categorical
from pyro_gen.models import FactorAnalysis, ProbabilisticPCA
from pyro_gen.registry import MEASURES
from pyro_gen.saving import SavedProgram, load_program, save_program
from pyro_gen.targets import build, describe_transform, make_transform, restore_transform, transform_with_ladj

ROOT = Path(__file__).resolve().parents[1]
FAST = (
    "autoregression-nile",
    "change-points-nile",
    "gaussian-iris",
    "gaussian-process-nile",
    "hidden-markov-nile",
    "linear-gaussian-network-iris",
    "local-level-nile",
    "network-asia",
    "network-sachs",
    "ppca-wine",
    "switching-autoregression-nile",
)
WITHOUT_GRADIENTS = (
    "conjugate-diabetes",
    "factor-analysers-wine",
    "gaussian-mixture-iris",
    "kernel-density-breast-cancer",
    "latent-class-digits",
)
SLOW = (
    "absorbing-digits",
    "absorbing-digits-levels",
    "autoencoder-digits",
    "autoregression-sunspots",
    "bernoulli-mixture-digits",
    "bipartite-block-davis",
    "ccvae-digits-100",
    "class-conditional-digits",
    "class-conditional-digits-half",
    "conditional-vae-digits-quarter",
    "continuous-flow-digits-levels",
    "cycle-digits",
    "dcgan-digits",
    "dcgan-digits-labels",
    "ddpm-ring",
    "deep-belief-digits",
    "deep-boltzmann-digits",
    "deep-exponential-family-digits",
    "deep-markov-beacon",
    "delta-vae-digits",
    "degree-corrected-les-miserables",
    "dirichlet-process-iris",
    "discrete-digits",
    "discrete-digits-relaxed",
    "energy-digits",
    "energy-moons",
    "fa-breast-cancer",
    "gan-grid",
    "gan-ring",
    "gaussian-graphical-wine",
    "glow-digits-levels",
    "glow-digits-variational",
    "hierarchical-schools",
    "hierarchical-vae-digits",
    "horseshoe-breast-cancer",
    "iaf-moons",
    "ising-digits",
    "iwae-digits",
    "joint-energy-digits",
    "kernel-density-digits-levels",
    "kernel-density-digits-shared",
    "latent-position-les-miserables",
    "latent-diffusion-digits",
    "lda-docstrings",
    "linear-diabetes",
    "logistic-breast-cancer",
    "m2-digits-100",
    "made-digits",
    "maf-moons",
    "markov-field-digits",
    "nade-digits",
    "negative-binomial-diabetes",
    "nested-block-les-miserables",
    "network-insurance",
    "neural-spline-moons",
    "ordinal-diabetes",
    "pixel-cnn-digits",
    "pixel-cnn-digits-levels",
    "pixel-rnn-digits",
    "pixel-vae-digits",
    "pixel-vae-digits-levels",
    "pixel-vae-digits-rate",
    "poisson-diabetes",
    "potts-digits",
    "prod-lda-docstrings",
    "rbm-digits",
    "rbm-digits-128",
    "real-nvp-moons",
    "residual-flow-digits-levels",
    "robust-diabetes",
    "score-sde-ring",
    "sparse-gaussian-process-diabetes",
    "stochastic-block-les-miserables",
    "structural-co2",
    "style-digits",
    "switching-level-nile",
    "transformer-digits",
    "vae-digits",
    "vae-digits-autoregressive",
    "vae-digits-conv",
    "vae-digits-flow",
    "vae-digits-full-covariance",
    "vae-digits-levels",
    "vae-digits-mixture",
    "vae-digits-spline",
    "vae-digits-vamp",
    "variational-rnn-beacon",
    "vdm-digits",
    "vq-digits",
    "wavenet-digits",
)
ELSEWHERE = (  # minutes to hours, and data that may not be there
    "hierarchical-mnist",
    "hierarchical-mnist-short",
    "iwae-mnist",
    "made-mnist",
    "made-mnist-short",
    "pixel-cnn-mnist",
    "pixel-cnn-mnist-short",
    "vae-mnist",
    "vae-mnist-iaf",
    "vae-mnist-iaf-short",
    "vae-mnist-short",
)

RECIPE = """
title = "a"
[program]
model = "VAE"
latent = 2
[data]
name = "digits"
transform = ["binarize=8"]
[training]
epochs = 1
objective = { name = "IWAE", num_particles = 2 }
[figure]
measure = "log_likelihood"
options = { method = "ais" }
at_least = -30.0
source = "b"
"""


# ----------------------------------------------------------------------------------------------------------------------
# Recipes


def test_every_entry_is_read_and_tested_somewhere() -> None:
    assert set(zoo.names()) == {*FAST, *WITHOUT_GRADIENTS, *SLOW, *ELSEWHERE}
    for name in zoo.names():
        entry = zoo.load(name)
        assert entry.name == name
        assert entry.figure.source


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "a"', 'title = "a"\ncolour = "red"', "no key 'colour'"),
        ('title = "a"', "", "needs the key 'title'"),
        ('title = "a"', "title = ", "recipe x: "),
        ('"VAE"', '"VEA"', "no model 'VEA'"),
        ('"digits"', '"didgits"', "no data set 'didgits'"),
        ("binarize=8", "binarise=8", "no transform 'binarise'"),
        ("binarize=8", "binarize=eight", "arguments are numbers"),
        ("epochs = 1", "epoch = 1", "no key 'epoch'"),
        ("epochs = 1", "seed = 1", "no key 'seed'"),
        ('"IWAE"', '"IWEA"', "no objective 'IWEA'"),
        ("num_particles = 2", "num_particles = 0", "num_particles=0"),
        ("num_particles = 2", "particles = 2", "particles"),
        ('"log_likelihood"', '"log_likelyhood"', "no measure 'log_likelyhood'"),
        ("at_least = -30.0", "at_most = -30.0", "wrong side: higher log_likelihood is better"),
        ("at_least = -30.0", "", "one of at_least"),
        ("at_least = -30.0", "at_least = -30.0\nat_most = 0.0", "one of at_least"),
        ("at_least = -30.0", "equals = -30.0", "positive tolerance"),
        ("at_least = -30.0", "at_lest = -30.0", "no key 'at_lest'"),
        ('"digits"', '"digits"\nform = "labeled"', "no form 'labeled'"),
        ('"digits"', '"digits"\ngroup = "county"', 'go with form = "outcome"'),
        ("latent = 2", 'latent = 2\nprior = { model = "Gausian" }', "no model 'Gausian'"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(old: str, new: str, complaint: str) -> None:
    assert zoo.Entry.parse("x", RECIPE).model == "VAE"  # without the mistake
    assert old in RECIPE
    with pytest.raises(ValueError, match=r"recipe x: ") as error:
        zoo.Entry.parse("x", RECIPE.replace(old, new, 1))
    assert complaint in str(error.value)


def test_an_argument_that_the_model_does_not_have_is_named() -> None:
    text = RECIPE.replace('"VAE"\nlatent = 2', '"Gaussian"\ncovarience = "full"')
    with pytest.raises(ValueError, match="Gaussian has no argument 'covarience': choose from covariance"):
        zoo.Entry.parse("x", text)


def test_the_minutes_of_a_recipe_are_those_of_its_stored_run() -> None:
    for name, result in zoo.stored().items():
        minutes, taken = zoo.load(name).minutes, result["seconds"] / 60
        assert taken < 1 or minutes / 5 < taken < 5 * minutes, (name, minutes, taken)  # other work makes it slower


def test_unknown_entries_and_missing_data_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYRO_GEN_DATA", raising=False)
    with pytest.raises(ValueError, match=r"no entry 'vae-digit' \(did you mean 'vae-digits'\?\); there are"):
        zoo.load("vae-digit")
    with pytest.raises(ValueError, match="vae-mnist needs mnist"):
        zoo.prepare(zoo.load("vae-mnist"))


@pytest.mark.parametrize(
    ("measure", "bound", "inside", "outside"),
    [
        ("log_likelihood", {"at_least": -3.0}, -2.9, -3.1),
        ("bits_per_dim", {"at_most": 2.0}, 1.9, 2.1),
        ("log_likelihood", {"equals": 1.0, "tolerance": 0.1}, 1.09, 1.11),
        ("perplexity", {"equals": 1.0, "tolerance": 0.1}, 0.91, 0.89),
    ],
)
def test_a_figure_holds_on_its_side_only(measure: str, bound: dict[str, float], inside: float, outside: float) -> None:
    figure = zoo.Figure(measure, "s", **bound)
    assert figure.holds(inside) and not figure.holds(outside) and not figure.holds(float("nan"))


# ----------------------------------------------------------------------------------------------------------------------
# Data


def test_a_drawing_transform_gives_training_fresh_draws_and_the_test_data_one() -> None:
    entry = zoo.Entry.parse("x", RECIPE.replace('"binarize=8"', '"dynamic_binarize"'))
    one, two = zoo.prepare(entry), zoo.prepare(entry)
    grey = data.load("digits")
    assert torch.equal(one.train, grey.train)  # the draws are made in training
    assert one.fit_transform == data.DynamicBinarize(17)
    assert torch.equal(one.test, two.test)
    assert set(one.test.unique().tolist()) == {0.0, 1.0}
    assert one.log_abs_det_jacobian is None


def test_training_can_have_a_transform_of_its_own() -> None:
    entry = zoo.Entry.parse("x", RECIPE.replace("epochs = 1", 'epochs = 1\ntransform = ["dynamic_binarize"]'))
    prepared = zoo.prepare(entry)
    assert prepared.fit_transform == data.DynamicBinarize(17)
    assert torch.equal(prepared.test, data.load("digits", transform=data.Binarize(8)).test)


def test_images_given_a_quarter() -> None:
    entry = zoo.Entry.parse("x", RECIPE.replace('["binarize=8"]', '["binarize=8"]\nform = "quarter"'))
    prepared = zoo.prepare(entry)
    whole = data.load("digits", transform=data.Binarize(8))
    quarter = torch.zeros(8, 8, dtype=torch.bool)
    quarter[4:, :4] = True
    for x, (given,), all_of_it in (
        (prepared.train, prepared.context, whole.train),
        (prepared.test, prepared.test_context, whole.test),
    ):
        assert bool((x.isnan() == quarter).all()) and bool((given.isnan() == ~quarter).all())
        assert torch.equal(torch.where(quarter, given, x), all_of_it)
    drawn = zoo.Entry.parse("x", RECIPE.replace('["binarize=8"]', '["dynamic_binarize"]\nform = "quarter"'))
    with pytest.raises(ValueError, match="draws nothing"):
        zoo.prepare(drawn)


def test_a_jacobian_that_depends_on_the_draw_is_that_of_the_test_data() -> None:
    entry = zoo.Entry.parse("x", RECIPE.replace('["binarize=8"]', '["dequantize", "logit=0.05"]'))
    prepared = zoo.prepare(entry)
    s = prepared.test.double().sigmoid()  # known from the transformed data: dy/dx = (1 - 2 alpha) / (17 s (1 - s))
    expected = (0.9 / (17 * s * (1 - s))).log().sum((1, 2))
    assert prepared.log_abs_det_jacobian is not None
    assert torch.allclose(prepared.log_abs_det_jacobian, expected, rtol=1e-4)
    # The defect: the Jacobian of another draw.
    other = transform_with_ladj(make_transform(entry.transform, prepared.train, 17), data.load("digits").test, 1)[1]
    assert other is not None and not torch.isclose(other, expected, rtol=1e-4).any()


def test_moments_and_validation_come_from_the_training_data() -> None:
    entry = zoo.load("gaussian-iris")
    prepared = zoo.prepare(entry)
    assert prepared.train.mean(0).abs().max() < 1e-5
    assert prepared.test.mean(0).abs().max() > 1e-3
    share = dataclasses.replace(entry, training={**entry.training, "validation": 0.25})
    held_out = zoo.prepare(share)
    assert held_out.validation is not None
    assert (len(held_out.train), len(held_out.validation)) == (90, 30)


def test_an_outcome_is_given_its_covariates_and_groups() -> None:
    entry = zoo.load("hierarchical-schools")
    entry = dataclasses.replace(entry, outcome=("standardize",), training={**entry.training, "validation": 0.25})
    prepared, raw = zoo.prepare(entry), data.load("schools")
    intake, school = prepared.context
    assert intake.shape == (1200, 1) and prepared.train.shape == (1200,) and prepared.event_shape == ()
    assert [part.shape for part in prepared.validation] == [(400,), (400, 1), (400,)]
    assert torch.equal(prepared.test_context[1], raw.test[:, 1].long()) and prepared.rows == 400
    both = torch.cat([prepared.train, prepared.validation[0]])
    assert both.mean().abs() < 1e-5 and prepared.test.mean().abs() > 1e-4
    pairs = {tuple(row) for row in torch.stack([prepared.context[0][:, 0], school.float()], 1).tolist()}
    standard = make_transform(entry.transform, raw.train[:, :1])
    whole = raw.train[:, :1] if standard is None else standard(raw.train[:, :1])
    assert pairs <= {tuple(row) for row in torch.cat([whole, raw.train[:, 1:]], 1).tolist()}
    assert prepared.log_abs_det_jacobian is not None
    log_scale = raw.train_target.double().std(correction=0).log().float().double()
    assert torch.allclose(prepared.log_abs_det_jacobian, -log_scale.expand(400), atol=1e-6)


def test_series_are_given_their_steps_and_rows_their_labels() -> None:
    nile = zoo.prepare(zoo.load("gaussian-process-nile"))
    assert nile.context[0].shape == (1, 100, 1) and nile.context[0][0, -1] == 1
    digits = zoo.prepare(zoo.load("class-conditional-digits"))
    assert digits.event_shape == {"x": (64,), "y": ()} and digits.rows == 360
    raw = data.load("digits")
    assert torch.equal(digits.train["x"], raw.train.flatten(1)) and torch.equal(
        digits.test["y"].long(), raw.test_target
    )
    with pytest.raises(ValueError, match="nile has no target"):
        zoo.prepare(dataclasses.replace(zoo.load("gaussian-process-nile"), form="labelled"))
    few = zoo.prepare(dataclasses.replace(zoo.load("class-conditional-digits"), labels_per_class=3))
    known = ~few.train["y"].isnan()
    assert (
        torch.equal(few.train["y"][known].long().bincount(), torch.full((10,), 3)) and not few.test["y"].isnan().any()
    )
    assert torch.equal(few.train["y"][known], digits.train["y"][known])
    with pytest.raises(ValueError, match=r'labels_per_class goes with form = "labelled"'):
        zoo.Entry.parse("x", RECIPE.replace('"digits"', '"digits"\nlabels_per_class = 3', 1))


def test_accuracy_is_the_share_of_labels_that_are_right() -> None:
    text = RECIPE.replace('"digits"\ntransform = ["binarize=8"]', '"iris"\nform = "labelled"')
    text = text.replace(
        '"VAE"\nlatent = 2', '"ClassConditional"\nmixture = { model = "GaussianMixture", components = 3, features = 4 }'
    )
    text = text.replace('"log_likelihood"\noptions = { method = "ais" }', '"accuracy"').replace("-30.0", "0.9")
    entry = zoo.Entry.parse("x", text.replace('objective = { name = "IWAE", num_particles = 2 }', ""))
    prepared = zoo.prepare(entry)
    program = build(entry.model, prepared.event_shape, entry.options)
    program.initialise({"x": prepared.train["x"], "y": prepared.train["y"]})
    found = zoo.measure(entry, program, prepared)
    r = program.mixture.responsibilities(prepared.test["x"]).argmax(1)
    assert found.value == (r == prepared.test["y"]).double().mean().item() and found.value > 0.9
    assert zoo.measure(entry, program, prepared, missing=0.9).value < found.value
    with pytest.raises(ValueError, match="recipe x: accuracy is of data with labels"):
        zoo.measure(entry, program, prepared._replace(test=prepared.test["x"]))


# ----------------------------------------------------------------------------------------------------------------------
# Figures


@pytest.mark.parametrize("name", FAST)
def test_fast_entries_reproduce_their_figure(name: str, untouched_rng: None) -> None:
    found = zoo.reproduce(name, progress=False)
    assert found.holds, str(found)
    assert (found.standard_error, found.kind) == (0.0, "exact")
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.value


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_entries_by_em_and_in_closed_form_reproduce_their_figure(name: str) -> None:
    found = zoo.reproduce(name, progress=False)
    assert found.holds, str(found)


@pytest.mark.parametrize("name", FAST)
def test_a_figure_does_not_hold_without_training(name: str) -> None:
    found = zoo.reproduce(name, progress=False, epochs=1, lr=1e-9)
    assert not found.holds, str(found)


def test_the_figures_that_have_a_closed_form_are_its() -> None:
    for name, closed in (("gaussian-iris", None), ("ppca-wine", 4)):
        entry = zoo.load(name)
        prepared = zoo.prepare(entry)
        if closed is None:
            exact = full_gaussian(prepared.train, prepared.test).mean().item()
        else:
            program = ProbabilisticPCA.from_data(prepared.train, closed)
            exact = zoo.measure(entry, program, prepared).value
        assert entry.figure.equals == pytest.approx(exact, abs=0.007)
    grey = data.load("digits")
    nats = independent_categorical(grey.train, grey.test, 17).mean().item()
    bits = -nats / (64 * torch.tensor(2.0).log().item())
    assert zoo.load("vae-digits-levels").figure.at_most == pytest.approx(bits, abs=0.02)


def test_bits_per_dim_are_those_of_the_data_before_dequantisation() -> None:
    # A standard normal of dequantised grey levels, trained for no time: bits/dim include log 17 per pixel.
    text = RECIPE.replace('"binarize=8"', '"dequantize"').replace(
        '"VAE"\nlatent = 2', '"Gaussian"\ncovariance = "diagonal"'
    )
    text = text.replace('"log_likelihood"', '"bits_per_dim"').replace("at_least = -30.0", "at_most = 9.0")
    entry = zoo.Entry.parse("x", text.replace('objective = { name = "IWAE", num_particles = 2 }', ""))
    prepared = zoo.prepare(entry)
    assert prepared.log_abs_det_jacobian is not None
    flat = prepared._replace(test=prepared.test.flatten(1))
    found = zoo.measure(entry, build("Gaussian", (64,)), flat, method="exact")
    by_hand = (
        0.5 * prepared.test.double().square().sum((1, 2)).mean() / 64 + 0.5 * torch.tensor(2 * torch.pi).log()
    ).item()
    expected = (by_hand + torch.tensor(17.0).log().item()) / torch.tensor(2.0).log().item()
    assert found.value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="recipe x: the transform throws information away"):
        zoo.measure(entry, build("Gaussian", (64,)), flat._replace(log_abs_det_jacobian=None), method="exact")


def test_the_measures_agree_with_the_likelihood_they_come_from() -> None:
    data = zoo.prepare(zoo.load("gaussian-iris"))
    program = build("Gaussian", (4,))
    nats = pg.log_likelihood(program, data.test)
    found = {n: MEASURES[n].function(program, data) for n in ("log_likelihood", "perplexity", "bits_per_dim")}
    assert found["log_likelihood"].value == nats.mean()
    assert found["perplexity"].value == pytest.approx(math.exp(-nats.mean() / 4))
    error = found["perplexity"].value * nats.sampling_error() / 4  # d exp(u) = exp(u) du
    assert found["perplexity"].sampling_error == pytest.approx(error)
    assert found["bits_per_dim"].sampling_error == pytest.approx(nats.sampling_error() / (4 * math.log(2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_entries_reproduce_their_figure(name: str) -> None:
    found = zoo.reproduce(name, progress=False)
    assert found.holds, str(found)


@pytest.mark.slow
def test_the_short_mnist_recipe_reproduces_its_figure(mnist_root: Path) -> None:
    found = zoo.reproduce("vae-mnist-short", data_root=mnist_root, progress=False)
    assert found.holds, str(found)


# ----------------------------------------------------------------------------------------------------------------------
# Stored results


def test_stored_results_belong_to_entries_and_hold() -> None:
    for name, result in zoo.stored().items():
        entry = zoo.load(name)
        assert result["name"] == name
        assert result["figure"] == str(entry.figure), f"the figure of {name} has changed: reproduce it again"
        assert result["holds"] == entry.figure.holds(result["value"])


@pytest.mark.parametrize("page", ["README.md", "docs/zoo.md"])
def test_the_tables_are_those_of_the_stored_results(tmp_path: Path, page: str) -> None:
    copy = tmp_path / "page.md"
    copy.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    assert not zoo.write_tables(copy), f"out of date: pyro-gen zoo table --write {page}"


def test_writing_the_table_changes_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- zoo-table:start -->\nold\n<!-- zoo-table:end -->\nafter\n", encoding="utf-8")
    assert zoo.write_tables(readme)
    assert readme.read_text(encoding="utf-8").startswith("before\n<!-- zoo-table:start -->\n| entry |")
    assert readme.read_text(encoding="utf-8").endswith("|\n<!-- zoo-table:end -->\nafter\n")
    assert not zoo.write_tables(readme)
    readme.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no lines"):
        zoo.write_tables(readme)


# ----------------------------------------------------------------------------------------------------------------------
# Targets and saved programs


def test_transforms_survive_their_description() -> None:
    x = data.load("digits").train
    for specs in (["binarize=8"], ["standardize"], ["dequantize", "logit=0.05"], ["stochastic_binarize=17,3"]):
        varied = x[:, 2:6, 2:6]
        transform = make_transform(specs, varied, 17)
        again = restore_transform(json.loads(json.dumps(describe_transform(transform))))
        assert transform is not None and again is not None
        g1, g2 = (torch.Generator().manual_seed(1) for _ in range(2))
        assert torch.equal(transform(varied, g1), again(varied, g2))
    assert restore_transform(describe_transform(None)) is None


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("binarize", "its arguments are threshold"),
        ("binarize=1,2,3,4,5", "its arguments are threshold"),
        ("standardize=3", "moments"),
        ("dequantize", "how many levels"),
        ("cut", "as cut=4"),
    ],
)
def test_wrong_arguments_of_transforms_are_named(spec: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_transform([spec], torch.rand(5, 2))


def test_a_saved_program_is_the_same_program(tmp_path: Path) -> None:
    x = data.load("iris").train
    program = build("FactorAnalysis", (4,), {"rank": 2}, seed=3)
    save_program(tmp_path / "fa.pt", program, "FactorAnalysis", options={"rank": 2}, transform=data.Standardize.fit(x))
    saved = load_program(tmp_path / "fa.pt")
    assert saved.program.state_dict().keys() == program.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(saved.program.parameters(), program.parameters(), strict=True))
    assert saved.transform is not None
    assert torch.equal(saved.transform(x), data.Standardize.fit(x)(x))


def test_programs_of_functions_and_autoguides_are_saved_too(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import pyro, torch, pyro_gen as pg\n"
        "import pyro.distributions as dist\n"
        "def model(x):\n"
        "    loc = pyro.param('loc', torch.zeros(2))\n"
        "    with pg.plate(x):\n"
        "        return pg.observe('x', dist.Normal(loc, 1.0).to_event(1), x)\n"
        "program = pg.Program.from_functions(model)\n",
        encoding="utf-8",
    )
    program = build(f"{source}").initialise(torch.zeros(3, 2))
    program.event_shape = torch.Size([2])
    with torch.no_grad():
        next(program.parameters()).fill_(5.0)
    save_program(tmp_path / "mine.pt", program, f"{source}")
    assert next(load_program(tmp_path / "mine.pt", trust=True).program.parameters()).tolist() == [5.0, 5.0]
    moved = source.rename(tmp_path / "moved.py")
    with pytest.raises(ValueError, match=r"mine\.py, which is not there now"):
        load_program(tmp_path / "mine.pt")
    assert next(load_program(tmp_path / "mine.pt", target=str(moved)).program.parameters()).tolist() == [5.0, 5.0]


def test_the_description_of_a_saved_program_is_what_it_says(tmp_path: Path) -> None:
    save_program(tmp_path / "g.pt", build("Gaussian", (3,)), "Gaussian", columns=["a", "b", "c"], data="mine.csv")
    description = load_program(tmp_path / "g.pt").description
    listed = str(SavedProgram.__doc__).split("How the program is built: ")[1]
    assert re.findall("``([a-z_]+)``", listed) == list(description)
    assert (description["target"], description["data"]) == ("Gaussian", "mine.csv")


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    torch.save({"state_dict": Payload(), "description": "{}"}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="not a program saved by pyro-gen fit"):
        load_program(tmp_path / "bad.pt")


def test_load_gives_the_program_that_was_saved(tmp_path: Path) -> None:
    program = build("FactorAnalysis", (3,), {"rank": 2}, seed=4)
    save_program(tmp_path / "p.pt", program, "FactorAnalysis", options={"rank": 2})
    loaded = pg.load(tmp_path / "p.pt")
    assert isinstance(loaded, FactorAnalysis) and not loaded.training and loaded.event_shape == (3,)
    assert torch.equal(loaded.loadings, program.loadings)
    assert not torch.equal(build("FactorAnalysis", (3,), {"rank": 2}, seed=5).loadings, program.loadings)
    with pytest.raises(ValueError, match="no such file"):
        pg.load(tmp_path / "q.pt")


def test_standardize_names_the_columns_that_do_not_vary() -> None:
    x = torch.tensor([[1.0, 2.0, torch.nan], [2.0, 2.0, torch.nan], [3.0, torch.nan, torch.nan]])
    for kept, name in (([0, 1], "flat"), ([0, 2], "empty")):
        with pytest.raises(ValueError, match=f"column '{name}' does not vary"):
            make_transform(["standardize"], x[:, kept], columns=["a", name])
    assert make_transform(["standardize"], x[:, :1], columns=["a"]) is not None
