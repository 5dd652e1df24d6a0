r"""Rows of a table decoded from latent variables: the decoder, and a guide that adds up evidence.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad h_n = b + W z_n + \mathrm{NN}_\theta(z_n), \qquad
    W \sim \mathcal{N}(0, 1), \quad \theta \sim \mathcal{N}(0, \lambda^{-1}) .

The linear part is a factor analysis, which is all that a small table supports; a network is added to it. What
:math:`h` says of the entries of a row is for each program to say.

The guide knows what factor analysis knows, that evidence about :math:`z` adds up over the entries that were seen,

.. math::
    q(z \mid x_o) = \mathcal{N}(P^{-1} v, P^{-1}), \qquad P = I + \sum_{f \in o} e^{\tau_f} a_f a_f^\top, \qquad
    v = \sum_{f \in o} e^{\tau_f} \phi_f a_f ,

with :math:`\phi` the standardised features (:class:`Features`), and a network of features and holes moves its
mean and stretches its scales. So it is right for any pattern of holes where the model is linear and normal.

**Training starts** at the principal axes of what was seen. Centres and scales of the columns are those of their
observed entries. The axes are those of the correlations of pairs of features, of the rows weighted at random, another
weighting for each member.

**Features** are numbers that a network can read. They are the real columns, logarithms :math:`\log(1 + n)` of counts,
codes of binary and ordinal columns, and for each level of a nominal column whether it is that one; of F features some
are missing, as the columns are.

References:
    | Maximum Likelihood Factor Analysis (Rubin & Thayer, 1982): the guide, where all is linear and normal
    | Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu & Goodman, 2018): a product of experts
    | https://arxiv.org/abs/1802.05335
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen._sizes import check_widths
from pyro_gen.data.column import Column
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress
from pyro_gen.models.tabular.parts.ensemble import Ensemble
from pyro_gen.models.tabular.parts.ensemble_training import DECAYS, train

if TYPE_CHECKING:
    pass

__all__ = ["SCALE_FLOOR", "Features", "LatentTable", "initialise_weights", "start_at_principal_axes"]
SCALE_FLOOR = 0.05  # of a real column's noise, on the working scale


class LatentTable(Ensemble):
    r"""What programs share that decode rows of a table from latent variables.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions.
        hidden: The widths of the decoder's hidden layers, the guide's has the last one; none for a linear decoder.
        members: The number E of members of the ensemble.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.
        shapes: The shapes of the parameters that a program has besides, by name.
        more: How many numbers the decoder's network gives besides those that it adds to the features.

    Attributes:
        features: The F features of the columns.
        decay: The precisions :math:`\lambda` of the prior of the networks' weights, with shape :math:`(E)`.

    Raises:
        ValueError: A size is not positive, or as by :class:`TableProgram`.
    """

    decay: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        latent: int,
        hidden: Sequence[int],
        members: int,
        particles: int,
        steps: int,
        shapes: Mapping[str, tuple[int, ...]],
        more: int = 0,
    ) -> None:
        super().__init__(columns, latent, members, particles)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"{type(self).__name__}(steps={steps!r}): give a positive whole number.")
        check_widths(self, hidden=hidden)
        self.features, self.hidden, self.steps = Features(columns), tuple(hidden), steps
        f = len(self.features)
        self.decoder_sizes = (latent, *hidden, f + more) if hidden else ()
        self.encoder_sizes = (2 * f, hidden[-1], 2 * latent) if hidden else ()
        every: dict[str, tuple[int, ...]] = {
            "offset": (f,),  # b
            "loadings": (f, latent),  # W
            **shapes,
            "experts": (f, latent),  # a
            "log_precision": (f,),  # tau
        }
        for net, sizes in (("decoder", self.decoder_sizes), ("encoder", self.encoder_sizes)):
            for i, (before, after) in enumerate(pairwise(sizes)):
                every[f"{net}_weight_{i}"], every[f"{net}_bias_{i}"] = (before, after), (after,)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(members, *shape)) for name, shape in every.items() if 0 not in shape}
        )
        self.register_buffer("decay", torch.full((members,), DECAYS[1]))
        initialise_weights(self)

    def network(self, name: str, h: Tensor) -> Tensor:
        """The output of ``"decoder"`` or ``"encoder"``, layers of tanh, for inputs (*, I)."""
        w = self.current
        layers = len(self.decoder_sizes if name == "decoder" else self.encoder_sizes) - 1
        for i in range(layers):
            h = h @ w[f"{name}_weight_{i}"] + w[f"{name}_bias_{i}"]
            h = torch.tanh(h) if i < layers - 1 else h
        return h

    def log_prior(self, decay: Tensor) -> Tensor:
        """The log-density of the prior of a member's parameters, up to a constant.

        Arguments:
            decay: The precision of the networks' weights.
        """
        w = self.current
        networks = sum((p.square().sum() for n, p in w.items() if "_weight_" in n), start=torch.zeros_like(decay))
        return -0.5 * decay * networks - 0.5 * w["loadings"].square().sum()

    def prior(self) -> Any:
        """The prior :math:`p(z)`."""
        return dist.Normal(self.current["offset"].new_zeros(self.latent), 1.0).to_event(1)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The features :math:`h` (*, F) that latent variables (*, K) stand for, and what else the network says."""
        w = self.current
        h = z @ w["loadings"].mT + w["offset"]
        if not self.decoder_sizes:
            return h, h[..., :0]
        out = self.network("decoder", z)
        return h + out[..., : h.shape[-1]], out[..., h.shape[-1] :]

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        """As of any program; the training of an ensemble gives weights and held-out entries after the context."""
        super().check_inputs(x, *context)
        in_training = len(context) > 1 and isinstance(context[-1], Tensor) and context[-1].dtype == torch.bool
        given, most = len(context) - 2 * in_training, len(self.inputs(x[:1])) - 1
        if given > most:
            raise ValueError(
                f"{type(self).__name__} was given {given} context beside the data and takes {most or 'none'}: leave it "
                "out."
            )

    def guide(self, x: Tensor, *context: Any) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)` of rows with shape :math:`(N, D)`."""
        with self.plate(x):
            pyro.sample("z", self.posterior(x, *context))  # (N, K)

    def evidence(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        r"""What entries say of the latent variables: :math:`\phi` and the precisions :math:`e^\tau`, each (N, F)."""
        w = self.current
        phi, seen = self.features(x.to(w["offset"].dtype))
        return phi, seen * w["log_precision"].exp()

    def posterior(self, x: Tensor, *context: Tensor) -> Any:
        w = self.current
        phi, precision = self.evidence(x, *context)  # (N, F) each
        a = w["experts"]  # (F, K)
        outer = (a.unsqueeze(-1) * a.unsqueeze(-2)).flatten(1)  # (F, K K)
        total = torch.eye(self.latent).to(a) + (precision @ outer).unflatten(-1, (self.latent, self.latent))  # P
        tril = dist.MultivariateNormal(a.new_zeros(self.latent), precision_matrix=total, validate_args=False).scale_tril
        shift = (precision * phi) @ a  # v, (N, K)
        loc = (tril @ (tril.mT @ shift.unsqueeze(-1))).squeeze(-1)
        if self.encoder_sizes:
            move, stretch = self.network("encoder", torch.cat([phi, (precision > 0).to(phi)], -1)).chunk(2, -1)
            loc, tril = loc + move, stretch.clamp(-3.0, 3.0).exp().unsqueeze(-1) * tril
        return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)

    def numbers_per_row(self) -> int:
        return max(
            self.latent, *self.decoder_sizes, len(self.columns), len(self.features.depths) * self.features.levels
        )

    def start(self, x: Tensor) -> Tensor:
        """Gives parameters the values that training starts from, see :func:`start_at_principal_axes`."""
        return start_at_principal_axes(self, x)

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Trains the members, see :func:`.ensemble_training.train` and :meth:`TableProgram.fit_posterior`."""
        if x.dim() != 2 or x.shape[1:] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}.fit_posterior: x has shape {tuple(x.shape)}, expected (N, {len(self.columns)})."
            )
        x = x[(~torch.isnan(x)).any(1)]
        if not len(x):
            raise ValueError(
                f"{type(self).__name__}.fit_posterior: no entry of x was seen: give rows with numbers in them."
            )
        self.to(x.device)
        with seeded(seed):
            train(self, x, seed, progress, deadline)
        if progress is not None:
            progress(1.0, f"{self.members} decoders")
        return self


START_VALUES = {"cuts": 0.5, "log_df": 2.0, "absent_log_precision": -2.0}  # of the parameters that do not start at 0
START_ROWS = 10_000  # by which features are centred, at most


@torch.no_grad()
def initialise_weights(program: "LatentTable") -> None:
    """Networks start at Glorot's weights with a last layer of 0, experts and loadings at small ones."""
    for name, p in program.weights.items():
        if "_weight_" in name:
            sizes = program.decoder_sizes if name.startswith("decoder") else program.encoder_sizes
            last = int(name.rsplit("_", 1)[1]) == len(sizes) - 2
            p.copy_(0.0 * p if last else torch.randn_like(p) * (2 / (p.shape[-2] + p.shape[-1])) ** 0.5)
        elif name == "loadings":
            p.copy_(0.3 * torch.randn_like(p))
        elif name == "experts":
            p.copy_(program.weights["loadings"])
        else:
            p.fill_(START_VALUES.get(name, 0.0))


@torch.no_grad()
def start_at_principal_axes(program: "LatentTable", x: Tensor) -> Tensor:
    """Starts every member at the principal axes of pairwise correlations, of its own weighting of the rows.

    Arguments:
        program: The program; its parameters are overwritten.
        x: Rows with shape :math:`(N, D)`.

    Returns:
        The centres of the features, which the offsets start at, float64 with shape :math:`(F)`.
    """
    initialise_weights(program)
    features, weights = program.features, program.weights
    sample = torch.randperm(len(x), device=x.device)[:START_ROWS]
    x = x[sample].double()
    centre, spread = features.standardise(features.raw(x))
    weights["offset"].copy_(centre.expand(program.members, -1))
    real, count, *_ = features.parts
    # What each feature is worth in the decoder's output: the logarithm of a mean, about 2 logits per deviation.
    worth = torch.cat([spread[: real + count], torch.full_like(spread[real + count :], 2.0)])
    phi, seen = features(x)
    for e in range(program.members):
        weight = -torch.rand(len(x), 1, device=x.device, dtype=x.dtype).log()
        mine = seen * weight.sqrt()
        together = mine.mT @ mine
        correlation = ((phi * mine).mT @ (phi * mine)) / together.clamp(min=1.0)
        correlation = correlation * (together / (together + 5.0))  # pairs hardly ever seen together say little
        values, axes = torch.linalg.eigh(correlation)
        k = min(program.latent, len(values))
        rest = values[:-k].clamp(min=0.0).mean() if len(values) > k else values.new_tensor(0.1)
        axes = axes[:, -k:] * (values[-k:] - rest).clamp(min=1e-2).sqrt()  # (F, k)
        noise = (1 - axes.square().sum(1)).clamp(0.05, 1.0)
        weights["loadings"][e, :, :k] = (worth.unsqueeze(1) * axes).to(weights["loadings"])
        weights["experts"][e, :, :k] = axes.to(weights["experts"])
        weights["log_precision"][e] = -noise.log().to(weights["log_precision"])
        if real:
            weights["log_scale"][e] = (noise[:real].sqrt() * spread[:real]).log().to(weights["log_scale"])
    return centre


KINDS = ("real", "count", "binary", "ordinal", "nominal")  # in this order


class Features(nn.Module):
    """Creates the features of columns.

    Arguments:
        columns: The D columns.

    Attributes:
        sizes: The number of columns of each kind.
        depths: The numbers of levels of the binary, the ordinal and the nominal columns.
        levels: The largest of them, 2 at least.
        order: Which columns these are, in the order of kinds, with shape (D).
        column_of: The column of each feature, with shape (F).
        nominal_at: Where the levels of nominal columns are among all of their features, with shape (M, L).
        centre, spread: What features are standardised by, with shape (F).

    Example:
        >>> features = Features([Column("town", "nominal", ("a", "b")), Column("height", "real")])
        >>> phi, seen = features(torch.tensor([[1.0, torch.nan]]))
        >>> phi.tolist(), seen.tolist()  # height; town a, town b
        ([[0.0, 0.0, 1.0]], [[False, True, True]])
    """

    order: Tensor
    column_of: Tensor
    level_of: Tensor
    nominal_at: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        of_kind = {kind: [d for d, c in enumerate(columns) if c.kind == kind] for kind in KINDS}
        depth = {d: len(c.levels) for d, c in enumerate(columns) if c.discrete}
        self.sizes = {kind: len(of_kind[kind]) for kind in KINDS}
        self.depths = [depth[d] for kind in KINDS[2:] for d in of_kind[kind]]
        self.levels = max([2, *self.depths])
        single = [d for kind in KINDS[:-1] for d in of_kind[kind]]
        flat = [(d, level) for d in of_kind["nominal"] for level in range(depth[d])]
        position = {cell: i for i, cell in enumerate(flat)}
        at = [[position.get((d, level), 0) for level in range(self.levels)] for d in of_kind["nominal"]]
        for name, value in (
            ("order", [d for kind in KINDS for d in of_kind[kind]]),
            ("column_of", single + [d for d, _ in flat]),
            ("level_of", [level for _, level in flat]),
            ("nominal_at", at),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.long), persistent=False)
        self.register_buffer("centre", torch.zeros(len(self)))
        self.register_buffer("spread", torch.ones(len(self)))

    def __len__(self) -> int:
        return len(self.column_of)

    @property
    def parts(self) -> list[int]:
        """How many features are real, counts, codes and levels."""
        sizes = [self.sizes["real"], self.sizes["count"], self.sizes["binary"] + self.sizes["ordinal"]]
        return [*sizes, len(self) - sum(sizes)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised features of rows (N, D), 0 where missing, and which were seen, each (N, F)."""
        raw = self.raw(x)
        seen = ~torch.isnan(raw)
        return ((raw - self.centre.to(raw)) / self.spread.to(raw)).masked_fill(~seen, 0.0), seen

    def raw(self, x: Tensor) -> Tensor:
        """Features of rows (N, D) before they are standardised, NaN where missing."""
        real, count, code, level = x.index_select(-1, self.column_of).split(self.parts, -1)
        hit = torch.where(torch.isnan(level), level, (level == self.level_of).to(level))
        return torch.cat([real, count.clamp(min=0.0).log1p(), code, hit], -1)

    def standardise(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Learns what to standardise by from raw features of a table (N, F): centre and spread, which it returns."""
        centre = raw.nanmean(0).nan_to_num()
        spread = (raw - centre).square().nanmean(0).sqrt().nan_to_num()
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        return centre, spread
