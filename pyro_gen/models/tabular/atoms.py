r"""Real columns with an atom: one number a that many rows have exactly, while the others are spread out.

Rainfall, wages or cigarettes a day are zero more often than not. Behind such a column may be a normal variable of which
only an interval is known where the column is at its atom. With the shares :math:`s_-, q, s_+` of entries below, at and
above a

.. math::
    x = a \;\Leftrightarrow\; z_- \le z \le z_+ , \qquad z_- = \Phi^{-1}(s_-), \quad z_+ = \Phi^{-1}(s_- + q) ,

and elsewhere :math:`z = T(x)`, a curve with a jump at a, made of the curve :math:`T_0` of the entries that are not a:

.. math::
    \Phi(-T(x)) = s_+ \frac{\Phi(-T_0(x))}{\Phi(-T_0(a))} \quad (x > a), \qquad
    \Phi(T(x)) = s_- \frac{\Phi(T_0(x))}{\Phi(T_0(a))} \quad (x < a) .

Where no entry is below a, no draw is: a censored regression in one variable.

References:
    | Estimation of Relationships for Limited Dependent Variables (Tobin, 1958)
    | https://doi.org/10.2307/1907382
    | Extending the rank likelihood for semiparametric copula estimation (Hoff, 2007): ties as intervals
    | https://doi.org/10.1214/07-AOAS107
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.data.atoms import ROUNDING, at_atom
from pyro_gen.models.tabular.curves import SPACING, fit_real
from pyro_gen.models.tabular.warp import Warp

__all__ = ["AtomCurves"]


class AtomCurves(NamedTuple):
    """Increasing curves with a jump at an atom, one a column.

    Attributes:
        warp: The curves without their jumps: what is above the atom is too low by :math:`z_+ - z_-`, where both are
            finite.
        edges: The atoms a and the edges :math:`z_-, z_+` of their intervals, with shape :math:`(3, D)`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rain = (torch.randn(1000, dtype=torch.float64) - 0.5).clamp(min=0)  # dry on 69 days of a hundred
        >>> curve = AtomCurves.fit(rain, 0.0)
        >>> lower, upper, _ = curve.interval(torch.tensor([[0.0], [1.0]]).double())
        >>> (lower[0] == -torch.inf).item(), round(upper[0].item(), 1), round(upper[1].item(), 1)
        (True, 0.5, 1.5)
        >>> curve.values(torch.tensor([[-3.0], [0.4], [1.5]]).double()).round(decimals=1).flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    warp: Warp
    edges: Tensor

    @staticmethod
    def start(atoms: Tensor) -> "AtomCurves":
        """Lines of slope one for atoms with shape :math:`(D)`, before anything was observed."""
        half = torch.full_like(atoms, 0.5)
        knots = torch.tensor([0.0, 1.0]).to(atoms)
        return AtomCurves(
            Warp(atoms[:, None] + knots, knots.expand(len(atoms), -1) - 0.5), torch.stack([atoms, -half, half])
        )

    @staticmethod
    def fit(values: Tensor, atom: float) -> "AtomCurves":
        """Learns the curve of a column.

        Arguments:
            values: Its observed entries, with shape :math:`(n)`. In which order they are held out is drawn from torch's
                global generator.
            atom: Its atom.
        """
        apart = values[~at_atom(values, values.new_tensor(atom))]
        below, above = int((apart < atom).sum()), int((apart > atom).sum())
        total = len(values) + 0.5  # half an observation more at the atom: all that are there may be hidden
        z_below, z_above = torch.special.ndtri(values.new_tensor([below / total, 1 - above / total]))
        curve = fit_real(apart)
        x_left, z_left = _side(Warp(-curve.x.flip(1), -curve.z.flip(1)), -atom, below, total)
        x_right, z_right = _side(curve, atom, above, total)
        jump = z_above - z_below if below and above else 0.0
        middle = z_below if below else z_above if above else values.new_zeros(())
        x = torch.cat([-x_left.flip(0), values.new_tensor([atom]), x_right])
        z = torch.cat([-z_left.flip(0), middle.reshape(1), z_right - jump])
        if len(x) == 1:  # nothing but the atom
            return AtomCurves.start(values.new_tensor([atom]))._replace(
                edges=values.new_tensor([[atom], [-torch.inf], [torch.inf]])
            )
        return AtomCurves(Warp(x[None], z[None]), torch.stack([values.new_tensor(atom), z_below, z_above])[:, None])

    @staticmethod
    def join(curves: "Sequence[AtomCurves]") -> "AtomCurves":
        """Puts columns side by side."""
        return AtomCurves(Warp.join([c.warp for c in curves]), torch.cat([c.edges for c in curves], 1))

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What entries with shape :math:`(N, D)` say of the variables behind them.

        Returns:
            Where these begin and end, one number where an entry is not at its atom, the whole line where it is missing;
            and the logarithms of the slopes of the curves, zero where there is an interval.
        """
        atom, below, above = self.edges
        z, log_slope = self.warp(x)
        z = torch.where(x > atom, z + self._jump(), z)
        at = at_atom(x, atom)
        lower = torch.where(at, below, torch.where(torch.isnan(x), -torch.inf, z))
        upper = torch.where(at, above, torch.where(torch.isnan(x), torch.inf, z))
        return lower, upper, torch.where(at, 0.0, log_slope).nan_to_num()

    def values(self, z: Tensor) -> Tensor:
        """The entries of variables with shape :math:`(*, D)`."""
        atom, below, above = self.edges
        x = self.warp.inverse(torch.where(z > above, z - self._jump(), z))
        return torch.where((z >= below) & (z <= above), atom, x)

    def _jump(self) -> Tensor:
        _, below, above = self.edges
        return torch.where(torch.isfinite(above - below), above - below, 0.0)


def _side(curve: Warp, atom: float, count: int, total: float) -> tuple[Tensor, Tensor]:
    """Knots of the curve above an atom, of so many entries: at normal scores of what lies there."""
    if not count:
        return curve.x.new_empty(0), curve.z.new_empty(0)
    outer = float(torch.special.ndtri(torch.tensor(count / (count + 1.0), dtype=torch.float64)))
    size = 2 * max(1, round(outer / SPACING)) + 1
    score = torch.cat([torch.linspace(-outer, outer, size), torch.tensor([outer + 1])]).to(curve.x)
    share = torch.special.ndtr(-score)  # of what lies there, beyond each knot
    reached = torch.special.ndtr(-curve(curve.x.new_full((1, 1), atom))[0]).squeeze().clamp(min=1e-300)
    x = curve.inverse(-torch.special.ndtri(share * reached).unsqueeze(-1)).squeeze(-1)
    z = -torch.special.ndtri(share * count / total)
    kept, last = [], atom
    for k, value in enumerate(x.tolist()):  # where the curve is all but flat there are fewer
        if math.isfinite(value) and value > last + ROUNDING:
            kept.append(k)
            last = value
    return (x[kept], z[kept]) if kept else (x.new_tensor([atom + 1]), z[-1:])
