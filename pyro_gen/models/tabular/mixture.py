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
straight before. Counts are rounded log-normal variables, whose probabilities
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

**A row given the parameters** is closed: the responsibilities of components from its seen entries, with the density

.. math::
    p(x_o \mid k) = \mathcal{N}\big(T(x_o^{\text{real}}); \; \mu_k, W_k W_k^\top + \Psi_k\big) \prod_d T_d'(x_d)
    \prod_{\text{whole}} P_{kd}(l \in [g_d, h_d]) \prod_{\text{level}} p_{kd}(x_d) ,

then the factors and the missing entries inside a component.

**The posterior** is sampled by blocked Gibbs steps, which draw nothing that is missing. With :math:`n_k` rows in
component k, sums over rows where a column was seen, O the J components with rows, and :math:`\tilde z_n = (z_n, 1)`:

1. :math:`P(c_n = k) \propto \pi_k \, p(x_{n,o} \mid k)`, the factors integrated out;
2. :math:`v_k \sim \operatorname{Beta}(1 + n_k, \alpha + \sum_{l > k} n_l)`,
   :math:`\alpha \sim \operatorname{Gamma}(2 + K - 1, \; 2 - \sum_k \log(1 - v_k))`;
3. :math:`z_n \sim \mathcal{N}\big(M^{-1} W_o^\top \Psi_o^{-1} (x_o - \mu_o), \; M^{-1}\big)` in component
   :math:`c_n`, with :math:`M = I + W_o^\top \Psi_o^{-1} W_o`;
4. what components share, of R real columns,

   .. math::
       \bar W_{dj} &\sim \mathcal{N}\Big(\frac{\lambda_j \sum_{k \in O} W_{kdj}}{\tau_j + J \lambda_j}, \;
       \frac{1}{\tau_j + J \lambda_j}\Big) , \qquad
       \tau_j \sim \operatorname{Gamma}\big(1 + \tfrac{R}{2}, \; \tfrac{1}{2} + \tfrac{1}{2} \textstyle\sum_d
       \bar W_{dj}^2\big) , \\
       \lambda_j &\sim \operatorname{Gamma}\big(2 + \tfrac{J R}{2}, \; \tfrac{1}{5} + \tfrac{1}{2} \textstyle\sum_{k \in
       O} \sum_d (W_{kdj} - \bar W_{dj})^2\big) ;

5. loadings and means, a regression with :math:`\Lambda = \operatorname{diag}(\lambda, 1)`, then the noise, with
   :math:`a = 4`,

   .. math::
       (w_{kd}, \mu_{kd}) &\sim \mathcal{N}\big(A^{-1} b, A^{-1}\big), \quad
       A = \Lambda + \textstyle\sum_n \tilde z_n \tilde z_n^\top / \psi_{kd}, \quad
       b = \Lambda (\bar w_d, 0) + \textstyle\sum_n \tilde z_n x_{nd} / \psi_{kd} , \\
       \bar\psi_d &\sim \operatorname{Gamma}\big(2 + a J, \; 4 + a \textstyle\sum_{k \in O} \psi_{kd}^{-1}\big) , \qquad
       \psi_{kd}^{-1} \sim \operatorname{Gamma}\big(a + \tfrac{n_{kd}}{2}, \;
       a \bar\psi_d + \tfrac{1}{2} \textstyle\sum_n (x_{nd} - w_{kd}^\top z_n - \mu_{kd})^2\big) ;

6. of whole numbers :math:`l_{nd} \sim \mathcal{N}(m_{kd}, s_{kd})` truncated to :math:`[g_{nd}, h_{nd}]`, then
   :math:`m_{kd}, s_{kd}` as in step 5 without factors; of levels and atoms
   :math:`p_{kd} \sim \operatorname{Dirichlet}(1 + n_{kd1}, 1 + n_{kd2}, \ldots)` .

Empty components follow what is shared, so that a row can always go to a new one.

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
from pyro_gen._sizes import check_sizes
from pyro_gen.data.column import Column
from pyro_gen.distributions.factor_posterior import FactorPosterior
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs, is_small, join_chains
from pyro_gen.models.tabular.parts.mixture_columns import MixtureCurves, MixtureEvidence, MixtureLayout, prepare
from pyro_gen.models.tabular.parts.mixture_rows import (
    Draw,
    MixtureRows,
    component_posterior,
    draw_rows,
    expect_cells,
    score_cells,
)
from pyro_gen.models.tabular.parts.mixture_sampler import Prior, start, sweep
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, rows_to_fit, table_model
from pyro_gen.observation import observe

__all__ = ["TableMixture"]

CHAINS, SCHEDULE = 4, Schedule(burn_in=150, draws=32, thin=4)  # of a large table half as many are stored
FACTORS_LIMIT = 8
COMPONENTS, ROWS_FOR_MORE_COMPONENTS = (12, 24), 1000  # of a table with fewer rows than so many, and of another one
PRIOR = Prior(concentration=(2.0, 2.0), use=(1.0, 0.5), alike=(2.0, 0.2), common_noise=(2.0, 4.0), noise=4.0)


