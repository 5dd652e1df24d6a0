"""The share of variance that reconstructions explain: of an autoencoder at the principal components it is theirs."""

import pytest
import torch
from sklearn.decomposition import PCA

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.data.prepared import Prepared
from pyro_gen.models import Autoencoder
from pyro_gen.registry import MEASURES

MEASURE = MEASURES["variance_explained"].function
X = pg.data.load("wine").train.double()
X = X / X.std(0)


def of(x: torch.Tensor) -> Prepared:
    return Prepared(X, None, x, None, None, None, None)


def principal(k: int) -> tuple[Autoencoder, PCA]:
    pca = PCA(k).fit(X.numpy())
    program = Autoencoder(13, k, (), likelihood="normal").double().initialise(X)
    u = torch.as_tensor(pca.components_)
    with torch.no_grad():
        program.encoder[1][0].seen.weight.copy_(u)
        program.decoder[0][0].weight.copy_(u.T)
    return program, pca


def test_of_principal_components_it_is_their_share() -> None:
    program, pca = principal(3)
    found = MEASURE(program, of(X))
    assert found.value == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    rest = (pg.reconstruct(program, X) - X).square().sum() / X.square().sum()
    assert abs(found.value - (1 - rest.item())) > 0.1  # the twin: squares about 0
    values = []  # of rows drawn anew; the spread of 60 has an error of 0.09, so that 0.4 is left once in 50,000 seeds
    with seeded(0):
        for _ in range(60):
            values.append(MEASURE(program, of(X[torch.randint(len(X), (len(X),))])).value)
    assert torch.tensor(values).std() / found.sampling_error == pytest.approx(1, abs=0.4)


def test_what_is_hidden_is_to_be_reconstructed_too() -> None:
    program, _ = principal(3)
    found = MEASURE(program, of(X), missing=0.5, seed=4)
    with seeded(4):
        seen = torch.rand(X.shape) >= 0.5
    u = program.decoder[0][0].weight
    off = X - X.mean(0) - (X - X.mean(0)) * seen @ u @ u.T
    whole = (X - X.mean(0)).square()
    assert found.value == pytest.approx(1 - (off.square().sum() / whole.sum()).item(), abs=1e-6)
    easier = 1 - (off[seen].square().sum() / whole[seen].sum()).item()  # the twin: of what was seen alone
    assert abs(found.value - easier) > 0.05
    with pytest.raises(ValueError, match="without missing entries"):
        MEASURE(program, of(X.masked_fill(seen, torch.nan)))
