"""Chains of discrete variables are summed out as trees: the sums are those of loops and of enumeration."""

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops import packed
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._internals import enumeration_dims
from pyro_gen.density import density, elimination
from pyro_gen.density.elimination import join_chains
from pyro_gen.inference.objectives import EnumELBO

NAN = torch.nan
F64 = {"dtype": torch.float64}


class Chain(pg.Program):
    """Hidden states in a loop; each step has D entries, in a plate or in an event."""

    def __init__(self, states: int = 3, plate: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.plate_of_entries = plate
        self.transition = nn.Parameter(torch.randn(states, states, generator=generator, **F64))
        self.loc = nn.Parameter(torch.randn(states, 2, generator=generator, **F64))

    def model(self, x: Tensor) -> None:  # (N, T, 2)
        chances = self.transition.softmax(-1)
        with pyro.plate("data", len(x), dim=-2):
            z = torch.zeros(len(x), 1, dtype=torch.long)
            for t in pg.steps(x):
                z = pyro.sample(f"z_{t}", dist.Categorical(chances[z]))
                if self.plate_of_entries:
                    with pyro.plate(f"entries_{t}", 2, dim=-1):
                        pg.observe(f"x_{t}", dist.Normal(self.loc[z.squeeze(-1)], 1.0), x[:, t])
                else:
                    seen = x[:, t].unsqueeze(-2)
                    pg.observe(f"x_{t}", dist.Normal(self.loc[z], 1.0).to_event(1), seen)


def forwards(program: Chain, x: Tensor) -> Tensor:
    """The sum step by step, for sequences without missing entries."""
    log_p, chances = torch.zeros(len(x), **F64), program.transition.softmax(-1)
    alpha = torch.full((len(x), len(chances)), -torch.inf, **F64)
    alpha[:, 0] = 0.0
    for x_t in x.unbind(1):
        emitted = dist.Normal(program.loc, 1.0).to_event(1).log_prob(x_t.unsqueeze(1))
        alpha = (alpha.unsqueeze(-1) + chances.log()).logsumexp(-2) + emitted
    return log_p + alpha.logsumexp(-1)


def by_paths(program: Chain, x: Tensor) -> Tensor:
    """The sum over all paths of states."""
    chances, states = program.transition.softmax(-1).log(), len(program.loc)
    total = []
    for path in itertools.product(range(states), repeat=x.shape[1]):
        z = torch.tensor(path)
        emitted = dist.Normal(program.loc[z], 1.0).log_prob(x.nan_to_num()) * ~x.isnan()
        total.append(chances[torch.cat([torch.zeros(1, dtype=torch.long), z[:-1]]), z].sum() + emitted.sum((1, 2)))
    return torch.stack(total).logsumexp(0)


def sequences(steps: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, steps, 2, generator=torch.Generator().manual_seed(1), **F64)


def summed(program: pg.Program, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The log-density of data and its gradient by the enumerating ELBO."""
    value = -EnumELBO(max_plate_nesting=2).loss(program, x)
    return value.detach(), list(torch.autograd.grad(value, list(program.parameters())))


@pytest.fixture
def by_trees(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each tree had."""
    counts: list[int] = []
    product = elimination.chain_product

    def counted(logits: Tensor) -> Tensor:
        counts.append(logits.shape[-3])
        return product(logits)

    monkeypatch.setattr(elimination, "chain_product", counted)
    return counts


@pytest.mark.parametrize("plate", [True, False])
def test_the_tree_is_the_sum_over_all_paths(by_trees: list[int], plate: bool) -> None:
    x = sequences(9)
    x[0, 3], x[1, 2, 0], x[2, 7:] = NAN, NAN, NAN
    program = Chain(2, plate)
    expected = by_paths(program, x)
    gradient = torch.autograd.grad(expected.sum(), list(program.parameters()))
    value, found = summed(program, x)
    assert by_trees == [8]
    assert abs(float(value - expected.detach().sum())) < 1e-8
    for a, b in zip(found, gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


def test_long_chains_are_exact_in_every_verb(by_trees: list[int]) -> None:
    x, program = sequences(60), Chain(plate=False)
    expected = forwards(program, x).detach()
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact" and by_trees and set(by_trees) == {59}
    torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(summed(program, x)[0], expected.sum(), rtol=0, atol=1e-8)


def test_a_lost_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    product = elimination.chain_product
    monkeypatch.setattr(elimination, "chain_product", lambda logits: product(logits[..., 1:, :, :]))
    x, program = sequences(60), Chain()
    assert abs(float(summed(program, x)[0] - forwards(program, x).detach().sum())) > 0.1
    with pytest.raises(ValueError, match="cannot be summed out"):  # by the comparison with runs of the model
        pg.log_likelihood(Chain(plate=False), x)


def test_the_posterior_of_what_a_chain_depends_on(by_trees: list[int]) -> None:
    x = sequences(30, 1)[0, :, 0]

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2, **F64), 1.0).to_event(1))
        z: Any = torch.tensor(0)
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(torch.tensor([[0.8, 0.2], [0.3, 0.7]], **F64)[z]))
            pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[t])

    target, z = density(model, x), torch.tensor([[-1.0, 1.0], [0.3, 0.2]], **F64)
    value, _ = target.log_density_and_grad(z)
    transition = torch.tensor([[0.8, 0.2], [0.3, 0.7]], **F64).log()
    whole = [
        dist.DiscreteHMM(torch.tensor([0.0, -torch.inf], **F64), transition, dist.Normal(loc, 1.0), duration=30)
        for loc in z
    ]
    expected = torch.stack([hmm.log_prob(x) for hmm in whole]) + dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-8)
    assert by_trees


