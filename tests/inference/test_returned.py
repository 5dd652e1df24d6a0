"""Completed data come from the observed sites: the data, parts of them, copies; else from what the model returns."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.inference.objectives.generation import ancestral
from pyro_gen.inference.returned import complete

NAN = torch.nan
LOC = torch.arange(6.0)
X = torch.tensor([[NAN, 1.0, NAN, 3.0, NAN, 5.0], [9.0, NAN, 7.0, NAN, 6.0, NAN]])


def normal(loc: Tensor) -> Any:
    return dist.Normal(loc, 1e-3)


def whole(x: Tensor) -> None:
    pyro.sample("x", normal(LOC).to_event(1), obs=x)


def reshaped(x: Tensor) -> None:
    pyro.sample("x", normal(LOC.view(2, 3)).to_event(2), obs=x.view(-1, 2, 3))


def steps(x: Tensor) -> None:
    for t in reversed(range(6)):
        pyro.sample(f"x_{t}", normal(LOC[t]), obs=x[:, t])


def blocks(x: Tensor) -> None:
    pg.observe("odd", normal(LOC[1::2]).to_event(1), x[:, 1::2])
    pyro.sample("even", normal(LOC[::2]).to_event(1), obs=x[:, ::2])


def copied(x: Tensor) -> None:
    pyro.sample("x", normal(LOC).to_event(1), obs=x.clone())


def permuted(x: Tensor) -> Tensor:
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    return pyro.sample("x", normal(LOC[order]).to_event(1), obs=x[:, order])[:, order]


def means(x: Tensor) -> Tensor:
    whole(x)
    return 100 + LOC.expand_as(x)


def program(body: Callable[[Tensor], Any]) -> pg.Program:
    def model(x: Tensor) -> Any:
        with pyro.plate("batch", len(x)):
            return body(x)

    return pg.Program.from_functions(model)


@pytest.mark.parametrize("body", [whole, reshaped, steps, blocks, copied, permuted, means])
def test_sites_say_what_was_completed(body: Callable[[Tensor], Any]) -> None:
    expected = torch.where(X.isnan(), LOC, X)
    p = program(body)
    for x in (X, X.T.contiguous().T):
        y = complete(p, x, ())
        assert torch.allclose(y, expected, atol=0.01)
        assert torch.equal(y[~X.isnan()], X[~X.isnan()])
    assert torch.allclose(pg.impute(p, X, draws=3), expected.expand(3, 2, 6), atol=0.01)
    p.event_shape = X.shape[1:]
    assert torch.allclose(pg.sample(p, 4), LOC.expand(4, 6), atol=0.01)


def test_rows_of_documents_in_columns() -> None:
    """Data are documents, the model has them in columns, as Pyro's LDA: a transpose is a part of the data too."""

    def model(x: Tensor) -> None:
        with pyro.plate("documents", len(x)), pyro.plate("words", 6):
            pyro.sample("x", normal(LOC[:, None]), obs=x.T)

    assert torch.allclose(complete(pg.Program.from_functions(model), X, ()), torch.where(X.isnan(), LOC, X), atol=0.01)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: pyro.sample("x", normal(LOC / 2).to_event(1), obs=x / 2),
        lambda x: pyro.sample("x", normal(LOC.flip(0)).to_event(1), obs=x.flip(1)),
        lambda x: pyro.sample("x", normal(LOC).to_event(1), obs=x.nan_to_num()),
        lambda x: pyro.sample("x", normal(LOC[:3]).to_event(1), obs=x[:, :3]),
        lambda x: [pyro.sample(n, normal(LOC).to_event(1), obs=x) for n in "ab"],
    ],
    ids=["other units", "another order", "filled by the model", "some columns", "twice"],
)
def test_where_sites_do_not_tell_the_model_has_to_return_them(body: Callable[[Tensor], Any]) -> None:
    def silent(x: Tensor) -> None:
        body(x)

    with pytest.raises(ValueError, match="must return the completed data, of shape"):
        pg.impute(program(silent), X, draws=1)


def test_what_a_model_returns_goes_before_its_sites() -> None:
    """A latent variable of the model's own stands for what is missing, and feeds what follows."""

    def model(x: Tensor) -> Tensor:
        with pg.plate(x):
            unseen = pyro.sample("unseen", dist.Normal(5.0, 0.001))
            pg.observe("a", dist.Normal(0.0, 0.001), x[:, 0])
            a = torch.where(x[:, 0].isnan(), unseen, x[:, 0])
            b = pg.observe("b", dist.Normal(a, 0.001), x[:, 1])
        return torch.stack([a, b], -1)

    x = torch.tensor([[torch.nan, torch.nan], [1.0, torch.nan]])
    p = pg.Program.from_functions(model)
    y = complete(p, x, ())
    assert torch.allclose(y, torch.tensor([[5.0, 5.0], [1.0, 1.0]]), atol=0.01)  # not 0 and 5
    for generated in (ancestral(p, x), ancestral(pg.Program.from_functions(model), x)):
        assert torch.allclose(generated, torch.full((2, 2), 5.0), atol=0.01)
