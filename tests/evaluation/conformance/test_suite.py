"""The conformance suite lets sound programs pass, and for each check there is a broken program that it catches."""

import functools
import importlib
import pkgutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import pyro_gen as pg
import pyro_gen.evaluation.conformance as conformance
from pyro_gen.evaluation.conformance import CHECKS, Case, Check, check_program, rows, suite
from pyro_gen.program import Program
from tests.evaluation.conformance.broken_programs import (
    AsksTraining,
    Caches,
    ColumnAgainstRow,
    Crashes,
    DecoderBatchNorm,
    DecoderMean,
    EncoderMean,
    ExtraSite,
    FilledData,
    FilledFactor,
    ForeignState,
    ForgottenDropout,
    GlobalFromBatch,
    GlobalPerRow,
    GlobalStore,
    Grey,
    HiddenRandomness,
    HiddenRandomnessGuide,
    InfiniteGradient,
    KnowsVmap,
    LabelNotObserved,
    LabelTwice,
    LatentColumn,
    LeftThere,
    MissesSite,
    NaNEncoder,
    NaNGradient,
    NaNLoss,
    NaNScored,
    NegativeScale,
    NoPlate,
    NormalForPositive,
    NotDeeplyCopied,
    NotNormalised,
    NumPyDraws,
    OtherPlate,
    OtherShape,
    OtherState,
    OwnGame,
    OwnObjective,
    PlainList,
    PythonDraws,
    Rescaled,
    Reseeds,
    ReturnsInput,
    ReturnsNothing,
    Rounded,
    RowParameters,
    ScaledGlobal,
    Stacked,
    StaleFlow,
    SumFactor,
    SumsOverData,
    Unscaled,
    UnscaledGuide,
    Unused,
    WrongSampler,
    ZeroFilled,
)
from tests.evaluation.conformance.sound_programs import (
    HOLES,
    PAIR,
    PAIR_WITH_HOLES,
    VIEWS,
    Bayesian,
    Chain,
    D,
    Energy,
    Enumerated,
    Exact,
    Flow,
    Good,
    Implicit,
    Labelled,
    N,
    Pixels,
    Scalar,
    Whole,
    X,
    data,
    local_function,
    mixed,
    network_function,
    regression,
    views,
)


@functools.cache
def check(create, *args):
    """One report per program and data, whichever test asks."""
    return check_program(create(), *args)


