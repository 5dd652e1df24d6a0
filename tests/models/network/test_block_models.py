"""Block models: Gibbs draws against sums over all groups, and calibration of every parameter, with twins."""

import itertools
import math

import networkx as nx
import numpy as np
import pyro
import pytest
import torch
from scipy.special import betaln, gammaln, logsumexp

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference.calibration import Calibration
from pyro_gen.models.network import (
    BipartiteBlockModel,
    DegreeCorrectedBlockModel,
    NestedBlockModel,
    StochasticBlockModel,
    WeightedBlockModel,
)
from pyro_gen.models.network.degree_corrected import profile_log_likelihood, profile_optimum
from pyro_gen.models.network.parts.groups import draw_groups, of_pairs

NAN = torch.nan
SETS, DRAWS, SWEEPS, ALPHA = 300, 15, 30, 1e-4


def network(*edges, n=5):
    x = torch.zeros(n, n)
    for i, j in edges:
        x[i, j] = x[j, i] = 1.0
    return x


def dirichlet(labels):
    sizes = np.bincount(labels, minlength=2)
    return gammaln(1 + sizes).sum() - gammaln(2 + sizes.sum())


def together(log_p, labels):
    w = np.exp(np.array(log_p) - logsumexp(log_p))
    b = np.array(labels)
    return (w[:, None, None] * (b[:, :, None] == b[:, None, :])).sum(0)


def exact_stochastic_block(x, directed):
    """The probability that two nodes are together, by all groups of 5."""
    labels, log_p = list(itertools.product((0, 1), repeat=5)), []
    for b in labels:
        value, z = dirichlet(b), np.eye(2)[list(b)]
        e, t = (z.T @ np.asarray(v.sum(0)) @ z for v in (x.nan_to_num(), (~x.isnan()) * (1 - torch.eye(5))))
        for r, s in itertools.product((0, 1), repeat=2):
            if directed or r <= s:
                share = 0.5 if r == s and not directed else 1.0
                value += betaln(1 + share * e[r, s], 1 + share * (t - e)[r, s])
        log_p.append(value)
    return together(log_p, labels)


@pytest.mark.parametrize("directed", [False, True])
def test_groups_and_their_number_by_enumeration(directed):
    first, second = network((0, 1), (1, 2), (0, 2), (3, 4)), torch.full((5, 5), NAN)
    first[0, 3] = first[3, 0] = NAN
    second[0, 1] = second[1, 0] = 0.0
    x = torch.stack([first.triu() if directed else first, second])
    program = StochasticBlockModel(5, 2, directed)
    options = dict(chains=200, warmup=30, draws=30, seed=0, progress=False)
    b = pg.posterior(program, x, method="gibbs", blocks=program.blocks(), **options).posterior["b"].to_numpy()
    same = (b[..., :, None] == b[..., None, :]).mean(1)
    error = same.std(0, ddof=1) / math.sqrt(200) + 1e-4
    # Ten pairs of normal means: 5 has probability 6e-6.
    assert (np.abs(same.mean(0) - exact_stochastic_block(x, directed)) / error).max() < 5
    assert (
        np.abs(same.mean(0) - exact_stochastic_block(x.nan_to_num(), directed)) / error
    ).max() > 8  # the twin: holes are none


def simulated(program, count):
    """Latent variables and networks from the prior, a dimension of ``count`` in front."""
    values, data = [], []
    for _ in range(count):
        trace = pyro.poutine.trace(program.model).get_trace(torch.full((1, *program.event_shape), NAN))
        nodes = trace.nodes.items()
        values.append({n: s["value"] for n, s in nodes if s["type"] == "sample" and not s["is_observed"]})
        data.append(trace.nodes["_RETURN"]["value"])
    names = [n for n in values[0] if n not in ("data", "nodes", "rows", "columns", "groups")]
    return {n: torch.stack([v[n] for v in values]) for n in names}, torch.stack(data)


def log_likelihood(program, values, x):
    """Of networks given all parameters, up to what data alone say, (C,)."""
    if isinstance(program, BipartiteBlockModel):
        p = of_pairs(values["p"], values["b"], values["c"]).unsqueeze(1)
        return torch.where(x.isnan(), 0.0, torch.where(x > 0, p, 1 - p).log()).sum((1, 2, 3))
    share = 1.0 if program.directed else 0.5
    return sum(
        share * (t * of_pairs(eta, values["b"], values["b"])).sum((-2, -1)) for t, eta in program.terms(values, x)
    )


