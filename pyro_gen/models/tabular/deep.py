r"""A deep latent-variable model of tables: an importance-weighted autoencoder that takes rows with holes.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad h_n = b + W z_n + \mathrm{NN}_\theta(z_n), \qquad
    x_{nd} \mid z_n \sim p_d(x_{nd} \mid h_n)

Each column has a likelihood of its kind, with its share of :math:`h`:

* real: Student-t, :math:`h` its location, with :math:`3 + e^\nu` degrees of freedom and a scale that the network may
  move; or normal;
* count: negative binomial, :math:`h` the logarithm of its mean;
* binary: Bernoulli, :math:`h` its logit; ordinal: cumulative logit with ordered cut-points;
* nominal: categorical, an entry of :math:`h` for each level.

The guide adds up what seen features :math:`\phi_f` say of :math:`z`, :math:`q(z \mid x_o) = \mathcal{N}(P^{-1} v,
P^{-1})` with :math:`P = I + \sum_{f \in o} e^{\tau_f} a_f a_f^\top` and :math:`v = \sum_{f \in o} e^{\tau_f} \phi_f
a_f`, and a network moves it. An ensemble stands for the posterior of the parameters: member e maximises

.. math::
    \sum_n \omega_{ne} \log \frac{1}{K} \sum_k \frac{p(x_{n,o} \mid z_{nke}) \, p(z_{nke})}{q(z_{nke} \mid x_{n,o})}
    + \log p(\theta_e), \qquad \omega_{ne} \sim \operatorname{Exp}(1) .

Missing entries are drawn from :math:`p(x_m \mid z, \theta_e)`, with :math:`z` by importance sampling from the guide.

References:
    | MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019)
    | https://arxiv.org/abs/1812.02633
    | Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020)
    | https://arxiv.org/abs/1807.03653
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.distributions.mixed_columns import MixedColumns, cut_points, level_logits, marginal_cuts
from pyro_gen.models.tabular.parts.ensemble_training import STEPS
from pyro_gen.models.tabular.parts.latent_table import SCALE_FLOOR, Features, LatentTable
from pyro_gen.models.tabular.parts.table_program import last_counts, table_model
from pyro_gen.observation import observe

__all__ = ["DeepLatentTable"]


@table_model("ensemble of deep latent-variable models", paper="Mattei & Frellsen (2019)")
class DeepLatentTable(LatentTable):
    r"""Creates a deep latent-variable model of mixed columns.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions; a third of the number of features by default, 16 at most.
        hidden: The widths of the decoder's hidden layers; ``()`` leaves the linear part alone.
        members: The number E of members of the ensemble.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.
        real: The likelihood of real columns, ``"student_t"`` (with a scale that depends on :math:`z` where there is a
            network) or ``"normal"``.

    Raises:
        ValueError: A size is not positive, there is no such likelihood, or as by :class:`TableProgram`.

    Example:
        >>> columns = [Column("height", "real"), Column("visits", "count"), Column("smokes", "binary", ("no", "yes"))]
        >>> program = DeepLatentTable(columns)
        >>> program.model(torch.full((5, 3), torch.nan)).shape  # five generated rows
        torch.Size([5, 3])
    """

    KINDS: ClassVar[frozenset[str]] = frozenset(("real", "count", "binary", "nominal", "ordinal"))

    ceiling: Tensor
    last: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        latent: int | None = None,
        hidden: Sequence[int] = (32,),
        members: int = 5,
        particles: int = 200,
        steps: int = STEPS,
        real: str = "student_t",
    ) -> None:
        if real not in ("student_t", "normal"):
            raise ValueError(f'DeepLatentTable(real={real!r}): give "student_t" or "normal".')
        features = Features(columns)
        r, c, o = features.sizes["real"], features.sizes["count"], features.sizes["ordinal"]
        if latent is None:
            latent = max(1, min(len(features) - 1, math.ceil(len(features) / 3), 16))
        shapes = {"log_scale": (r,), "log_size": (c,), "cuts": (o, max(1, features.levels - 1))}
        if real == "student_t":
            shapes["log_df"] = (r,)
        super().__init__(columns, latent, hidden, members, particles, steps, shapes, more=r)
        self.real = real
        self.register_buffer("last", last_counts(columns))
        self.register_buffer("ceiling", torch.full((c,), 20.0))  # of the logarithms of means of counts

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        # Of fewer entries a network learns little that others do not; of more, draws of rows take hours.
        return 20_000 <= observed <= 500_000 and columns <= 1_000  # it starts at axes of a correlation

    def log_prior(self, decay: Tensor) -> Tensor:
        log_prior = super().log_prior(decay)
        w = self.current
        if "log_df" in w:  # 3 + 7 degrees of freedom, within a factor of e
            log_prior = log_prior - 0.5 * (w["log_df"] - 2.0).square().sum()
        if "log_size" in w:
            log_prior = log_prior - 0.125 * (w["log_size"] - 1.0).square().sum()
        return log_prior

    def model(self, x: Tensor, *context: Any) -> Tensor:
        """The joint density :math:`p(x, z)` of rows with shape :math:`(N, D)`; returns them completed."""
        with self.plate(x):
            z = pyro.sample("z", self.prior())  # (N, K)
            return observe("x", self.cells(z, x).to_event(1), x)

    def cells(self, z: Tensor, x: Tensor, *context: Tensor) -> Any:
        r"""The likelihoods :math:`p_d(x_d \mid z)` of all columns: z of shape (*, K) gives a batch of (*, D)."""
        w, features = self.current, self.features
        h, noise = self.decode(z)  # (*, F); (*, R), or nothing without a network
        loc, log_mean, code, level = h.split(features.parts, -1)
        binary, ordinal = code.split([features.sizes["binary"], features.sizes["ordinal"]], -1)
        log_scale = w["log_scale"] if "log_scale" in w else h.new_zeros(0)
        scale = SCALE_FLOOR + (log_scale + noise if self.decoder_sizes else log_scale).clamp(max=5.0).exp()
        at = features.nominal_at  # (M, L)
        return MixedColumns(
            loc,
            scale.expand_as(loc),
            3 + w["log_df"].clamp(max=8.0).exp() if "log_df" in w else None,
            torch.minimum(log_mean.clamp(min=-10.0), self.ceiling.to(log_mean)),
            w["log_size"].clamp(-4.0, 8.0) if "log_size" in w else h.new_zeros(0),
            level_logits(
                binary,
                ordinal,
                cut_points(w["cuts"]) if "cuts" in w else None,
                level.index_select(-1, at.flatten()).unflatten(-1, at.shape) if len(at) else None,
                features.depths,
            ),
            features.order,
            self.last,
        )

    def start(self, x: Tensor) -> Tensor:
        """Each column starts at the distribution of its observed entries, whatever the latent variables."""
        centre = super().start(x)
        sizes, x = self.features.sizes, x.double()
        real, counts, binary, ordinal, nominal = centre.split(
            [*(sizes[kind] for kind in ("real", "count", "binary", "ordinal")), self.features.parts[-1]]
        )
        numbers = x.index_select(-1, self.features.column_of[sizes["real"] :][: sizes["count"]])
        mean = numbers.nanmean(0).nan_to_num(1.0).clamp(min=1e-2)
        parts = [real, mean.log(), binary.clamp(0.02, 0.98).logit(), 0.0 * ordinal, nominal.clamp(min=1e-3).log()]
        with torch.no_grad():
            self.weights["offset"].copy_(torch.cat(parts).expand(self.members, -1))
            if len(counts):
                self.ceiling.copy_((10 * numbers.nan_to_num(0.0).max(0).values + 10).log())
                variance = (numbers - mean).square().nanmean(0).nan_to_num(1.0)
                size = mean.square() / (variance - mean).clamp(min=0.01 * mean.square())
                self.weights["log_size"].copy_(size.clamp(0.1, 100.0).log().expand(self.members, -1))
            if len(ordinal):
                first = sizes["real"] + sizes["count"] + sizes["binary"]
                codes = x.index_select(-1, self.features.order[first : first + len(ordinal)])
                cuts = marginal_cuts(codes, self.features.levels)
                self.weights["cuts"].copy_(cuts.expand(self.members, -1, -1))
        return centre
