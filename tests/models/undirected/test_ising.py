"""The Ising model against sums over all states, Kaufman's formula and brute force; what it draws and learns."""

import math
from collections.abc import Callable

import networkx
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.inference import ContrastiveDivergence, ExactLikelihood, Objective
from pyro_gen.models import Ising
from pyro_gen.models.undirected import BlockedGibbs, SwendsenWang
from pyro_gen.models.undirected.parts.kaufman import CRITICAL, log_partition_of_torus
from pyro_gen.models.undirected.parts.transfer_matrix import log_sum_of_rows

NAN = math.nan
# benchmarks.md 2.6: brute force, free boundaries, by side and coupling.
LOG_Z = {
    (3, 0.2): 6.48304479,
    (3, 0.5): 7.8915245,
    (3, 1.0): 12.80942025,
    (4, 0.2): 11.58157691,
    (4, 0.5): 14.49771102,
    (4, 1.0): 24.81764441,
}


def states(n: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * n)


def random_ising(seed: int = 0, **options: object) -> Ising:
    """Nodes in a circle with a chord, couplings of both signs."""
    torch.manual_seed(seed)
    graph = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3)]
    return Ising(graph, 0.5 * torch.randn(6), 0.5 * torch.randn(5), **options)  # type: ignore[arg-type]


def weights(ising: Ising, x: Tensor) -> Tensor:
    """Probabilities of states, by the formula alone."""
    s = 2 * x.flatten(1).double() - 1
    first, second = ising.graph.edges.T
    energy = (ising.couplings.double() * s[:, first] * s[:, second]).sum(1) + (ising.fields.double() * s).sum(1)
    return energy.detach()


@pytest.mark.parametrize(("side", "coupling"), LOG_Z)
def test_log_z_of_small_grids(side: int, coupling: float) -> None:
    found = pg.log_partition(Ising({"grid": [side, side]}, coupling))
    assert found.kind == "exact" and abs(found.mean() - LOG_Z[side, coupling]) < 1e-6
    # The twin lacks an edge.
    graph = networkx.grid_2d_graph(side, side)
    graph.remove_edge((0, 0), (0, 1))
    assert abs(pg.log_partition(Ising(graph, coupling)).mean() - LOG_Z[side, coupling]) > 1e-3


@pytest.mark.parametrize(("side", "coupling"), [(3, 0.2), (3, 0.5), (4, 0.5)])
def test_log_z_by_annealing(side: int, coupling: float) -> None:
    found = pg.log_partition(Ising({"grid": [side, side]}, coupling), method="ais", chains=256)
    assert abs(found.mean() - LOG_Z[side, coupling]) < 4 * found.mean_standard_error()  # false alarms: 6e-5
    assert found.mean_standard_error() <= 0.05


def test_the_density_is_that_of_the_formula() -> None:
    ising, x = random_ising(), states(5)
    assert torch.allclose(unnormalised_log_prob(ising, x).double(), weights(ising, x), atol=1e-5)
    assert math.isclose(pg.log_partition(ising).mean(), float(weights(ising, x).logsumexp(0)), abs_tol=1e-6)