SOUND = {
    "vae": (Good, (X,)),
    "vae, data with holes": (Good, (HOLES,)),
    "vae, 2 rows": (Good, (data(2),)),
    "exact": (Exact, (X,)),
    "functions, AutoNormal": (lambda: Program.from_functions(regression, AutoNormal), (X,)),
    "functions, AutoMultivariateNormal": (
        lambda: Program.from_functions(regression, AutoMultivariateNormal),
        (X,),
    ),
    "functions, initialised": (
        lambda: Program.from_functions(regression, AutoNormal).initialise(data(50)),
        (data(50),),
    ),
    "global and local, context": (Bayesian, (X, torch.arange(float(N)))),
    "scalar data": (Scalar, (torch.tensor([0.0, 1.0, 1.0, 0.0]),)),
    "whole events": (Whole, (data().softmax(-1),)),
    "energy": (Energy, (X,)),
    "implicit": (Implicit, (X,)),
    "flow": (Flow, (X,)),
    "two plates": (Pixels, (X,)),
    "chain": (Chain, (X,)),
    "enumerated mixture": (Enumerated, (X,)),
    "image and label": (Labelled, (PAIR,)),
    "image and label, some unknown": (Labelled, (PAIR_WITH_HOLES,)),
    "two views by functions, context": (lambda: Program.from_functions(views, AutoNormal), (VIEWS, torch.arange(9.0))),
    "BatchNorm in the encoder": (lambda: mixed(nn.BatchNorm1d(6)), (X,)),
    "Dropout in the encoder": (lambda: mixed(nn.Dropout(0.5)), (X,)),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_programs_pass(name):
    create, args = SOUND[name]
    report = check(create, *args)
    report.raise_for_failures()
    assert report.ok and [r.name for r in report] == list(CHECKS)


def test_what_is_skipped_and_remarked():
    skipped = {r.name for r in check(Good, X) if r.status == "skipped"}
    assert skipped == {"objective", "missing_latent"}
    assert {r.name for r in check(Exact, X) if r.status == "skipped"} == {
        "guide_rows", "missing_latent", "objective", "vmap"
    }  # fmt: skip
    report = check(Energy, X)
    assert {r.name for r in report if r.status == "skipped"} == {
        "guide_rows", "missing_density", "missing_exact", "missing_gradients", "missing_completion",
        "missing_latent", "generation", "gradients", "objective", "vmap",
    }  # fmt: skip
    assert all("unnormalised" in report[n].message for n in ("missing_density", "generation", "gradients"))
    assert "whole events" in check_program(Whole(), data().softmax(-1))["missing_density"].message
    assert "BatchNorm1d" in check_program(mixed(nn.BatchNorm1d(6)), data())["train_eval"].message
    assert "coupled" in check_program(mixed(nn.BatchNorm1d(6)), data())["guide_rows"].message
    assert "Dropout" in check_program(mixed(nn.Dropout(0.5)), data())["hidden_randomness"].message
    context = (X, torch.arange(float(N)))
    assert "'k' left to enumeration" in check_program(Bayesian(), *context)["sites"].message


BROKEN = {
    "runs": [(Crashes, X, "no such thing")],
    "sites": [
        (MissesSite, X, "The model samples 'w', the guide does not"),
        (lambda: Program.from_functions(regression), X, "'loc', 'scale'"),
        (ExtraSite, X, "The guide samples 'w'"),
        (OtherShape, X, "'z' has batch and event shape (9,), (2,) in the model, (9,), (3,) in the guide"),
        (OtherPlate, X, "Site 'z'"),
    ],
    "shapes": [
        (ColumnAgainstRow, data()[:, 0], "log-densities of shape (9, 9)"),
        (LatentColumn, data(2), "Site 'z' of the model has log-densities of shape (2, 2)"),
    ],
    "data_plate": [
        (NoPlate, X, "Site 'x' scores data outside"),
        (SumFactor, X, "Site 'x' scores data outside"),
    ],
    "per_datum": [
        (SumsOverData, X, "event shape (9, 4) for 9 rows, (8, 4) for 8: its log-density sums over the data"),
        (NoPlate, X, "sums over the data"),
        (GlobalPerRow, X, "Site 'z' of the model"),
    ],
    "variables": [
        (LabelNotObserved, PAIR, "Variable '1' is never observed"),
        (LabelTwice, PAIR, "Variable '1' is scored more than once, at the sites 'again', 'y'"),
    ],
    "model_rows": [
        (DecoderBatchNorm, X, "in training mode"),
        (DecoderMean, X, "in evaluation mode"),
        (SumsOverData, X, "in evaluation mode"),
    ],
    "guide_rows": [(EncoderMean, X, "Site 'z' of the guide")],
    "minibatch": [
        (Unscaled, X, "is not scaled in a minibatch: 3 of 9 rows should count 3-fold"),
        (UnscaledGuide, X, "Site 'z' of the guide is not scaled"),
        (ScaledGlobal, X, "Site 'w' of the model is scaled like data"),
        (GlobalFromBatch, X, "Site 'w' of the guide is global"),
        (RowParameters, X, "Site 'z' of the guide: the log-density of a row in a minibatch"),
        (NoPlate, X, "Site 'x' of the model is global"),
        (lambda: Program.from_functions(local_function, AutoNormal), X, "parameters for each of 9 rows"),
    ],
    "missing_density": [
        (NaNScored, X, "Site 'x' of the model has log-density nan"),
        (ZeroFilled, X, "log-likelihood"),
        (NaNEncoder, X, "Site 'z' of the guide has log-density nan"),
    ],
    "missing_exact": [
        (LeftThere, X, "With an entry of site 'first' missing"),
        (NotNormalised, X, "With an entry of site 'x' missing"),
    ],
    "missing_gradients": [
        (NaNGradient, X, "Parameter 'factor' has a gradient that is not finite with NaN in x"),
        (NaNScored, X, "The loss is nan with NaN in x, from site 'x' of the model on"),
    ],
    "missing_completion": [
        (Rescaled, X, "entries that were seen"),
        (ReturnsNothing, X, "must return the completed data"),
        (ReturnsInput, X, "returns NaN"),
    ],
    "missing_latent": [
        (FilledFactor, X, "moves by"),
        (FilledData, X, "The completed data lack entries"),
    ],
    "generation": [
        (ReturnsInput, X, "returns NaN"),
        (WrongSampler, data().exp(), "outside of the support"),
    ],
    "hidden_randomness": [
        (HiddenRandomness, X, "Site 'x' of the model"),
        (HiddenRandomnessGuide, X, "Site 'z' of the guide"),
        (ForgottenDropout, X, "Site 'x' of the model"),
    ],
    "same_seed": [
        (NumPyDraws, X, "Site 'z' of the guide draws different values"),
        (PythonDraws, X, "NumPy or random"),
        (Reseeds, X, "reseeds"),
    ],
    "support": [
        (NormalForPositive, X, "The guide draws 'z' from Normal"),
        (Grey, 255 * data().abs(), "outside of the support of Bernoulli"),
        (NegativeScale, X, "Expected parameter scale"),
    ],
    "gradients": [
        (Unused, X, "'forgotten.weight', 'forgotten.bias'"),
        (InfiniteGradient, X, "Parameter 'loc' has a gradient that is not finite"),
        (NaNLoss, X, "from site 'x' of the model"),
    ],
    "objective": [
        (OwnObjective, X, "Squared gives the loss nan with NaN in x"),
        (OwnGame, X, "Game, player 'width', gives the loss nan with NaN in x"),
        (Stacked, X, "stack expects each tensor to be equal size"),
    ],
    "parameters": [
        (GlobalStore, X, "'shift'"),
        (PlainList, X, "2 trainable tensors that are not parameters of the program, of shapes"),
    ],
    "train_eval": [(AsksTraining, X, "Site 'x' of the model")],
    "vmap": [(KnowsVmap, X, "vectorised over 3 chains")],
    "save_load": [
        (ForeignState, X, "Weights only load failed"),
        (Caches, X, "changes none of its log-densities"),
        (NotDeeplyCopied, X, "changes the program itself"),
        (OtherState, X, "the log-density at model x is another"),
        (StaleFlow, X, "the log-density at model x is another"),
        (network_function, X, "does not compute with its own 'params.network.weight', 'params.network.bias'"),
    ],
}


def test_every_check_is_run():
    modules = [
        importlib.import_module(f"{conformance.__name__}.{found.name}")
        for found in pkgutil.iter_modules(conformance.__path__)
    ]
    with_checks = [m for m in modules if any(isinstance(v, Check) for v in vars(m).values())]
    assert {m.__name__ for m in suite.THEMES} == {m.__name__ for m in with_checks}
    assert next(iter(CHECKS)) == "runs" and len(CHECKS) == 24


def test_every_check_has_a_broken_program():
    assert list(CHECKS) == [n for n in CHECKS if BROKEN.get(n)] and set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(c, case, id=f"{c}-{case[0].__name__}") for c in BROKEN for case in BROKEN[c]]
)
def test_broken_programs_are_caught(name, case):
    create, x, message = case
    report = check(create, x)
    assert report[name].status == "failed", report
    assert message in report[name].message
    assert report[name].advice
    assert not report.ok
    with pytest.raises(ValueError, match="fails"):
        report.raise_for_failures()


