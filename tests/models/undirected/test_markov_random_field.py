"""Markov random fields against enumeration: sums, marginals, maxima, draws, and belief propagation with its limits."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.models import Ising, MarkovRandomField
from pyro_gen.models.undirected.parts import belief_propagation

NAN = math.nan


def field() -> MarkovRandomField:
    """Five variables of 2 to 4 values with a loop; c = 0 and d = 2 never come together."""
    torch.manual_seed(0)
    tables = {
        ("a", "b", "c"): torch.rand(2, 3, 2),
        ("c", "d"): torch.rand(2, 4),
        ("d", "e"): torch.rand(4, 2),
        ("e", "a"): torch.rand(2, 2),
        ("b",): torch.rand(3),
    }
    tables["c", "d"][0, 2] = 0
    return MarkovRandomField.from_tables(tables).double()


def tree() -> MarkovRandomField:
    torch.manual_seed(1)
    tables = {("a", "b"): torch.rand(2, 3), ("b", "c", "d"): torch.rand(3, 2, 2), ("d", "e"): torch.rand(2, 3)}
    return MarkovRandomField.from_tables(tables).double()


def states(model: MarkovRandomField) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(float(k)) for k in model.levels]).double()


def weights(model: MarkovRandomField, x: Tensor) -> Tensor:
    """Log-weights of states, by the formula alone."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for table, scope in zip(model.log_tables(), model.scopes, strict=True):
        total += table.detach()[tuple(x[:, model.graph.names.index(n)].long() for n in scope)]
    return total


def by_enumeration(model: MarkovRandomField, row: Tensor) -> tuple[float, list[Tensor]]:
    x = states(model)
    log_w = weights(model, x).masked_fill(~((x == row) | row.isnan()).all(1), -math.inf)
    p = log_w.softmax(0)
    columns = zip(x.T, model.levels, strict=True)
    return float(log_w.logsumexp(0)), [torch.stack([p[c == v].sum() for v in range(k)]) for c, k in columns]


ROWS = torch.full((3, 5), NAN, dtype=torch.float64)
ROWS[1, 3], ROWS[2, 0], ROWS[2, 4] = 1.0, 1.0, 0.0


def test_sums_and_marginals_are_those_of_enumeration() -> None:
    model = field()
    x = states(model)
    assert torch.allclose(unnormalised_log_prob(model, x), weights(model, x), atol=1e-12)
    found = model.marginals(ROWS)
    assert found.exact and "by variable elimination (exact)" in str(found)
    for n, row in enumerate(ROWS):
        log_z, marginals = by_enumeration(model, row)
        assert abs(float(found.log_partition[n]) - log_z) < 1e-10
        assert max(float((f[n] - m).abs().max()) for f, m in zip(found.variables, marginals, strict=True)) < 1e-10
    for table, scope in zip(found.factors, model.scopes, strict=True):
        assert torch.allclose(table[0], model.query(scope), atol=1e-10)
    assert abs(pg.log_partition(model).mean() - by_enumeration(model, ROWS[0])[0]) < 1e-10
    seen = pg.log_likelihood(model, ROWS[1:])
    assert abs(float(seen.value[0]) - float(by_enumeration(model, ROWS[0])[1][3][1].log())) < 1e-10


def test_the_most_probable_values() -> None:
    model, x = field(), states(field())
    assert torch.equal(model.most_probable()[0], x[weights(model, x).argmax()])
    given = weights(model, x).masked_fill(x[:, 3] != 1, -math.inf)
    assert torch.equal(model.most_probable(ROWS[1:2])[0], x[given.argmax()])


def test_queries() -> None:
    model, x = field(), states(field())
    p = weights(model, x).masked_fill(x[:, 3] != 1, -math.inf).softmax(0)
    expected = torch.stack([torch.stack([p[(x[:, 4] == e) & (x[:, 0] == a)].sum() for a in (0, 1)]) for e in (0, 1)])
    assert torch.allclose(model.query(["e", "a"], {"d": 1}), expected, atol=1e-12)
    with pytest.raises(ValueError, match="'z' is no variable of the field"):
        model.query("z")