@pytest.mark.parametrize("coupling", [0.3, CRITICAL, 0.6])
def test_torus_by_three_ways(coupling: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elimination, the transfer matrix and Kaufman's formula; the twin takes |gamma_0|, and fails above T_c."""
    for rows, columns in ((3, 3), (3, 4), (4, 3), (4, 4)):
        ising = Ising({"torus": [rows, columns]}, torch.tensor(coupling, dtype=torch.float64)).double()
        exact = ising.log_sum(torch.full((1, rows, columns), NAN))
        assert exact is not None
        assert ising.graph.lattice is not None
        by_rows = log_sum_of_rows(ising.log_base().double(), ising.log_pairs().double(), ising.graph.lattice)
        assert abs(float((by_rows - exact).detach())) < 1e-10
        assert abs(float((log_partition_of_torus(rows, columns, coupling) - exact).detach())) < 1e-10
    if coupling < CRITICAL:
        monkeypatch.setattr(torch.Tensor, "sign", lambda gamma: torch.ones_like(gamma))
        assert abs(float((log_partition_of_torus(4, 4, coupling) - exact).detach())) > 1e-3


def test_transfer_matrix_of_couplings_of_their_own() -> None:
    torch.manual_seed(0)
    for graph, shape in (({"grid": [3, 5]}, (3, 5)), ({"grid": [5, 3]}, (5, 3)), ({"torus": [4, 3]}, (4, 3))):
        edges = {"grid": 22, "torus": 24}[next(iter(graph))]
        ising = Ising(graph, torch.randn(edges), torch.randn(math.prod(shape)))
        x = torch.full((2, *shape), NAN)
        x[1, 0, 1] = x[1, -1, -1] = 1.0
        with torch.no_grad():
            expected = ising.log_sum(x)
            ising._summable = False  # by elimination, that is
            found = ising.log_sum(x)
        assert expected is not None and found is not None and torch.allclose(found, expected, atol=1e-10)


def test_the_energy_at_the_critical_point_is_known() -> None:
    assert abs(32**2 * energy_per_spin(CRITICAL, 32) - 1468.07) < 0.01
    assert (
        abs(pg.log_partition(Ising({"torus": [32, 32]}, 0.3)).mean() - float(log_partition_of_torus(32, 32, 0.3)))
        < 1e-3
    )


def energy_per_spin(coupling: float, side: int) -> float:
    k = torch.tensor(coupling, dtype=torch.float64, requires_grad=True)
    (energy,) = torch.autograd.grad(log_partition_of_torus(side, side, k), k)
    return energy.item() / side**2


@pytest.mark.slow
def test_log_z_of_a_torus_by_annealing() -> None:
    """With 64 chains, of which most count. The twin has too few temperatures, and is refused."""
    ising = Ising({"torus": [32, 32]}, 0.3)
    found = pg.log_partition(ising, method="ais", chains=64, temperatures=600)
    assert abs(found.mean() - pg.log_partition(ising).mean()) < 4 * found.mean_standard_error()  # false alarms: 6e-5
    assert found.mean_standard_error() <= 0.15
    assert min(float(found.diagnostics["ess"]), float(found.diagnostics["ess_back"])) >= 16
    with pytest.raises(ValueError, match=r"of 64 chains only .* count by their weights, and at least 16 are to"):
        pg.log_partition(ising, method="ais", chains=64, temperatures=40)


@pytest.mark.slow
def test_clusters_have_the_energy_of_the_critical_point() -> None:
    ising = Ising({"torus": [32, 32]}, CRITICAL, sampler=SwendsenWang())
    with torch.no_grad():
        states = ising.chains(100, 64, burn_in=60)
        of_chains = torch.stack([ising.agreements(x).double() for x in states]).mean(0) / CRITICAL / 32**2
    z = (of_chains.mean() - energy_per_spin(CRITICAL, 32)) / (of_chains.std() / 8)
    assert abs(float(z)) < 4.5  # chains are independent; false alarms: 3e-5 by Student's t


@pytest.mark.slow
def test_a_wide_torus_is_sampled_by_annealed_chains() -> None:
    ising = Ising({"torus": [12, 12]}, 0.3)
    draws = pg.sample(ising, 400)
    with torch.no_grad():
        energy = ising.agreements(draws).double() / 0.3 / 144
    assert abs(float(energy.mean()) - energy_per_spin(0.3, 12)) < 4.5 * 1.2 * float(energy.std()) / 20  # 1e-5


class HalfBonds(SwendsenWang):
    """The planted defect: bonds of the probability 1 - exp(-J), not 1 - exp(-2 J)."""

    def __call__(self, field: Ising, x: Tensor, moving: Tensor, beta: float) -> Tensor:  # type: ignore[override]
        return super().__call__(field, x, moving, beta / 2)


class AllAtOnce(BlockedGibbs):
    """The planted defect: neighbours are drawn together."""

    def __call__(self, field: Ising, x: Tensor, moving: Tensor, beta: float) -> Tensor:  # type: ignore[override]
        out = x.clone()
        for block in field.blocks:
            out[block.nodes] = field.draw_block(block, x, beta)
        return out


def chi_square(ising: Ising, draws: Tensor, among: Tensor | None = None) -> float:
    """The p-value of draws of independent chains."""
    x = states(ising.event_shape.numel())
    code = (draws.flatten(1) * 2.0 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1).long()
    expected = weights(ising, x)
    if among is not None:
        expected = expected.masked_fill(~among, -math.inf)
    expected = expected.softmax(0)
    possible = expected > 0
    counts = torch.bincount(code, minlength=len(x)).double()
    assert bool((counts[~possible] == 0).all())
    counts, expected = counts[possible], len(draws) * expected[possible]
    return float(stats.chi2.sf(float(((counts - expected).square() / expected).sum()), len(counts) - 1))


def last(ising: Ising, sweeps: int = 40) -> Tensor:
    return list(ising.chains(sweeps, 10_000, thin=sweeps))[-1]


@pytest.mark.parametrize(
    ("sampler", "right"), [(BlockedGibbs, True), (AllAtOnce, False), (SwendsenWang, True), (HalfBonds, False)]
)
def test_chains_go_to_the_distribution(sampler: Callable[[], BlockedGibbs], right: bool) -> None:
    ising = random_ising(sampler=sampler())
    ising.couplings.data.abs_()
    p = chi_square(ising, last(ising))
    assert p > 1e-4 if right else p < 1e-6  # false alarms: 1e-4


@pytest.mark.parametrize("sampler", [BlockedGibbs(), SwendsenWang()])
def test_seen_spins_stay(sampler: BlockedGibbs) -> None:
    ising = random_ising(sampler=sampler)
    ising.couplings.data.abs_()
    seen = torch.tensor([NAN, 1.0, NAN, NAN, 0.0])
    x = seen.expand(10_000, 1, 5).nan_to_num(nan=0.0)
    with torch.no_grad():
        for _ in range(40):
            x = ising.kernel(x, seen.isnan().unsqueeze(0), 1.0)
    allowed = ((states(5) == seen) | seen.isnan()).all(1)
    assert chi_square(ising, x[:, 0], allowed) > 1e-4  # false alarms: 1e-4


def test_clusters_need_attraction() -> None:
    with pytest.raises(ValueError, match=r"SwendsenWang is for couplings of at least 0, and one of them is -1\.4"):
        list(Ising([(0, 1)], -0.7, sampler=SwendsenWang()).chains(1, 2))


def test_generation_and_imputation_are_exact_draws() -> None:
    ising = random_ising()
    assert chi_square(ising, pg.sample(ising, 10_000)) > 1e-4  # false alarms: 1e-4
    seen = torch.tensor([[NAN, 1.0, NAN, NAN, 0.0]])
    drawn = pg.impute(ising, seen, draws=5000)
    allowed = ((states(5) == seen) | seen.isnan()).all(1)
    assert chi_square(ising, drawn[:, 0], allowed) > 1e-4  # false alarms: 1e-4


def test_rows_with_holes_have_their_likelihood() -> None:
    ising, x = random_ising(), states(5)
    seen = torch.tensor([[NAN, 1.0, NAN, NAN, 0.0], [0.0, 1.0, 1.0, 0.0, NAN]])
    probabilities = weights(ising, x).softmax(0)
    expected = torch.stack([probabilities[((x == row) | row.isnan()).all(1)].sum() for row in seen]).log()
    found = pg.log_likelihood(ising, seen)
    assert found.kind == "exact" and torch.allclose(found.value, expected, atol=1e-5)


def test_marginals_and_the_most_probable_state() -> None:
    ising, x = random_ising(), states(5)
    probabilities = weights(ising, x).softmax(0)
    found = ising.marginals()
    assert found.exact and found.method == "variable elimination"
    up = torch.stack([v[0, 1] for v in found.variables])
    assert torch.allclose(up, (probabilities.unsqueeze(1) * x).sum(0), atol=1e-10)
    assert torch.equal(ising.most_probable()[0], x[probabilities.argmax()])


@pytest.mark.parametrize("objective", [None, ContrastiveDivergence(2, persistent=2000), ExactLikelihood()])
def test_couplings_are_learned(objective: Objective | None) -> None:
    """Within 5 standard errors of the truth, from the Fisher information of the couplings given the fields."""
    ising, x = random_ising(), states(5)
    data = pg.sample(ising, 4000, seed=1)
    learned = Ising(ising.graph, torch.zeros(6), torch.zeros(5), objective=objective)
    pg.fit(learned, data, epochs=60, batch_size=4000, lr=0.1, schedule="cosine", compile=False, progress=False)
    s = 2 * x - 1
    statistics = torch.cat([s[:, ising.first] * s[:, ising.second], s], 1).double()
    p = weights(ising, x).softmax(0).unsqueeze(1)
    information = (p * statistics).T @ statistics - (p * statistics).sum(0).outer((p * statistics).sum(0))
    error = (information.inverse().diagonal() / 4000).sqrt()
    gap = torch.cat([learned.couplings - ising.couplings, learned.fields - ising.fields]).detach().double()
    # Pseudo-likelihood and a last step of chains cost some efficiency: 1.5 times the error of maximum likelihood.
    assert float((gap / error).abs().max()) < 1.5 * 4.5  # false alarms: 1e-4


@pytest.mark.parametrize("objective", [ContrastiveDivergence(3, persistent=2000), ExactLikelihood()])
def test_holes_cost_precision_alone(objective: Objective) -> None:
    """Couplings from rows of which a third of the entries are missing, within 5 standard errors of complete rows."""
    ising = random_ising()
    data = pg.sample(ising, 4000, seed=1)
    data[torch.rand(data.shape) < 1 / 3] = NAN
    learned = Ising(ising.graph, torch.zeros(6), torch.zeros(5), objective=objective)
    pg.fit(learned, data, epochs=60, batch_size=4000, lr=0.1, schedule="cosine", compile=False, progress=False)
    # Of a pair 4/9 of the rows tell: errors are 1.5 times those of complete rows, at most 0.05.
    assert float((learned.couplings - ising.couplings).detach().abs().max()) < 0.25
    twin = Ising(ising.graph, torch.zeros(6), torch.zeros(5), objective=ExactLikelihood())  # holes as spins down
    filled = data.nan_to_num(nan=0.0)
    pg.fit(twin, filled, epochs=60, batch_size=4000, lr=0.1, schedule="cosine", compile=False, progress=False)
    assert float((twin.fields - ising.fields).detach().abs().max()) > 0.25


def test_many_neighbours_are_multiplied_and_few_gathered() -> None:
    """Conditionals of a complete graph, against the formula."""
    torch.manual_seed(0)
    ising = Ising({"complete": [2, 3]}, 0.5 * torch.randn(15), torch.randn(6))
    assert ising.event_shape == (2, 3)
    x = torch.bernoulli(torch.full((20_000, 1, 2, 3), 0.5))
    x[:] = x[0]
    block = next(iter(ising.blocks))
    state = x.flatten(1).T.unsqueeze(2)
    with torch.no_grad():
        share = ising.draw_block(block, state, 0.7).mean((1, 2))
        s = 2 * state[:, 0, 0] - 1
        j = torch.zeros(6, 6)
        j[ising.first, ising.second] = j[ising.second, ising.first] = ising.couplings
        exact = torch.sigmoid(2 * (ising.fields + 0.7 * j @ s))[block.nodes]
    assert bool(((share - exact).abs() < 4.5 * (exact * (1 - exact) / 20_000).sqrt()).all())  # false alarms: 1e-5
    assert Ising({"grid": [2, 2]}, 0.3, shared=False).couplings.shape == (4,)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"couplings has shape \(2,\): give one number for all, or shape \(12,\)"):
        Ising({"grid": [3, 3]}, torch.zeros(2))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\): expected \(N, 3, 3\)"):
        Ising({"grid": [3, 3]}).marginals(torch.zeros(2, 5))
    big = Ising({"torus": [32, 32]}, 0.2, 0.1)
    assert pg.log_partition(Ising({"torus": [32, 32]}, 0.2), method="exact").kind == "exact"
    with pytest.raises(ValueError, match=r"most_probable: elimination on the graph of this Ising makes tables of more"):
        big.most_probable()
    with pytest.raises(ValueError, match="has continuous entries or too many values to sum over"):
        pg.log_partition(big, method="exact")