ALONE = [Unscaled, UnscaledGuide, GlobalStore, Unused, HiddenRandomness, EncoderMean, AsksTraining, NormalForPositive,
         ReturnsNothing, PlainList, Reseeds, InfiniteGradient, KnowsVmap, ForeignState, network_function]  # fmt: skip


CONSEQUENCES = {
    ReturnsNothing: {"generation", "missing_exact"},
    HiddenRandomness: {"minibatch"},
    EncoderMean: {"minibatch", "missing_density"},
    InfiniteGradient: {"missing_gradients"},
}


def test_a_network_in_a_closure_passes():
    assert check(lambda: network_function("network"), X).ok


@pytest.mark.parametrize("create", ALONE)
def test_one_defect_does_not_show_as_others(create):
    expected = {check for check, cases in BROKEN.items() if create in [c[0] for c in cases]}
    expected |= CONSEQUENCES.get(create, set())
    assert {r.name for r in check(create, X).failures} == expected


def test_a_program_that_does_not_run_skips_the_rest():
    report = check(Crashes, X)
    assert [r.name for r in report.failures] == ["runs"]
    assert all(r.status == "skipped" for r in report.results[1:])
    assert "broken_programs.py" in report["runs"].advice


def test_vmap_names_the_line_that_refuses():
    class Branches(Good):
        def likelihood(self, z):
            return dist.Normal(self.decoder(z if z.sum() > 0 else z + 0.0), 1.0).to_event(1)

    result = check_program(Branches(), data())["vmap"]
    assert result.status == "skipped" and "z.sum() > 0" in result.message


