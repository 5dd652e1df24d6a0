r"""Adversarial training: a critic learns to tell data from draws of the program, which learns to be mistaken for data.

With the critic's score :math:`D(x)` and draws :math:`y` of the program, the two players minimise

.. math::
    \mathcal{L}_D = \mathbb{E} \, a(D(x)) + \mathbb{E} \, b(D(y)) + \text{penalty}, \qquad
    \mathcal{L}_G = \mathbb{E} \, c(D(y)) .

================== ============================ ============================ ==============================
loss               a(D), of data                b(D), of draws               c(D), of the program
================== ============================ ============================ ==============================
non_saturating     :math:`\log(1 + e^{-D})`     :math:`\log(1 + e^D)`        :math:`\log(1 + e^{-D})`
wasserstein        :math:`-D`                   :math:`D`                    :math:`-D`
hinge              :math:`\max(0, 1 - D)`       :math:`\max(0, 1 + D)`       :math:`-D`
minimax            :math:`\log(1 + e^{-D})`     :math:`\log(1 + e^D)`        :math:`-b(D)`
kl                 :math:`-D`                   :math:`e^{D - 1}`            :math:`-b(D)`
reverse_kl         :math:`e^{-D}`               :math:`D - 1`                :math:`-b(D)`
pearson            :math:`-D`                   :math:`D^2 / 4 + D`          :math:`-b(D)`
squared_hellinger  :math:`e^{-D} - 1`           :math:`e^D - 1`              :math:`-b(D)`
================== ============================ ============================ ==============================

The last five are f-divergences of the data's law :math:`p` from the program's :math:`q`,

.. math::
    D_f(p \Vert q) = \int q(x) \, f\Big(\frac{p(x)}{q(x)}\Big) \, dx
    = \max_D \; - \mathbb{E}_p \, a(D(x)) - \mathbb{E}_q \, b(D(x)) ,

with :math:`f(u) = u \log u`, :math:`-\log u`, :math:`(u - 1)^2` and :math:`(\sqrt u - 1)^2`. That of ``minimax`` is
:math:`2 \, \text{JS}(p, q) - \log 4`. At the best critic the gradient of the program's loss is that of the divergence;
far from it ``minimax`` saturates: where draws are told from data for sure, it is flat.

No loss tells how good the program is: judge its draws (:mod:`pyro_gen.evaluation.samples`).

References:
    | Generative Adversarial Networks (Goodfellow et al., 2014)
    | https://arxiv.org/abs/1406.2661
    | Which Training Methods for GANs do actually Converge? (Mescheder, Geiger & Nowozin, 2018), R1
    | https://arxiv.org/abs/1801.04406
    | f-GAN: Training Generative Neural Samplers using Variational Divergence Minimization (Nowozin et al., 2016)
    | https://arxiv.org/abs/1606.00709
    | Wasserstein Generative Adversarial Networks (Arjovsky, Chintala & Bottou, 2017), clipped weights
    | https://arxiv.org/abs/1701.07875
    | Improved Training of Wasserstein GANs (Gulrajani et al., 2017), the gradient penalty
    | https://arxiv.org/abs/1704.00028
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from pyro_gen._sizes import check_weights
from pyro_gen.inference.objectives.base import Objective, Player
from pyro_gen.inference.objectives.critics import Critic, non_orthogonality, normalise_spectrum
from pyro_gen.inference.objectives.generation import generate, rehearse
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["Adversarial"]

Score = Callable[[Tensor], Tensor]

LOSSES: dict[str, tuple[Score, Score, Score]] = {
    "non_saturating": (lambda d: softplus(-d), softplus, lambda d: softplus(-d)),
    "wasserstein": (lambda d: -d, lambda d: d, lambda d: -d),
    "hinge": (lambda d: relu(1 - d), lambda d: relu(1 + d), lambda d: -d),
    "minimax": (lambda d: softplus(-d), softplus, lambda d: -softplus(d)),
    "kl": (lambda d: -d, lambda d: (d - 1).exp(), lambda d: -(d - 1).exp()),
    "reverse_kl": (lambda d: (-d).exp(), lambda d: d - 1, lambda d: 1 - d),
    "pearson": (lambda d: -d, lambda d: d.square() / 4 + d, lambda d: -d.square() / 4 - d),
    "squared_hellinger": (lambda d: (-d).exp() - 1, lambda d: d.exp() - 1, lambda d: 1 - d.exp()),
}


@objective
class Adversarial(Objective):
    r"""A game of two players, the program (``generator`` in the history its ``train_loss``) and the ``critic``.

    Arguments:
        critic: A network that maps data of shape :math:`(N, *)`, and the context after it, to scores of shape
            :math:`(N,)` or :math:`(N, 1)`; or the widths of the hidden layers of a
            :class:`~pyro_gen.inference.objectives.critics.Critic`, which is then made for the data.
        loss: A name of the table above.
        channels: Of images, the channels of the convolutions before these layers.
        classes: The number of classes, where the context is a label: the critic that is made projects on it.
        r1: The weight :math:`\gamma` of :math:`\frac{\gamma}{2} \mathbb{E} \lVert \nabla D(x) \rVert^2` at the data, by
            which the game converges; 0 for none. In units of the data: data twice as wide need four times as much.
        gradient_penalty: The weight :math:`\lambda` of :math:`\lambda \, \mathbb{E} (\lVert \nabla D(u) \rVert - 1)^2`,
            :math:`u` uniform between datum and draw, for ``loss="wasserstein"``.
        spectral: The largest singular value that the matrix of each of the critic's layers is scaled to; ``None`` for
            matrices as they are.
        orthogonal: The weight of :math:`\sum_W \lVert W W^\top \odot (1 - I) \rVert_F^2` of the critic's matrices.
        clip: The bound :math:`c` on the critic's weights, clipped to :math:`[-c, c]` after each of its steps; ``None``
            for none.
        critic_steps: Steps of the critic in a round.
        critic_lr: Its learning rate, by default that of :func:`pyro_gen.fit`.
        betas: The decay rates of Adam, of both players.

    Attributes:
        critic: The critic; of widths, ``None`` until :meth:`prepare`.

    Raises:
        ValueError: There is no loss of that name, a weight is negative, or a bound is not positive.
    """

    anneals = False
    serves_missing = False
    kinds = ("exact", "bound", "implicit")

    def __init__(
        self,
        critic: nn.Module | Sequence[int] = (128, 128),
        loss: str = "non_saturating",
        r1: float = 0.1,
        gradient_penalty: float = 0.0,
        channels: Sequence[int] = (),
        classes: int = 0,
        spectral: float | None = None,
        orthogonal: float = 0.0,
        clip: float | None = None,
        critic_steps: int = 1,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"Adversarial(loss={loss!r}): choose one of {', '.join(LOSSES)}.")
        check_weights(self, r1=r1, gradient_penalty=gradient_penalty, orthogonal=orthogonal)
        if not all(bound is None or bound > 0 for bound in (spectral, clip)):
            raise ValueError(f"Adversarial(spectral={spectral}, clip={clip}): bounds are positive.")
        if isinstance(critic, nn.Module) and (channels or classes):
            raise ValueError("Adversarial(channels=, classes=): they are of a critic that is made, not of one's own.")
        self.hidden = () if isinstance(critic, nn.Module) else tuple(critic)
        self.channels, self.classes = tuple(channels), classes
        self.spectral, self.orthogonal, self.clip = spectral, orthogonal, clip
        self.critic: nn.Module | None = None
        if isinstance(critic, nn.Module):
            self._take(critic)
        self.kind, self.r1, self.gradient_penalty = loss, r1, gradient_penalty
        self.critic_steps, self.critic_lr, self.betas = critic_steps, critic_lr, betas

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Makes the critic, where its widths are given."""
        rehearse(program, x, *context)
        if self.critic is None:
            self._take(self._made(x, *context).to(x))

    def _made(self, x: Tensor, *context: Any) -> nn.Module:
        return Critic(x, *context, hidden=self.hidden, channels=self.channels, classes=self.classes)

    def _take(self, critic: nn.Module) -> None:
        if self.spectral is not None:
            normalise_spectrum(critic, self.spectral)
        self.critic = critic

    def players(self, program: Program) -> Sequence[Player]:
        if self.critic is None:
            raise ValueError("Adversarial: give a critic, or call prepare(program, x) first, as pg.fit does.")
        its = [p for p in self.critic.parameters() if p.requires_grad]
        critics = {id(p) for p in its}  # which are parameters of a program, too, that has this objective for its own
        own = [p for p in program.parameters() if p.requires_grad and id(p) not in critics]
        return (
            Player("generator", own, self.loss, betas=self.betas),
            Player("critic", its, self.critic_loss, self.critic_steps, self.critic_lr, self.betas, self.clip),
        )

    def loss(self, program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        """The loss of the program, of the full data set."""
        drawn = generate(program, x, *context)
        return data_scale(x) * self._of_program(self._scores(drawn, *context)).sum()

    def critic_loss(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        """The loss of the critic, of the full data set; arguments as of :meth:`~Objective.loss`."""
        real = x.detach().requires_grad_(self.r1 > 0)
        drawn = generate(program, x, *context).detach()
        of_data, of_draws, _ = LOSSES[self.kind]
        scores = self._scores(real, *context)
        loss = of_data(scores) + of_draws(self._scores(drawn, *context))
        if self.r1 > 0:
            loss = loss + self.r1 / 2 * _squared_slope(scores, real)
        if self.gradient_penalty > 0:
            u = torch.rand(len(x), *(1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
            between = (u * x + (1 - u) * drawn).detach().requires_grad_()
            slope = (_squared_slope(self._scores(between, *context), between) + 1e-12).sqrt()
            loss = loss + self.gradient_penalty * (slope - 1).square()
        if self.orthogonal > 0:
            loss = loss + self.orthogonal * non_orthogonality(self.critic)  # type: ignore[arg-type]
        return data_scale(x) * loss.sum()

    def _of_program(self, scores: Tensor) -> Tensor:
        """What the program loses by the scores of its draws."""
        return LOSSES[self.kind][2](scores)

    def _scores(self, x: Tensor, *context: Any) -> Tensor:
        scores: Tensor = self.critic(x, *context)  # type: ignore[misc]
        if scores.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(f"The critic returns shape {tuple(scores.shape)}, not {(len(x),)}: one score per datum.")
        return scores.reshape(len(x))


def _squared_slope(scores: Tensor, x: Tensor) -> Tensor:
    """The squared norm of the gradient of each datum's score, with shape (N,)."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.reshape(len(x), -1).square().sum(1)
