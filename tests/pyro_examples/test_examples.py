"""Pyro's SVI examples: their statements as they are, losses as Pyro's own, and every verb, or one line why not."""

from typing import Any

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyro_gen as pg
from pyro_gen.inference import ELBO, EnumELBO, Objective, ScoreFunctionELBO
from pyro_gen.plates import DataPlates
from pyro_gen.program import data_size
from tests.pyro_examples.programs import EXAMPLES, VAE, Example


def program_of(example: Example) -> pg.Program:
    torch.manual_seed(0)
    made = example.make()
    return pg.Program.from_functions(*made) if isinstance(made, tuple) else pg.Program.from_functions(made)


def objective_of(name: str) -> Objective:
    if name == "dp_mixture":
        return ScoreFunctionELBO()
    elbo = EXAMPLES[name].elbo
    if isinstance(elbo, TraceEnum_ELBO):
        return EnumELBO(max_plate_nesting=int(elbo.max_plate_nesting))
    return ELBO(analytic_kl=False)


def pyros_loss(name: str, *data: Any) -> float:
    """Of the second run: the first makes the parameters."""
    example = EXAMPLES[name]
    torch.manual_seed(0)
    made = example.make()
    model, guide = made if isinstance(made, tuple) else (made.model, made.guide)
    pyro.clear_param_store()
    torch.manual_seed(1)
    try:
        for seed in (1, 2):
            torch.manual_seed(seed)
            loss = example.elbo.loss(model, guide or (lambda *_: None), *data)
    finally:
        pyro.clear_param_store()
    return float(loss)


def our_loss(name: str, *data: Any) -> float:
    program, objective = program_of(EXAMPLES[name]), objective_of(name)
    for seed in (1, 2):
        torch.manual_seed(seed)
        loss = objective.loss(program, *data)
    return loss.item()


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_loss_is_that_of_pyro(name: str) -> None:
    data = EXAMPLES[name].data
    assert our_loss(name, *data) == pytest.approx(pyros_loss(name, *data), rel=1e-4)


def test_a_minibatch_counts_for_all_data_and_the_twin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x = EXAMPLES["vae"].data[0]
    expected = 2 * pyros_loss("vae", x[:6])
    with data_size(12):
        assert our_loss("vae", x[:6]) == pytest.approx(expected, rel=1e-4)
        monkeypatch.setattr(DataPlates, "_pyro_sample", lambda self, msg: None)
        assert our_loss("vae", x[:6]) != pytest.approx(expected, rel=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_verb(name: str) -> None:
    example = EXAMPLES[name]
    x, *context = example.data
    program = program_of(example)
    objective = ScoreFunctionELBO() if name == "dp_mixture" else None
    result = pg.fit(program, example.data, objective=objective, epochs=4, lr=0.01, fill_missing=0, progress=False)
    assert all(torch.isfinite(torch.tensor(row["train_loss"])) for row in result.history)
    holes = x.clone()
    holes[0].view(-1)[-1:] = torch.nan
    method = "auto" if name in ("flow", "ss_vae", "ss_vae, no label") else "iwae"
    options = {"method": method} if method == "auto" else {"method": method, "num_particles": 20}
    scaled = {"log_likelihood": "is scaled"} if name == "scanvi, no label" else {}
    if scaled:
        options = {"method": "auto"}
    verbs = {
        "sample": lambda: pg.sample(program, len(x), context=tuple(context)),
        "log_likelihood": lambda: pg.log_likelihood(program, x, *context, **options).value,
        "impute": lambda: pg.impute(program, holes, *context, draws=2, method="guide" if name == "lda" else "auto"),
    }
    if name == "flow":  # its missing entries are sampled by Markov chains, see tests/inference/test_unnormalised.py
        del verbs["impute"]
    for verb, run in verbs.items():
        if (message := (example.refusals | scaled).get(verb)) is not None:
            with pytest.raises(ValueError, match=message):
                run()
            continue
        out = run()
        assert bool(out.isfinite().all())
        assert out.shape == {"sample": x.shape, "log_likelihood": x.shape[:1], "impute": (2, *x.shape)}[verb]


def test_at_most_one_edit_each() -> None:
    assert all(example.edits.count(";") == 0 for example in EXAMPLES.values())
    assert sum(bool(example.edits) for example in EXAMPLES.values()) == 4


def test_what_a_guide_sees_of_missing_entries() -> None:
    class V(VAE, pg.Program):
        pass

    torch.manual_seed(0)
    program, x = V(), EXAMPLES["vae"].data[0]
    holes = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan, x)
    pg.fit(program, holes, epochs=2, fill_missing=0, progress=False)
    assert program.fill_missing == 0
    seen = [pyro.poutine.trace(program.guide).get_trace(t).nodes["latent"] for t in (holes, holes.nan_to_num())]
    assert torch.equal(seen[0]["fn"].mean, seen[1]["fn"].mean)
    site = pyro.poutine.trace(program.model).get_trace(holes).nodes["obs"]
    assert torch.equal(site["fn"].base_dist.log_prob(site["value"]) == 0, holes.isnan())  # missing to the model
