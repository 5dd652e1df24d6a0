r"""What the programs for tables have in common: rows of mixed columns with holes, and parameters with a posterior.

A row :math:`x` has seen entries :math:`x_o` and missing ones :math:`x_m`. A proper imputation draws

.. math:: x_m \sim p(x_m \mid x_o, \theta), \qquad \theta \sim p(\theta \mid \text{all rows}) ,

another :math:`\theta` for each draw: with a plug-in estimate of the parameters in its place the draws are too much
alike, and intervals made of them too short. So fitting stores draws of the posterior, the guide picks one of them, and
whatever is said of an entry is averaged over them.

Tables come on the working scale of :class:`pyro_gen.data.Scaling`: real columns standardised, counts as they are,
levels of binary, nominal and ordinal columns as codes 0, 1, ...

References:
    | Multiple Imputation for Nonresponse in Surveys (Rubin, 1987), chapter 4
"""

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._random import uniforms
from pyro_gen.data.column import Column
from pyro_gen.data.small import normal_rows
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["PosteriorDrawsProgram", "TableProgram", "last_counts", "rows_to_fit", "table_model"]

NUMBERS_PER_CHUNK = 2**22  # in the largest tensor of rows at a time
ROWS_TO_FIT = 4000


T = TypeVar("T", bound="type[TableProgram]")


def table_model(title: str, *, paper: str) -> Callable[[T], T]:
    """Class decorator: registers a program for tables, see :func:`pyro_gen.registry.model`."""

    def register(cls: T) -> T:
        columns = [Column(name, "real") for name in "abcd"]
        small = {"real columns": lambda: (cls(columns), normal_rows(9, 4, dtype=torch.float64))}
        return model(title, paper=paper, small=small, command="impute")(cls)

    return register


def last_counts(columns: Sequence[Column]) -> Tensor:
    """The counts at which draws and expectations end, of the count columns among some: infinite where none is given.

    Whatever is beyond is at the last one. The tail of a count is the exponential of something that can be far out: a
    mean taken without the end that draws have may be one that no draw ever comes near.
    """
    ends = [math.inf if c.upper is None else c.upper for c in columns if c.kind == "count"]
    return torch.tensor(ends, dtype=torch.float64)


def rows_to_fit(x: Tensor) -> Tensor:
    """The rows of a table that Gibbs sampling learns from: all, or of a longer table 4,000 at random.

    Draws by torch's global generator.
    """
    return x if len(x) <= ROWS_TO_FIT else x[torch.randperm(len(x))[:ROWS_TO_FIT].to(x.device)]