def calibrated(program, twin=None):
    """Ranks of what made each of the data sets among draws, of chains that start where other sets were made."""
    with seeded(0), torch.no_grad():
        truth, x = simulated(program, SETS)
        for i, j in ((0, 1), (2, 3), (0, 4), (1, 2)):
            x[..., i, j] = x[..., j, i] = NAN
        others = (torch.arange(SETS).unsqueeze(1) + torch.arange(1, DRAWS + 1)).flatten() % SETS
        values, given = {n: v[others] for n, v in truth.items()}, x.repeat_interleave(DRAWS, 0)
        for _ in range(SWEEPS):
            for update in (twin or program).blocks().values():
                values = {**values, **update(values, given)}
        found = []
        for v, data in ((truth, x), (values, given)):
            entries = {f"{n}[{k}]": e for n, some in v.items() for k, e in enumerate(some.flatten(1).float().unbind(1))}
            entries["together"] = (v["b"][:, 0] == v["b"][:, 1]).float()  # does not depend on labels
            entries["log-likelihood"] = log_likelihood(program, v, data)
            found.append(entries)
        ranks = {}
        for name, value in found[0].items():
            drawn = found[1][name].view(SETS, DRAWS)
            less, same = ((f(drawn, value.unsqueeze(1))).sum(1) for f in (torch.lt, torch.eq))
            ranks[name] = less + (torch.rand(SETS) * (same + 1)).long()
    return Calibration(ranks, DRAWS, "gibbs", ALPHA)


class HolesAreNone(StochasticBlockModel):
    """Pairs that were not observed are pairs without an edge."""

    def observed(self, x):
        return super().observed(x.nan_to_num())


class BothHalves(DegreeCorrectedBlockModel):
    """Each edge is counted in both halves of the matrix."""

    def draw_pairs(self, values, x, *context):
        return super().draw_pairs(values, 2 * x)


class NoConstant(WeightedBlockModel):
    def terms(self, values, x):
        return super().terms(values, x)[:2]


class Turned(BipartiteBlockModel):
    def draw_rows(self, values, x, *context):
        return super().draw_rows({**values, "p": values["p"].mT}, x)


class OneWay(StochasticBlockModel):
    """Edges that come to a node say nothing of its group."""

    def draw_nodes(self, values, x, *context):
        return {"b": draw_groups(values["b"], values["pi"].log(), self.terms(values, x), directed=False)}


class FlatRates(NestedBlockModel):
    def draw_pairs(self, values, x, *context):
        return super().draw_pairs({**values, "r": torch.ones_like(values["r"])}, x)


@pytest.mark.parametrize(
    ("program", "twin"),
    [
        (lambda: StochasticBlockModel(6, 2), lambda: HolesAreNone(6, 2)),
        (lambda: StochasticBlockModel(5, 2, directed=True), lambda: OneWay(5, 2, directed=True)),
        (lambda: DegreeCorrectedBlockModel(6, 2), lambda: BothHalves(6, 2)),
        (lambda: WeightedBlockModel(6, 2), lambda: NoConstant(6, 2)),
        (lambda: BipartiteBlockModel((6, 5), (2, 2)), lambda: Turned((6, 5), (2, 2))),
        (lambda: NestedBlockModel(6, (3, 2)), lambda: FlatRates(6, (3, 2))),
    ],
)
def test_every_parameter_is_calibrated(program, twin):
    made = program()
    found = calibrated(made)
    assert found.passed, str(found)  # a right sampler fails with probability 1e-4
    assert not calibrated(made, twin()).passed


def test_profile_likelihood_of_karate():
    graph = nx.karate_club_graph()
    x = torch.tensor(nx.to_numpy_array(graph, weight=None))
    clubs = torch.tensor([graph.nodes[v]["club"] == "Officer" for v in graph]).long()
    assert float(profile_log_likelihood(x, clubs)) == pytest.approx(-743.21, abs=0.01)
    labels, value = profile_optimum(x, 2)
    assert value == pytest.approx(-739.39, abs=0.01)
    right = int((labels == clubs).sum())
    assert max(right, 34 - right) == 32
    # The twin: by a plain block model the best split is that of the five nodes with most edges.
    hubs = (x.sum(1) >= 9).long()
    assert float(profile_log_likelihood(x, hubs)) < value - 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StochasticBlockModel(1, 2), "StochasticBlockModel(1, 2): give 2 nodes"),
        (lambda: BipartiteBlockModel((3, 0), (1, 1)), "give positive numbers"),
        (lambda: NestedBlockModel(3, (2, 0)), "1 group of groups"),
    ],
)
def test_bad_sizes_get_one_line(make, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        make()
