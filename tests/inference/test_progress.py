"""How far a function is: a bar, nothing, or a function of the user's."""

import inspect

import pytest
import torch

import pyro_gen as pg
from pyro_gen import models
from pyro_gen.inference import progress

X = torch.zeros(4, 3)


def pca(**options):
    program = models.ProbabilisticPCA(3, 1)
    program.event_shape = torch.Size([3])
    return program


VERBS = {
    "fit": lambda **how: pg.fit(pca(), torch.eye(3), epochs=2, **how),
    "topics": lambda progress=True: pg.structure.Topics(2, 1, 4).fit(torch.eye(6).numpy(), progress=progress),
    "log_likelihood": lambda **how: pg.log_likelihood(pca(), X, method="iwae", num_particles=8, **how),
    "log_evidence": lambda **how: pg.log_evidence(pca(), X, method="importance", num_particles=8, **how),
    "log_partition": lambda **how: pg.log_partition(models.RestrictedBoltzmann(3, 2), method="ais", chains=64, **how),
    "sbc": lambda **how: pg.sbc(pca(), X, method="guide", simulations=3, draws=2, **how),
}


@pytest.mark.parametrize("verb", VERBS)
def test_progress_is_a_bar_or_none_or_a_function(verb, monkeypatch, capsys):
    fractions, bars = [], []
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "new_bar", lambda make=progress.new_bar: bars.append(make()) or bars[-1])
    for quiet in (False, fractions.append):
        VERBS[verb](progress=quiet)
    assert not bars and 0.99 < fractions[-1] <= 1.0 + 1e-9
    VERBS[verb]()
    assert len(bars) == 1 and not bars[0].live.is_started and capsys.readouterr().out == ""


def test_all_public_functions_that_tell_how_far_they_are_show_it():
    told = {n: inspect.signature(f).parameters for n in pg.__all__ if inspect.isfunction(f := getattr(pg, n))}
    defaults = {name: p["progress"].default for name, p in told.items() if "progress" in p}
    assert len(defaults) > 10 and set(defaults.values()) == {True}