class TableProgram(Program):
    """A program for the rows of a table, whose parameters have a posterior.

    What is computed for a row depends on that row alone, and on its seed, never on the batch it comes in.

    Arguments:
        columns: The columns, as the working scale has them; a count ends at its ``upper``, if it has one.

    Attributes:
        KINDS: The kinds of columns that the program can have.
        ATOMS: Whether it gives the atoms of real columns probabilities of their own, see :attr:`.Column.atom`; to other
            programs they are numbers like others.
        columns: The D columns.

    Raises:
        ValueError: There is no column, or one of a kind that the program cannot have.
    """

    KINDS: ClassVar[frozenset[str]]
    ATOMS: ClassVar[bool] = False

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        if not columns:
            raise ValueError(f"{type(self).__name__}(columns=[]): give at least one column.")
        if others := [f"{c.name!r} is {c.kind}" for c in columns if c.kind not in self.KINDS]:
            raise ValueError(
                f"{type(self).__name__}: column {', '.join(others)}, and the program is for columns of kind "
                f"{', '.join(sorted(self.KINDS))}; take one for mixed columns (copula, auto), or leave them out."
            )
        self.columns = tuple(columns)
        self.event_shape = torch.Size((len(columns),))

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        """Whether it is worth its time on a table where nobody asks for a program by name.

        Arguments:
            columns: The number of columns.
            observed: The number of observed entries.
        """
        return True

    @abc.abstractmethod
    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Fits the posterior of the parameters: stored draws, or an ensemble.

        Arguments:
            x: A table on the working scale, with shape :math:`(N, D)` and NaN where nothing was observed.
            seed: Seeds what is random; the caller's generators are left alone.
            progress: Called with the share that is done, in [0, 1], and a few words.
            deadline: The time of :func:`time.monotonic` after which it stops as soon as it can with what it has.

        Returns:
            The program itself.
        """

    @abc.abstractmethod
    def complete(self, x: Tensor, draws: int, *, seeds: Tensor, which: range | None = None) -> Tensor:
        """Draws the missing entries of rows, another draw of the parameters for each draw.

        Arguments:
            x: Rows with shape :math:`(N, D)`, those of the fit or others.
            draws: The number S of draws.
            seeds: One seed for each row, int64, with shape :math:`(N)`.
            which: Of these draws the ones to make, ``range(3, 4)`` say, where not all are wanted at once. A draw is the
                same by itself as among others.

        Returns:
            Completed rows, with shape :math:`(S, N, D)`, or those of ``which``; seen entries are untouched.
        """

    @abc.abstractmethod
    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        r"""Scores entries one by one, given what is seen in their rows: :math:`\log p(x_{nd} \mid x_{n,o})`.

        Arguments:
            x: Rows with shape :math:`(N, D)`.
            values: What to score, with shape :math:`(N, D)`: entries that are missing in ``x``, NaN elsewhere.

        Returns:
            Log-densities on the working scale for real columns, log-probabilities for all others, averaged over the
            posterior, in nats, with shape :math:`(N, D)`; NaN where ``values`` is.
        """

    @abc.abstractmethod
    def cell_expected(self, x: Tensor) -> list[Tensor]:
        r"""What is to be expected of missing entries, each given what is seen in its row.

        Arguments:
            x: Rows with shape :math:`(N, D)`.

        Returns:
            For each real or count column the posterior means :math:`\mathbb{E}[x_{nd} \mid x_{n,o}]`, with shape
            :math:`(N, 1)`; for each of the others the probabilities of its L levels, with shape :math:`(N, L)`. What
            stands where an entry is seen means nothing.
        """

    def cell_mean(self, x: Tensor) -> Tensor:
        r"""Completes rows by the expectation of what is missing.

        Arguments:
            x: Rows with shape :math:`(N, D)`.

        Returns:
            Completed rows, with shape :math:`(N, D)`: the posterior mean of real and count columns, the most probable
            level of the others; seen entries are untouched.
        """
        expected = zip(self.columns, self.cell_expected(x), strict=True)
        means = [found.argmax(-1).to(x) if column.discrete else found.squeeze(-1) for column, found in expected]
        return torch.where(torch.isnan(x), torch.stack(means, -1).to(x), x)


class PosteriorDrawsProgram(TableProgram):
    """A program that stores posterior draws of its global sites; the guide picks one of them.

    A subclass computes with one draw of the parameters (:meth:`prepare_rows`, :meth:`complete_rows`,
    :meth:`conditionals`, :meth:`score_conditional`, :meth:`expect_conditional`); this class averages over the draws.
    """

    _sites: tuple[str, ...]

    def store_draws(self, draws: Mapping[str, Tensor]) -> None:
        """Stores draws of the posterior.

        Arguments:
            draws: By name of the global site, each with shape :math:`(S, *)`.
        """
        self._sites = tuple(draws)
        for name, values in draws.items():
            self.register_buffer(f"posterior_{name}", values.detach().contiguous())

    @property
    def num_posterior_draws(self) -> int:
        """The number S of posterior draws; before :meth:`fit_posterior` it is one, the centre of the prior."""
        return len(self.posterior_draws(self._sites[0]))

    def posterior_draws(self, name: str) -> Tensor:
        """The draws of a global site, with shape :math:`(S, *)`."""
        values: Tensor = getattr(self, f"posterior_{name}")
        return values

    def draw_indices(self, draws: int) -> list[int]:
        """Which of the S posterior draws go with each of some draws of missing entries: spread over all."""
        stored = self.num_posterior_draws
        return [(2 * s + 1) * stored // (2 * draws) if draws <= stored else s % stored for s in range(draws)]

    def guide(self, x: Tensor) -> None:
        """Picks a posterior draw."""
        self.sample_posterior_draw(x)

    def sample_posterior_draw(self, x: Tensor) -> dict[str, Tensor]:
        """What a guide says of the parameters: one of the posterior draws, by name of the site."""
        draw = pyro.sample("draw", dist.Categorical(x.new_ones(self.num_posterior_draws)), infer={"is_auxiliary": True})
        stored = ((name, self.posterior_draws(name)) for name in self._sites)
        return {name: pyro.sample(name, dist.Delta(v[draw], event_dim=v.dim() - 1)) for name, v in stored}

    # What a program says of entries given one draw of its parameters

    @property
    @abc.abstractmethod
    def uniforms_per_row(self) -> int:
        """How many uniform numbers :meth:`complete_rows` takes for a row."""

    @abc.abstractmethod
    def numbers_per_row(self) -> int:
        """How many numbers the largest tensor has for a row: so many rows are worked off at a time."""

    def prepare_rows(self, x: Tensor) -> Any:
        """What is made of rows once, for all draws."""
        return x

    @abc.abstractmethod
    def complete_rows(self, rows: Any, s: int, u: Tensor) -> Tensor:
        """Draws all entries (N, D) of prepared rows given the seen ones, by the s-th posterior draw and uniforms u."""

    @abc.abstractmethod
    def conditionals(self, x: Tensor) -> Iterator[tuple[Any, ...]]:
        """What is known of missing entries given the seen ones, for each of the posterior draws."""

    @abc.abstractmethod
    def score_conditional(self, values: Any, *given: Any) -> Tensor:
        """The log-densities (N, D) of prepared values."""

    @abc.abstractmethod
    def expect_conditional(self, *given: Any) -> Sequence[Tensor]:
        """For each column expectations (N, 1), or the probabilities of levels (N, L)."""

    # Over rows and draws

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, max(1, NUMBERS_PER_CHUNK // self.numbers_per_row()))

    def complete(self, x: Tensor, draws: int, *, seeds: Tensor, which: range | None = None) -> Tensor:
        """Draws missing entries given others in their row, see :meth:`TableProgram.complete`."""
        indices = self.draw_indices(draws)
        parts = []
        for part, own in zip(self._parts(x), self._parts(seeds), strict=True):
            rows = self.prepare_rows(part)
            wanted = range(draws) if which is None else which
            found = [self.complete_rows(rows, indices[i], uniforms(own, self.uniforms_per_row, i)) for i in wanted]
            parts.append(torch.where(torch.isnan(part), torch.stack(found), part))
        return torch.cat(parts, 1)

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries one by one, see :meth:`TableProgram.cell_log_prob`."""
        parts = []
        for part, wanted in zip(self._parts(x), self._parts(values), strict=True):
            prepared = self.prepare_rows(wanted)
            found = torch.stack([self.score_conditional(prepared, *given) for given in self.conditionals(part)])
            parts.append(found.logsumexp(0) - math.log(len(found)))
        return torch.where(torch.isnan(values), torch.nan, torch.cat(parts))

    def cell_expected(self, x: Tensor) -> list[Tensor]:
        """Posterior means, and probabilities of levels, see :meth:`TableProgram.cell_expected`."""
        parts = []
        for part in self._parts(x):
            found = [self.expect_conditional(*given) for given in self.conditionals(part)]
            parts.append([torch.stack(column).mean(0) for column in zip(*found, strict=True)])
        return [torch.cat(column) for column in zip(*parts, strict=True)]
