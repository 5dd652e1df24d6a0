r"""Hidden Markov model: each step of a sequence belongs to one of K states, which follow each other as a Markov chain.

.. math::
    z_1 \sim \operatorname{Categorical}(\pi), \qquad
    z_t \mid z_{t-1} = j \sim \operatorname{Categorical}(A_{j \cdot}), \qquad
    x_t \mid z_t = k \sim p(x \mid \theta_k)

with emissions that are normal, Student-t, Poisson or categorical, independent in the D entries of a step. The states
are summed out, as a product of matrices in logarithms that is multiplied as a tree
(:mod:`pyro_gen.distributions.hidden_markov`),

.. math:: p(x) = \pi^\top B_1 A B_2 \cdots A B_T \mathbf{1}, \qquad B_t = \operatorname{diag}_k p(x_t \mid \theta_k) ,

so there is no latent variable left and the likelihood is exact. What is missing of a step is integrated out of
:math:`B_t`, which is the identity where all is; sequences of different length are padded with NaN. Transitions that are
not allowed have probability 0, and values and gradients stay finite and exact. The gradient with respect to
:math:`\log B_{tk}` is the posterior :math:`p(z_t = k \mid x)`; the same product with a maximum in the place of sums is
Viterbi's most likely path.

References:
    | A tutorial on hidden Markov models and selected applications in speech recognition (Rabiner, 1989)
    | https://doi.org/10.1109/5.18626
    | Error bounds for convolutional codes and an asymptotically optimum decoding algorithm (Viterbi, 1967)
    | https://doi.org/10.1109/TIT.1967.1054010
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.distributions import LevelCategorical
from pyro_gen.models.sequence.parts.chains import allowed_moves, most_likely_path, state_probabilities
from pyro_gen.models.sequence.parts.emissions import EMISSIONS, check_emission
from pyro_gen.models.sequence.parts.units import moments
from pyro_gen.observation import marginalise, note_lengths, observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["EMISSIONS", "HiddenMarkov"]


@model(
    "hidden Markov model",
    paper="Rabiner (1989)",
    small={
        "normal": lambda: (HiddenMarkov((6, 2), 3), normal_rows(9, 6, 2)),
        "student_t": lambda: (HiddenMarkov(6, 3, "student_t"), normal_rows(9, 6)),
        "poisson": lambda: (HiddenMarkov(6, 3, "poisson"), level_rows(5, 9, 6)),
        "categorical": lambda: (HiddenMarkov(6, 3, "categorical", levels=4), level_rows(4, 9, 6)),
        "left to right": lambda: (HiddenMarkov(6, 3, allowed=torch.ones(3, 3).triu().bool()), normal_rows(9, 6)),
    },
)
class HiddenMarkov(Program):
    r"""Creates a hidden Markov model.

    Arguments:
        event_shape: The shape of a sequence to generate, :math:`(T)` or :math:`(T, D)`, or its length T; sequences of
            any length are observed.
        states: The number K of states.
        emission: A name in :data:`EMISSIONS`.
        levels: Of categorical emissions, the number of levels 0, 1, ..., L - 1.
        allowed: Which transitions there are, with shape :math:`(K, K)`, from the row to the column; all by default.
        start: In which states a sequence may begin, with shape :math:`(K)`; all by default.

    Attributes:
        initial: The logits of :math:`\pi`, with shape :math:`(K)`.
        transition: The logits of A, with shape :math:`(K, K)`.
        loc: Of normal and Student-t emissions, with shape :math:`(K, *D)`, about the mean of the first data that the
            program is trained on and in units of their standard deviation; of Poisson ones the logarithm of the rate.
        log_scale: Of normal and Student-t emissions, likewise in these units.
        log_df: Of Student-t emissions, the logarithm of the degrees of freedom less 1, with shape :math:`()`.
        logits: Of categorical emissions, with shape :math:`(K, *D, L)`.

    Raises:
        ValueError: Sizes or names are out of range, or a state has no successor.

    Example:
        >>> import pyro_gen as pg
        >>> x = torch.tensor([[0.0, 0.1, 5.0, float("nan"), 5.2]])
        >>> hmm = HiddenMarkov(5, 2).initialise(x)
        >>> hmm.viterbi(x).tolist()
        [[0, 0, 1, 1, 1]]
        >>> hmm.probabilities(x).shape
        torch.Size([1, 5, 2])
    """

    allowed: Tensor
    start: Tensor
    centre: Tensor
    unit: Tensor
    initialised: Tensor
    any_length = True

    def __init__(
        self,
        event_shape: int | Sequence[int],
        states: int,
        emission: str = "normal",
        *,
        levels: int | None = None,
        allowed: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        if states < 1 or not 1 <= len(self.event_shape) <= 2:
            shape = f"event_shape={tuple(self.event_shape)}, states={states}"
            raise ValueError(f"HiddenMarkov({shape}): give sequences of shape (T) or (T, D), and one state or more.")
        check_emission("HiddenMarkov", emission, levels)
        allowed, start = allowed_moves("HiddenMarkov", states, allowed, start)
        self.states, self.emission = states, emission
        each = (states, *self.event_shape[1:])
        self.initial = nn.Parameter(torch.zeros(states))
        self.transition = nn.Parameter(2.0 * torch.eye(states))
        if levels is None:
            spread = torch.linspace(-1.0, 1.0, states) if states > 1 else torch.zeros(1)
            self.loc = nn.Parameter(spread.view(-1, *(1 for _ in each[1:])).expand(each).clone())
        else:
            self.logits = nn.Parameter(torch.randn(*each, levels))
        if emission in ("normal", "student_t"):
            self.log_scale = nn.Parameter(torch.zeros(each))
        if emission == "student_t":
            self.log_df = nn.Parameter(torch.tensor(4.0).log())
        buffers = {"allowed": allowed, "start": start, "centre": torch.zeros(each[1:]), "unit": torch.ones(each[1:])}
        for name, value in {**buffers, "initialised": torch.zeros((), dtype=torch.bool)}.items():
            self.register_buffer(name, value)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Puts the states at quantiles of sequences with shape :math:`(N, T, *D)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                steps = x.flatten(0, 1)
                places = (torch.arange(self.states).to(steps) + 0.5) / self.states
                at = steps.nanquantile(places, 0).nan_to_num()  # (K, *D)
                if self.emission == "poisson":
                    self.loc.copy_((at + 0.5).log())
                elif self.emission != "categorical":
                    for buffer, value in zip((self.centre, self.unit), moments(x), strict=True):
                        buffer.copy_(value)
                    self.loc.copy_((at - self.centre) / self.unit)
                    self.log_scale.fill_(-0.5 * math.log(self.states))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def log_chain(self) -> tuple[Tensor, Tensor]:
        r"""The logarithms of :math:`\pi`, with shape :math:`(K)`, and of A, with shape :math:`(K, K)`."""
        initial = torch.where(self.start, self.initial.double(), -math.inf)
        transition = torch.where(self.allowed, self.transition.double(), -math.inf)
        return initial.log_softmax(-1), transition.log_softmax(-1)

    def emissions(self) -> Any:
        r"""The distributions :math:`p(x \mid \theta_k)`, with batch shape :math:`(K)` and event shape :math:`(*D)`."""
        event = len(self.event_shape or ()) - 1
        if self.emission == "categorical":
            categorical: Any = LevelCategorical(logits=self.logits.double())
            return categorical.to_event(event)
        loc = self.loc.double()
        if self.emission == "poisson":
            return dist.Poisson(loc.exp()).to_event(event)
        loc, scale = self.centre + self.unit * loc, self.unit * self.log_scale.double().exp()
        if self.emission == "normal":
            return dist.Normal(loc, scale).to_event(event)
        return dist.StudentT(1 + self.log_df.double().exp(), loc, scale).to_event(event)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of sequences with shape :math:`(N, T, *D)`; returns them completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        initial, transition = self.log_chain()
        steps, here = x.shape[1], torch.eye(self.states).to(transition).log()
        # Pyro's chain makes a transition before the first step: to the state that it is in.
        transitions = torch.cat([here.unsqueeze(0), transition.expand(steps - 1, -1, -1)])
        emissions = self.emissions().expand((1, self.states))
        with self.plate(x):
            chain: Any = dist.DiscreteHMM(initial, transitions, emissions, duration=steps)
            return observe("x", chain, x)

    def _chain(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The logarithms of :math:`\pi`, A and :math:`B_t`, the last with shape :math:`(N, T, K)`."""
        with torch.no_grad():
            scored, filled, _ = marginalise(self.emissions(), x.unsqueeze(2))
            return *self.log_chain(), scored.log_prob(filled)

    def probabilities(self, x: Tensor) -> Tensor:
        r"""The posterior of states, :math:`p(z_t = k \mid x)`, with shape :math:`(N, T, K)`, in float64.

        Arguments:
            x: Sequences with shape :math:`(N, T, *D)` and NaN where nothing was seen.
        """
        return state_probabilities(*self._chain(x))

    def viterbi(self, x: Tensor) -> Tensor:
        """The most likely path of states, as integers with shape :math:`(N, T)`; argument as above."""
        return most_likely_path(*self._chain(x))