@table_model("Dirichlet-process mixture of mixed columns", paper="Ishwaran & James (2001)")
class TableMixture(PosteriorDrawsProgram):
    r"""Creates a mixture of factor analysers for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns: real, with an atom or without, count, binary, nominal or ordinal.
        components: The most components K that it can have; left out, 12, and 24 where a thousand rows are learnt from.

    Attributes:
        columns: The D columns.
        rank: The number R of factors.
        layout: Where which columns are.

    Raises:
        ValueError: A column is of another kind, or there are fewer than two components.

    Example:
        >>> from pyro_gen.data.column import Column
        >>> _ = torch.manual_seed(0)
        >>> side = torch.arange(200) % 2  # two clouds
        >>> x = (4.0 * side - 2).unsqueeze(1) + 0.5 * torch.randn(200, 2)
        >>> program = TableMixture([Column("a", "real"), Column("b", "real")]).fit_posterior((x / 2).double())
        >>> rows = torch.tensor([[1.0, torch.nan], [-1.0, torch.nan]], dtype=torch.float64)
        >>> [round(v) for v in program.cell_mean(rows)[:, 1].tolist()]
        [1, -1]
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real", "count", "binary", "nominal", "ordinal"})
    ATOMS: ClassVar[bool] = True

    def __init__(self, columns: Sequence[Column], components: int | None = None) -> None:
        super().__init__(columns)
        if components is not None:
            check_sizes(self, 2, components=components)
        self._given = components
        self.layout = MixtureLayout.of(self.columns)
        self.rank = min(FACTORS_LIMIT, (len(self.layout.real) + 1) // 2)
        self._keep_curves(MixtureCurves.fit(torch.empty(0, len(columns)).double(), self.layout))  # straight lines
        with seeded(0):
            nothing = self.prepare_rows(torch.full((1, len(columns)), torch.nan, dtype=torch.float64))
            self.store_draws(start(nothing, components or COMPONENTS[0], self.rank, 1))

    @property
    def components(self) -> int:
        """The most components K that it can have."""
        return self.posterior_draws("sticks").shape[-1] + 1

    @property
    def curves(self) -> MixtureCurves:
        """What makes columns normal, or nearly so, as learnt."""
        return MixtureCurves(
            MonotoneSpline(*self.get_buffer("_knots")), self.get_buffer("_log_counts"), self.get_buffer("_ends")
        )

    def _keep_curves(self, curves: MixtureCurves) -> None:
        self.register_buffer("_knots", torch.stack(curves.real))  # (2, R, K)
        self.register_buffer("_log_counts", curves.log_counts)
        self.register_buffer("_ends", curves.ends)

    def model(self, x: Tensor) -> Tensor:
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

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Fits the curves, then samples the posterior by Gibbs sampling, see :meth:`TableProgram.fit_posterior`."""
        with seeded(seed), torch.no_grad():
            x = rows_to_fit(x)
            self._keep_curves(MixtureCurves.fit(x, self.layout, deadline))
            rows = self.prepare_rows(x)
            first = start(rows, self._given or COMPONENTS[len(x) >= ROWS_FOR_MORE_COMPONENTS], self.rank, CHAINS)
            schedule = SCHEDULE if is_small(x) else SCHEDULE._replace(draws=SCHEDULE.draws // 2)
            states = blocked_gibbs(lambda draw: sweep(rows, draw, PRIOR), first, schedule, progress, deadline)
        self.store_draws({name: join_chains([draw[name] for draw in states]) for name in states[0]})
        return self

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return 1 + self.rank + self.layout.uniforms_per_row

    def numbers_per_row(self) -> int:
        return self.components * len(self.columns) * max(1, self.rank)

    def prepare_rows(self, x: Tensor) -> MixtureEvidence:
        return prepare(x, self.layout, self.curves)

    def _of(self, s: int) -> Draw:
        return {name: self.posterior_draws(name)[s : s + 1] for name in self._sites}

    def complete_rows(self, rows: MixtureEvidence, s: int, u: Tensor) -> Tensor:
        return draw_rows(rows, self._of(s), u, self.layout, self.curves)

    def conditionals(self, x: Tensor) -> Iterator[tuple[Draw, Tensor, FactorPosterior]]:
        """For stored draws: parameters, log-responsibilities (K, N), and the factors (`component_posterior`)."""
        rows = self.prepare_rows(x)
        for s in range(self.num_posterior_draws):
            p = self._of(s)
            log_prob, factors = component_posterior(rows, p)
            yield p, log_prob[0].log_softmax(0), factors.select(lambda v: v[:, 0]) if self.rank else factors

    def score_conditional(self, rows: MixtureEvidence, p: Draw, log_share: Tensor, factors: FactorPosterior) -> Tensor:
        return score_cells(rows, p, log_share, factors, self.layout)

    def expect_conditional(self, p: Draw, log_share: Tensor, factors: FactorPosterior) -> list[Tensor]:
        return expect_cells(p, log_share, factors, self.layout, self.curves)


def _gamma(prior: tuple[float, float], ones: Tensor) -> Any:
    return dist.Gamma(prior[0] * ones, prior[1] * ones)