def test_vmap_with_holes_in_an_observed_context():
    class Labelled(Program):
        def model(self, x, y):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pg.observe("y", dist.Normal(z, 1.0), y)
                return pg.observe("x", dist.Normal(z.unsqueeze(-1), torch.ones(x.shape[1])).to_event(1), x)

        def guide(self, x, y):
            with self.plate(x):
                pyro.sample("z", dist.Normal(x.nan_to_num().mean(-1), 1.0))

    y = torch.zeros(len(data()))
    y[::2] = torch.nan
    result = check_program(Labelled(), data(), y)["vmap"]
    assert result.status == "passed", result.message


def test_report():
    report = check(Unscaled, X)
    assert "\nFAILED  minibatch" in str(report) and "-> Leave the scaling" in str(report)
    assert str(report).startswith(f"Unscaled: {len(CHECKS) - 3} passed, 1 failed, 2 skipped")
    assert max(map(len, str(report).splitlines())) <= 120
    as_dict = report.to_dict()
    assert as_dict["ok"] is False and len(as_dict["checks"]) == len(report) == len(CHECKS)
    assert as_dict["checks"][0]["status"] == "passed"
    with pytest.raises(KeyError, match="no check named 'other'"):
        report["other"]
    assert "regression, AutoNormal" in check_program(Program.from_functions(regression, AutoNormal), data()).program


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("create", [lambda: mixed(nn.BatchNorm1d(6)), DecoderBatchNorm, GlobalStore])
def test_program_and_store_stay_as_they_are(create):
    with torch.random.fork_rng():
        program = create()
    program.train()
    before = {n: v.clone() for n, v in program.state_dict().items()}
    check_program(program, data())
    assert all(torch.equal(v, before[n]) for n, v in program.state_dict().items())
    assert program.training and all(p.grad is None for p in program.parameters())
    assert len(pyro.get_param_store()) == 0


def test_an_autoguide_survives_the_check():
    program = Program.from_functions(regression, AutoNormal)
    assert check_program(program, data()).ok
    assert not list(program.parameters())  # still to be created, by the user's own data
    program.initialise(data())
    assert len(list(program.parameters())) == 4


def test_same_seed_same_report():
    assert str(check_program(Good(), data(), seed=3)) == str(check_program(Good(), data(), seed=3))


def test_bad_input():
    with pytest.raises(TypeError, match="needs a Program, got Linear"):
        check_program(nn.Linear(1, 1), data())
    with pytest.raises(ValueError, match="text"):
        check_program(Good(), np.array([["a"] * D] * 3))
    with pytest.raises(ValueError, match="at least 2 rows"):
        check_program(Good(), data(1))


def test_rounding_is_no_coupling_of_rows():
    assert check(Rounded, X)["model_rows"].status == "passed"
    for coupled in (1e-2, 1.0):  # the twin: what couples in double precision too, by little and by much
        assert check(lambda coupled=coupled: Rounded(coupled), X)["model_rows"].status == "failed"
    assert rows.exchanged(Case(Rounded(), X, (), 0), "model") is not None  # without the second look


def chain_with_holes(x):
    """A label, then a number at the mean of the label, then one at a multiple of that."""
    scale = pyro.param("scale", torch.ones(3))
    with pg.plate(x):
        label = pg.observe("label", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).expand(len(x), 3)), x[:, 0])
        first = pg.observe("first", dist.Normal(scale[label.long()] * (label - 1.0), 1.0), x[:, 1])
        last = pg.observe("last", dist.Normal(0.5 * first, 0.7), x[:, 2])
        return torch.stack([label, first, last], -1)


def drawn_at_the_prior(x):
    """The same, but a missing label is drawn where it stands, so that what follows is not integrated over it."""
    label = torch.where(x[:, :1].isnan(), torch.randint(3, (len(x), 1)).to(x), x[:, :1])
    return torch.where(x.isnan(), chain_with_holes(torch.cat([label, x[:, 1:]], -1)), x)


def test_data_may_lack_what_feeds_a_later_density():
    nan = torch.nan
    x = torch.tensor([[nan, 1.0, nan], [1.0, nan, 0.4], [2.0, 0.5, nan], [nan, nan, 1.0], [0.0, -1.0, 0.2]])
    report = check_program(Program.from_functions(chain_with_holes), x)
    assert report.ok, str(report)
    exact = next(r for r in report if r.name == "missing_exact")
    assert exact.status == "passed" and "to 1e-05" in exact.message and "quadrature" not in exact.message
    # The twin, with the same holes.
    failures = [r.name for r in check_program(Program.from_functions(drawn_at_the_prior), x).failures]
    assert "missing_exact" in failures
