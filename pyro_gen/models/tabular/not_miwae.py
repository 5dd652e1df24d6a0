r"""Tables whose entries are missing because of what they are: a latent-variable model with a selection model.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad x_{nd} \mid z_n \sim \mathcal{N}\big(h_d(z_n), \sigma_d^2\big), \qquad
    P(s_{nd} = 1 \mid x_{nd}) = \operatorname{logit}^{-1}(\alpha_d + \beta_d x_{nd}) ,

where :math:`s_{nd} = 1` says that the entry is missing: each column masks itself, high values where
:math:`\beta_d > 0`. The decoder :math:`h` is linear by default, which makes a probabilistic PCA with selection.

not-MIWAE draws the missing entries and weighs the draws by :math:`p(s \mid x)`. Here they integrate out, by the closed
forms of :class:`~pyro_gen.distributions.selected_normal.SelectedNormal`: those of the probability of being missing,

.. math:: P(s = 1 \mid z) = \int \operatorname{logit}^{-1}(\alpha + \beta x) \, \mathcal{N}(x; h, \sigma^2) \, dx ,

and of the value that is missing, :math:`p(x \mid z, s = 1)`. The weights are those of not-MIWAE with infinitely many
draws of the missing entries.

On small tables :class:`TableSelection`, a normal of full rank with the same mechanism and a posterior over all
parameters, is nearer to the truth: on the complete half of breast cancer's columns, some of them masked above their
means, its root mean squared error is 0.67, and that of this program 0.74.

**What the data cannot tell.** That values are missing because of what they are cannot be tested by what was seen: for
each such model there is one with ignorable missingness that fits the seen entries as well (Molenberghs et al., 2008),
and without assumptions neither :math:`\beta` nor the missing values are identified. What identifies them here is
the shape of the model: normal noise, a logistic mechanism of each column's own value, the priors. Where that is
wrong the answer is wrong, however narrow its intervals. The sign of :math:`\beta` is often known from the field: give
it. Compare with an ignorable model and with shifted imputations (a sensitivity analysis) before anything rests on it.

References:
    | not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen, Mattei & Frellsen, 2021)
    | https://arxiv.org/abs/2006.12871
    | Every missingness not at random model has a missingness at random counterpart with equal fit (Molenberghs et al.,
      2008)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.distributions.selected_normal import SelectedNormal
from pyro_gen.models.tabular.parts.ensemble_training import STEPS
from pyro_gen.models.tabular.parts.latent_table import SCALE_FLOOR, LatentTable
from pyro_gen.models.tabular.parts.mechanism import known_signs
from pyro_gen.models.tabular.parts.table_program import table_model
from pyro_gen.observation import observe

__all__ = ["NotMIWAE"]

INTERCEPT_SCALE = 10.0  # the scale of the prior of the intercepts, in logits


@table_model("deep latent-variable model of values missing not at random", paper="Ipsen, Mattei & Frellsen (2021)")
class NotMIWAE(LatentTable):
    r"""Creates a latent-variable model of real columns, each of which may mask itself (missing not at random).

    Read in the module's text what the data cannot tell. Without context the pair is that of the table alone; the
    context says which entries the mechanism took: 1 missing, 0 seen (or held out from the program, where ``x`` is NaN),
    NaN unknown. Learning and imputing take every missing entry as missing by the mechanism; columns that were complete
    in learning have none. :meth:`cell_log_prob` takes the entries that it scores as held out: the mechanism left them.

    Arguments:
        columns: The D columns, all real, as the working scale has them.
        sign: What is known of the slopes: ``"unknown"``; ``"high"`` where high values go missing, ``"low"`` where low
            ones do; or one of these for columns by name, unknown for those not named.
        strength: The scale of the slopes' prior, in logits per unit of the working scale: normal, or half normal where
            the sign is known.
        latent: The number K of latent dimensions; one less than columns by default, 16 at most.
        hidden: The widths of hidden layers of a network that is added to the linear decoder; none by default.
        noise: ``"shared"`` for one scale (probabilistic PCA, as in the paper), ``"column"`` for one of each column.
        members: The number E of members of the ensemble.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.

    Raises:
        ValueError: A column is not real or unknown, an option has no such value, a size is not positive.

    Example:
        >>> program = NotMIWAE([Column("income", "real"), Column("age", "real")], sign={"income": "high"})
        >>> x = torch.tensor([[torch.nan, 0.3]])
        >>> program.model(x, torch.isnan(x).float()).shape  # the first entry is missing for what it is
        torch.Size([1, 2])
    """

    KINDS: ClassVar[frozenset[str]] = frozenset(("real",))
    active: Tensor
    known_sign: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        sign: str | Mapping[str, str] = "unknown",
        strength: float = 5.0,
        latent: int | None = None,
        hidden: Sequence[int] = (),
        noise: str = "shared",
        members: int = 5,
        particles: int = 200,
        steps: int = STEPS,
    ) -> None:
        if noise not in ("column", "shared"):
            raise ValueError(f'NotMIWAE(noise={noise!r}): give "column" or "shared".')
        if not isinstance(strength, int | float) or not strength > 0:
            raise ValueError(f"NotMIWAE(strength={strength!r}): the scale of a prior is positive.")
        latent = max(1, min(len(columns) - 1, 16)) if latent is None else latent
        d = len(columns)
        names = ("log_scale", "raw_intercept", "raw_slope", "absent", "absent_log_precision")
        super().__init__(columns, latent, hidden, members, particles, steps, dict.fromkeys(names, (d,)))
        self.noise, self.strength = noise, strength
        self.register_buffer("active", torch.ones(d, dtype=torch.bool))
        self.register_buffer("known_sign", torch.tensor(known_signs(type(self).__name__, columns, sign)))

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return False  # what it assumes, the data cannot tell: it has to be asked for

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, torch.isnan(x).to(x.dtype)

    def scored_inputs(self, x: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return x, (torch.isnan(x) & torch.isnan(values)).to(x.dtype)

    def _mechanism(self, x: Tensor, context: Sequence[Tensor]) -> Tensor:
        """What the mechanism did, NaN where it is not known or there is none, with the shape of ``x``."""
        if not context:
            return torch.full_like(x, torch.nan)
        return context[0].to(x.dtype).masked_fill(~self.active, torch.nan)

    def slope(self) -> Tensor:
        r"""The slopes :math:`\beta` of the present member, with shape :math:`(D)`."""
        raw = self.current["raw_slope"]
        sign = self.known_sign.to(raw)
        return self.strength * torch.where(sign == 0, raw, sign * F.softplus(raw))

    def log_prior(self, decay: Tensor) -> Tensor:
        slopes = (self.slope() / self.strength).square() * self.active
        # Of intercepts too, so that that of a column that is hardly ever missing stays finite.
        return super().log_prior(decay) - 0.5 * slopes.sum() - 0.5 * self.current["raw_intercept"].square().sum()

    def intercept(self) -> Tensor:
        r"""The intercepts :math:`\alpha` of the present member, with shape :math:`(D)`."""
        return INTERCEPT_SCALE * self.current["raw_intercept"]

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density :math:`p(z) \, p(s \mid z) \, p(x \mid z, s)`; returns the rows completed.

        Arguments:
            x: Rows with shape :math:`(N, D)`.
            context: What the mechanism did, with shape :math:`(N, D)`: 1 missing, 0 seen, NaN unknown; nothing is
                known of it where it is left out.
        """
        with self.plate(x):
            z = pyro.sample("z", self.prior())  # (N, K)
            s = self._mechanism(x, context)
            mechanism = self._selected(z, torch.ones_like(s))
            taken, left = mechanism.log_selected(), mechanism.log_selected(-1.0)
            if context:
                observe("missing", dist.Bernoulli(logits=taken - left, validate_args=False).to_event(1), s)
            log_selected = torch.where(torch.isnan(s), -math.log(2.0), torch.where(s == 1, taken, left))
            cells: Any = self._selected(z, s, log_selected)
            return observe("x", cells.to_event(1), x)

    def cells(self, z: Tensor, x: Tensor, *context: Tensor) -> SelectedNormal:
        r"""The distributions :math:`p(x_d \mid z, s_d)` of all entries."""
        return self._selected(z, self._mechanism(x, context))

    def _selected(self, z: Tensor, s: Tensor, log_selected: Tensor | None = None) -> SelectedNormal:
        w = self.current
        h, _ = self.decode(z)
        scale = SCALE_FLOOR + w["log_scale"].clamp(max=5.0).exp()
        if self.noise == "shared":
            scale = scale.mean(-1, keepdim=True)
        # Selected as missing, selected as seen, or not known to be selected: a logit of 0 for any value.
        sign = torch.where(torch.isnan(s), 0.0, 2 * s - 1).to(h)
        return SelectedNormal(h, scale.expand_as(h), sign * self.intercept(), sign * self.slope(), log_selected)

    def evidence(self, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        phi, precision = super().evidence(x, *context)
        w = self.current
        # An entry that the mechanism took is like one seen, at a value and with a precision that are learnt.
        taken = (self._mechanism(x, context) == 1) & torch.isnan(x)
        return (
            torch.where(taken, w["absent"], phi),
            torch.where(taken, w["absent_log_precision"].exp(), precision),
        )

    def numbers_per_row(self) -> int:
        return max(super().numbers_per_row(), SelectedNormal.numbers_per_entry * len(self.columns))

    def start(self, x: Tensor) -> Tensor:
        """Mechanisms start at the share of the column that is missing, and at the sign that is known."""
        centre = super().start(x)
        share = torch.isnan(x).double().mean(0)
        sign = self.known_sign.to(share)
        # A slope of a known sign starts at two logits per unit, any other one at none.
        known = math.log(math.expm1(2.0 / self.strength))
        with torch.no_grad():
            self.active.copy_(share > 0)
            for name, value in (
                ("raw_slope", torch.where(sign == 0, 0.0, known)),
                ("raw_intercept", share.clamp(0.01, 0.99).logit() / INTERCEPT_SCALE),
                ("absent", sign),
                ("absent_log_precision", torch.full_like(sign, -2.0)),
            ):
                self.weights[name].copy_(value.expand(self.members, -1))
        return centre
