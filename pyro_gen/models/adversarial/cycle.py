r"""Translation between two domains without pairs: two generators, each of which undoes the other.

Of the domains :math:`A` and :math:`B` there are data :math:`a_n` and :math:`b_n` that have nothing to do with each
other. Given a datum of each, the program draws their translations,

.. math:: x_n = \big( F_\phi(b_n), \; G_\theta(a_n) \big) ,

which are to be told from data of their domain by nobody (two critics), and to lead back
(:class:`~pyro_gen.inference.CycleConsistent`),

.. math:: F(G(a)) \approx a, \qquad G(F(b)) \approx b .

Data are both domains side by side, with shape :math:`(N, 2, *)`, and so is the context that is translated:
``pg.fit(program, (x, x))``. What is drawn has no likelihood: the program is implicit, and given its context without
any randomness.

What makes the translation the right one is not in the game. Any one-to-one map between domains that takes one law to
the other wins it, one that makes every 3 a 5 too. It is the networks that prefer some, by what they cannot do. The
default ones make a pixel of what is at its place in the eight turned and mirrored copies of the image: they find which
way round the other domain is and what its values mean, and no 5 in a 3.

References:
    | Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al., 2017)
    | https://arxiv.org/abs/1703.10593
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["CycleGAN", "TurnedPixels"]


class TurnedPixels(nn.Module):
    """Creates a network that makes a pixel of those at its place in the eight turned and mirrored copies of an image.

    Arguments:
        hidden: The widths of the hidden layers of its multilayer perceptron, the same at each place.

    Example:
        >>> TurnedPixels((4,))(torch.zeros(3, 8, 8)).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = MLP((8, *hidden, 1), "leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images with shape (N, S, S) to as many others."""
        copies = [torch.rot90(y, k, (1, 2)) for y in (x, x.mT) for k in range(4)]
        return self.net(torch.stack(copies, -1)).squeeze(-1)  # type: ignore[no-any-return]


@model(
    "cycle-consistent generative adversarial network",
    paper="Zhu et al. (2017)",
    small={
        "images": lambda: (CycleGAN((2, 3, 3), (4,)), normal_rows(9, 2, 3, 3), normal_rows(9, 2, 3, 3)),
        "own networks": lambda: (
            CycleGAN((2, 5), (nn.Linear(5, 5), nn.Linear(5, 5))),
            *(normal_rows(9, 2, 5), normal_rows(9, 2, 5)),
        ),
    },
)
class CycleGAN(Program):
    r"""Creates two generators; give :func:`pyro_gen.fit` the objective :class:`~pyro_gen.inference.CycleConsistent`.

    Arguments:
        event_shape: The shape of a row: 2, then that of a datum of either domain.
        generators: The widths of the hidden layers of two :class:`TurnedPixels`, for square images (S, S); or two
            networks from and to data of shape :math:`(N, *)`, :math:`G` from :math:`A` to :math:`B` and :math:`F` back.

    Raises:
        ValueError: A row is not of two domains, or there are neither two networks nor square images.

    Example:
        >>> import pyro_gen as pg
        >>> cycle, x = CycleGAN((2, 8, 8)), torch.rand(5, 2, 8, 8)
        >>> pg.sample(cycle, 5, context=(x,))[:, 1].shape  # what is in A, as it would be in B
        torch.Size([5, 8, 8])
    """

    def __init__(
        self, event_shape: Sequence[int], generators: Sequence[int] | tuple[nn.Module, nn.Module] = (16,)
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        if len(self.event_shape) < 2 or self.event_shape[0] != 2:
            raise ValueError(f"CycleGAN(event_shape={tuple(event_shape)}): a row is 2 data, of shape (2, *).")
        nets = [part for part in generators if isinstance(part, nn.Module)]
        if not nets:
            if len(self.event_shape) != 3 or self.event_shape[1] != self.event_shape[2]:
                raise ValueError(
                    f"CycleGAN(event_shape={tuple(event_shape)}): of what is no square image give two networks, as "
                    "generators=(from_a_to_b, from_b_to_a)."
                )
            widths = [part for part in generators if isinstance(part, int)]
            nets = [TurnedPixels(widths), TurnedPixels(widths)]
        if len(nets) != 2:
            raise ValueError(
                f"CycleGAN(generators=...) has {len(nets)} networks: give two, (from_a_to_b, from_b_to_a)."
            )
        self.to_b, self.to_a = nets

    def model(self, x: Tensor, given: Tensor) -> Tensor:
        r"""Draws :math:`(F(b), G(a))` for each row of ``x``, with shape :math:`(N, 2, *)`; ``given`` has a and b."""
        with self.plate(x):
            translated = torch.stack([self.to_a(given[:, 1]), self.to_b(given[:, 0])], 1)
            return observe("x", dist.Delta(translated, event_dim=x.dim() - 1), x)
