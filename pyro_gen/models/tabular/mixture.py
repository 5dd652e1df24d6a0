r"""A mixture of factor analysers for mixed columns, with a Dirichlet process for the number of components.

A row belongs to one of K components; inside it, real columns are a factor analysis, all others are independent:

.. math::
    c_n &\sim \operatorname{Categorical}(\pi), \qquad \pi_k = v_k \textstyle\prod_{l < k} (1 - v_l), \qquad
    v_k \sim \operatorname{Beta}(1, \alpha) \\
    T(x_n^{\text{real}}) \mid c_n = k &\sim \mathcal{N}\big(\mu_k, \; W_k W_k^\top + \Psi_k\big) , \qquad
    x_{nd}^{\text{level}} \mid c_n = k \sim \operatorname{Categorical}(p_{kd}), \qquad
    x_{nd}^{\text{count}} = \lfloor e^{a_d + b_d l} \rfloor, \; l \mid c_n = k \sim \mathcal{N}(m_{kd}, s_{kd}) , \\
    x_{nd}^{\text{ordinal}} &\le j \text{ where } l \le e_{dj}, \; l \mid c_n = k \sim \mathcal{N}(m_{kd}, s_{kd}) .

A real column may have an atom, one number that many rows have exactly. It has two parts: a row of component k is at the
atom with probability :math:`q_{kd} \sim \operatorname{Beta}(1, 1)`, and where it is not, its number is as above; where
it is, that number is as good as missing.

Skewed columns would take components for their tails, so powers :math:`T_d`, learnt from the observed entries, make each
straight before, see :mod:`pyro_gen.models.tabular.curves`. Counts are rounded log-normal variables, whose probabilities
are those of intervals; :math:`a_d, b_d` standardise the observed ones. So are ordinal columns of three levels or more
rounded normal ones, a level between its neighbours also where a component has too few rows to have seen it; a standard
normal variable would have the levels as often as observed, by :math:`e_{dj}`. The stick-breaking weights of a
Dirichlet process are cut off at K, of which as many stay empty as the table has no use for. Components share what they
have in common, so that small ones can be estimated:

.. math::
    W_{kdj} \sim \mathcal{N}(\bar W_{dj}, \lambda_j^{-1}), \qquad
    \bar W_{dj} \sim \mathcal{N}(0, \tau_j^{-1}), \qquad
    \psi_{kd} \sim \operatorname{Inv-Gamma}(a, a \bar\psi_d) ,

with gamma priors on :math:`\lambda_j, \tau_j, \bar\psi_d`: factors that the table has no use for are shrunk away, and
where :math:`\lambda` is great all components have one covariance. Means have standard normal priors, as straightened
columns, the logarithms of counts and what is behind ordinal columns are standardised.

**A row given the parameters** is closed: the responsibilities of components from its seen entries, then the factors and
the missing entries inside a component, see :mod:`pyro_gen.models.tabular.mixture_rows`.

**Learning** is blocked Gibbs sampling, and draws nothing that is missing, see
:mod:`pyro_gen.models.tabular.mixture_learning`.

References:
    | The EM algorithm for mixtures of factor analyzers (Ghahramani & Hinton, 1996)
    | Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran & James, 2001)
    | https://doi.org/10.1198/016214501750332758
    | Bayesian Kernel Mixtures for Counts (Canale & Dunson, 2011)
    | https://doi.org/10.1198/jasa.2011.tm10552
    | A Two-Part Random-Effects Model for Semicontinuous Longitudinal Data (Olsen & Schafer, 2001)
    | https://doi.org/10.1198/016214501753168389
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.models.tabular.gibbs import Schedule, gibbs, join, small
from pyro_gen.models.tabular.mixture_cells import expect_cells, score_cells
from pyro_gen.models.tabular.mixture_columns import Curves, Layout, Rows, prepare
from pyro_gen.models.tabular.mixture_learning import Prior, start, sweep
from pyro_gen.models.tabular.mixture_rows import Draw, MixtureRows, draw_rows, fit
from pyro_gen.models.tabular.table import KeptProgram, LearningProgress, table_model
from pyro_gen.models.tabular.warp import Warp
from pyro_gen.observation import observe

__all__ = ["TableMixture"]

CHAINS, SCHEDULE = 4, Schedule(burn_in=150, kept=32, thin=4)  # of a large table half as many are kept
MOST_ROWS = 4000  # of a longer table as many are drawn to learn from
MOST_FACTORS = 8
COMPONENTS, MANY = (12, 24), 1000  # of a table with fewer rows than so many, and of another one
PRIOR = Prior(concentration=(2.0, 2.0), use=(1.0, 0.5), alike=(2.0, 0.2), common_noise=(2.0, 4.0), noise=4.0)


@table_model("Dirichlet-process mixture of mixed columns", paper="Ishwaran & James (2001)")
class TableMixture(KeptProgram):
    r"""Creates a mixture of factor analysers for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns: real, with an atom or without, count, binary, nominal or ordinal.
        components: The most components K that it can have; left out, 12, and 24 where a thousand rows are learnt from.

    Attributes:
        columns: The D columns.
        rank: The number R of factors.
        layout: Where which columns are.

    Raises:
        ValueError: A column is of another kind, or there are less than two components.

    Example:
        >>> from pyro_gen.data.column import Column
        >>> _ = torch.manual_seed(0)
        >>> side = torch.arange(200) % 2  # two clouds
        >>> x = (4.0 * side - 2).unsqueeze(1) + 0.5 * torch.randn(200, 2)
        >>> program = TableMixture([Column("a", "real"), Column("b", "real")]).learn((x / 2).double())
        >>> rows = torch.tensor([[1.0, torch.nan], [-1.0, torch.nan]], dtype=torch.float64)
        >>> [round(v) for v in program.cell_mean(rows)[:, 1].tolist()]
        [1, -1]
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real", "count", "binary", "nominal", "ordinal"})
    ATOMS: ClassVar[bool] = True

    def __init__(self, columns: Sequence[Column], components: int | None = None) -> None:
        super().__init__(columns)
        if components is not None and components < 2:
            raise ValueError(f"TableMixture(components={components}): give at least 2.")
        self._given = components
        self.layout = Layout.of(self.columns)
        self.rank = min(MOST_FACTORS, (len(self.layout.real) + 1) // 2)
        self._keep_curves(Curves.learn(torch.empty(0, len(columns)).double(), self.layout))  # straight lines
        with seeded(0):
            nothing = self.prepared(torch.full((1, len(columns)), torch.nan, dtype=torch.float64))
            self.keep(start(nothing, components or COMPONENTS[0], self.rank, 1))

    @property
    def components(self) -> int:
        """The most components K that it can have."""
        return self.kept("sticks").shape[-1] + 1

    @property
    def curves(self) -> Curves:
        """What makes columns normal, or nearly so, as learnt."""
        return Curves(Warp(*self.get_buffer("_knots")), self.get_buffer("_log_counts"), self.get_buffer("_ends"))

    def _keep_curves(self, curves: Curves) -> None:
        self.register_buffer("_knots", torch.stack(curves.real))  # (2, R, K)
        self.register_buffer("_log_counts", curves.log_counts)
        self.register_buffer("_ends", curves.ends)

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        size, real = self.components, len(self.layout.real)
        numeric = real + len(self.layout.whole)
        ones = x.new_ones(size, numeric, self.rank)
        concentration = pyro.sample("concentration", _gamma(PRIOR.concentration, x.new_ones(())))
        sticks = dist.Beta(x.new_ones(size - 1), concentration.unsqueeze(-1)).to_event(1)
        p = {"sticks": pyro.sample("sticks", sticks)}
        if real:
            use = pyro.sample("use", _gamma(PRIOR.use, ones[0, 0]).to_event(1))  # tau, (R,)
            alike = pyro.sample("alike", _gamma(PRIOR.alike, ones[0, 0]).to_event(1))  # lambda, (R,)
            scale = use.rsqrt().unsqueeze(-2) * ones[0, :real]
            common = pyro.sample("common_loadings", dist.Normal(0.0, scale).to_event(2))  # (D, R)
            loadings = dist.Normal(common, alike.rsqrt().unsqueeze(-2) * ones[:, :real])
            p["loadings"] = pyro.sample("loadings", loadings.to_event(3))  # (K, D, R)
        if numeric:
            ones = x.new_ones(size, numeric)
            common_noise = pyro.sample("common_noise", _gamma(PRIOR.common_noise, ones[0]).to_event(1))
            noise = dist.InverseGamma(PRIOR.noise * ones, PRIOR.noise * common_noise * ones)
            p["noise"] = pyro.sample("noise", noise.to_event(2))  # (K, D)
            p["loc"] = pyro.sample("loc", dist.Normal(0 * ones, 1.0).to_event(2))  # (K, D)
        for j, levels in enumerate(self.layout.sizes):
            p[f"levels_{j}"] = pyro.sample(f"levels_{j}", dist.Dirichlet(x.new_ones(size, levels)).to_event(1))
        with self.plate(x):
            p = {name: v.unsqueeze(0) for name, v in p.items()}
            return observe("x", MixtureRows(self.layout, self.curves, p, len(x)), x)

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Learns the curves, then the posterior by Gibbs sampling, see :meth:`TableProgram.learn`."""
        with seeded(seed), torch.no_grad():
            if len(x) > MOST_ROWS:
                x = x[torch.randperm(len(x))[:MOST_ROWS].to(x.device)]
            self._keep_curves(Curves.learn(x, self.layout))
            rows = self.prepared(x)
            first = start(rows, self._given or COMPONENTS[len(x) >= MANY], self.rank, CHAINS)
            schedule = SCHEDULE if small(x) else SCHEDULE._replace(kept=SCHEDULE.kept // 2)
            kept = gibbs(lambda draw: sweep(rows, draw, PRIOR), first, schedule, progress, deadline)
        self.keep({name: join([draw[name] for draw in kept]) for name in kept[0]})
        return self

    # Entries given a draw of the parameters

    @property
    def randomness(self) -> int:
        return 1 + self.rank + self.layout.randomness

    def numbers_per_row(self) -> int:
        return self.components * len(self.columns) * max(1, self.rank)

    def prepared(self, x: Tensor) -> Rows:
        return prepare(x, self.layout, self.curves)

    def _of(self, s: int) -> Draw:
        return {name: self.kept(name)[s : s + 1] for name in self._sites}

    def drawn(self, rows: Rows, s: int, u: Tensor) -> Tensor:
        return draw_rows(rows, self._of(s), u, self.layout, self.curves)

    def given(self, x: Tensor) -> Iterator[tuple[Draw, Tensor, Tensor, Tensor]]:
        """For kept draws: parameters, log-responsibilities (K, N), and what :func:`fit` says of factors."""
        rows = self.prepared(x)
        for s in range(self.num_kept):
            p = self._of(s)
            log_prob, mean, factor = (v[0] if len(v) else v for v in fit(rows, p))
            yield p, log_prob.log_softmax(0), mean, factor

    def scored(self, rows: Rows, p: Draw, log_share: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
        return score_cells(rows, p, log_share, mean, factor, self.layout)

    def expected(self, p: Draw, log_share: Tensor, mean: Tensor, factor: Tensor) -> list[Tensor]:
        return expect_cells(p, log_share, mean, factor, self.layout, self.curves)


def _gamma(prior: tuple[float, float], ones: Tensor) -> Any:
    return dist.Gamma(prior[0] * ones, prior[1] * ones)