@pytest.mark.parametrize("way", ["exact", "chains", "together"])
def test_draws_have_their_probabilities(way: str) -> None:
    """``together`` is the planted defect: all variables are drawn from where the others were before."""
    model, x = field(), states(field())
    if way == "exact":
        draws = pg.sample(model, 10_000)
    elif way == "chains":
        draws = list(model.chains(30, 10_000, thin=30))[-1]
    else:
        state = pg.sample(model, 10_000).T.unsqueeze(2)
        with torch.no_grad():
            for _ in range(5):
                new = state.clone()
                for block in model.blocks:
                    new[block.nodes] = model.draw_block(block, state, 1.0)
                state = new
        draws = state.squeeze(2).T
    p = weights(model, x).softmax(0)
    strides = torch.tensor([48.0, 16, 8, 2, 1], dtype=torch.float64)
    counts = torch.bincount((draws * strides).sum(1).long(), minlength=96).double()
    possible = p > 0
    chi2 = ((counts - 10_000 * p).square() / (10_000 * p))[possible].sum() + math.inf * bool(counts[~possible].any())
    value = stats.chi2.sf(float(chi2.nan_to_num()), int(possible.sum()) - 1)
    assert value < 1e-6 if way == "together" else value > 1e-4  # false alarms: 1e-4


def test_missing_cells_are_imputed_from_their_conditional() -> None:
    model = field()
    drawn = pg.impute(model, ROWS[2:], draws=5000)[:, 0]
    assert bool((drawn[:, 0] == 1).all() & (drawn[:, 4] == 0).all())
    expected = by_enumeration(model, ROWS[2])[1][1]
    counts = torch.bincount(drawn[:, 1].long(), minlength=3) / 5000
    assert bool(((counts - expected).abs() < 4.5 * (expected * (1 - expected) / 5000).sqrt()).all())  # 2e-5


def test_belief_propagation_is_exact_on_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin tells variables back what they said themselves."""
    model = tree()
    exact, found = model.marginals(ROWS[:, :5]), model.marginals(ROWS[:, :5], method="belief propagation")
    assert not found.exact and found.converged and "loopy belief propagation (approximate" in str(found)
    assert torch.allclose(found.log_partition, exact.log_partition, atol=1e-8)
    for kind in ("variables", "factors"):
        for one, other in zip(getattr(found, kind), getattr(exact, kind), strict=True):
            assert torch.allclose(one, other, atol=1e-8)
    monkeypatch.setattr(belief_propagation, "_incoming", lambda group, beliefs: beliefs[:, group.variables])
    wrong = model.marginals(ROWS[:, :5], method="belief propagation")
    assert float((wrong.variables[1] - exact.variables[1]).abs().max()) > 1e-3


def test_belief_propagation_on_loops_is_near_and_says_so() -> None:
    model = field()
    exact, found = model.marginals(), model.marginals(method="belief propagation")
    assert 1e-6 < abs(float(found.log_partition - exact.log_partition)) < 0.05
    assert max(float((a - b).abs().max()) for a, b in zip(found.variables, exact.variables, strict=True)) < 0.05


def test_wide_graphs_take_belief_propagation_by_themselves() -> None:
    ising = Ising({"torus": [32, 32]}, 0.2, 0.1)
    found = ising.marginals()
    assert not found.exact and found.method == "loopy belief propagation"
    # Of independent spins given the magnetisation of their neighbours, it is the Bethe lattice's: sites are all alike.
    assert float(torch.stack([v[0, 1] for v in found.variables]).std()) < 1e-8
    with pytest.raises(ValueError, match=r'more than 1048576 cells: use method="belief propagation"'):
        ising.marginals(method="elimination")


def test_windows_of_an_image() -> None:
    """All windows of 2 x 2 in 3 x 3 binary pixels: the sum over 512 images."""
    torch.manual_seed(0)
    model = MarkovRandomField({"windows": [3, 3, 2, 2]})
    assert len(model.scopes) == 4 and model.event_shape == (3, 3)
    images = torch.cartesian_prod(*[torch.arange(2.0)] * 9).reshape(-1, 3, 3)
    log_z = unnormalised_log_prob(model, images).double().logsumexp(0)
    assert abs(pg.log_partition(model).mean() - float(log_z.detach())) < 1e-5


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="'c' is in a scope and has no levels"):
        MarkovRandomField([["a", "c"]], {"a": 2})
    with pytest.raises(ValueError, match="'b' is in no scope"):
        MarkovRandomField([["a"]], {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="names of different variables"):
        MarkovRandomField([["a", "a"]], {"a": 2})
    with pytest.raises(ValueError, match="'a' has 2 values in one table, and 3 in another"):
        MarkovRandomField.from_tables({("a",): torch.ones(2), ("a", "b"): torch.ones(3, 2)})
    with pytest.raises(ValueError, match="The table of a has 1 dimensions"):
        MarkovRandomField.from_tables({("a",): -torch.ones(2)})
    with pytest.raises(ValueError, match='choose "auto", "elimination" or "belief propagation"'):
        field().marginals(method="junction tree")