def factor(dims: str, *sizes: int) -> Tensor:
    tensor = torch.randn(*sizes, **F64)
    return packed.pack(tensor, dict(enumerate(dims, -len(dims))))


def total(factors: Any, discrete: str) -> Tensor:
    """The sum over all values, by brute force."""
    terms = [(t, enumeration_dims(t)) for of in factors.values() for t in of]
    sizes = {s: n for t, dims in terms for s, n in zip(dims, t.shape, strict=True)}
    logs = []
    for values in itertools.product(*(range(sizes[s]) for s in discrete)):
        at = dict(zip(discrete, values, strict=True))
        logs.append(sum(t[tuple(at[s] for s in dims)] for t, dims in terms))
    return torch.stack(logs).logsumexp(0)


def test_chains_in_other_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that ends in a branch, one whose variables have other sizes, a ring: all the same sum."""
    monkeypatch.setattr(elimination, "MIN_STEPS", 2)
    torch.manual_seed(0)
    none: frozenset[str] = frozenset()
    branched = {none: [factor("ab", 2, 2), factor("cb", 2, 2), factor("cd", 2, 2), factor("de", 2, 2)]}
    branched[none] += [factor("df", 2, 2), factor("f", 2), factor("ef", 2, 2)]
    unequal = {
        none: [factor("ab", 2, 2), factor("bc", 2, 2), factor("cd", 2, 3), factor("de", 3, 3), factor("ef", 3, 3)]
    }
    ring = {none: [factor("ab", 2, 2), factor("bc", 2, 2), factor("dc", 2, 2), factor("da", 2, 2), factor("c", 2)]}
    for factors, symbols, left in ((branched, "abcdef", 3), (unequal, "abcdef", 3), (ring, "abcd", 2)):
        joined = join_chains(factors, set(symbols))
        assert len(joined[none]) == left
        used = "".join(s for s in symbols if any(s in enumeration_dims(t) for t in joined[none]))
        torch.testing.assert_close(total(joined, used), total(factors, symbols))


def test_a_tree_takes_no_more_memory_than_it_may(by_trees: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "MOST_NUMBERS", 4 * 27 * 8)
    x, program = sequences(60), Chain()
    value = summed(program, x)[0]
    assert max(by_trees) == 16 and sum(by_trees) == 59
    torch.testing.assert_close(value, forwards(program, x).detach().sum(), rtol=0, atol=1e-8)
