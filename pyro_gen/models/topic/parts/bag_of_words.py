"""What topic models share: counts of words whose probabilities are the document's, and documents of any length."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen.distributions import NegativeMultinomial
from pyro_gen.program import Program

__all__ = ["BagOfWords", "check_counts"]


class BagOfWords(Program):
    """A program of counts with shape (N, V), a word a column; their total is Gamma-Poisson.

    Arguments:
        features: The size V of the vocabulary.
        topics: The number K of topics.

    Attributes:
        log_length: The logarithms of a and b of the total, see
            :class:`pyro_gen.distributions.NegativeMultinomial`, with shape (2,).

    Raises:
        ValueError: There are fewer than two words or no topic.
    """

    initialised: Tensor

    def __init__(self, features: int, topics: int) -> None:
        super().__init__()
        if features < 2 or topics < 1:
            raise ValueError(f"{type(self).__name__}({features}, {topics}): give 2 words and 1 topic, or more.")
        self.event_shape = torch.Size((features,))
        self.features, self.topics = features, topics
        self.log_length = nn.Parameter(torch.zeros(2))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def counts(self, probabilities: Tensor) -> NegativeMultinomial:
        """The law of the counts of documents, of the probabilities of their words with shape (*, V)."""
        a, b = self.log_length.exp()
        return NegativeMultinomial(a, b, probabilities)

    def fit_lengths(self, x: Tensor) -> None:
        """Sets the law of totals by their moments; what was not seen of a document counts as in the others."""
        mean = x.nanmean(0).nan_to_num()
        seen = torch.where(x.isnan(), 0.0, mean).sum(1) / mean.sum()
        totals = (x.nansum(1) / seen)[seen > 0]
        m, variance = totals.mean(), totals.var(correction=0)
        a = (m.square() / (variance - m).clamp(min=m / 100)).clamp(1e-2, 1e4)
        with torch.no_grad():
            self.log_length.copy_(torch.stack([a, a / m]).log())

    def word_probabilities(self, x: Tensor, seed: int = 0) -> Tensor:
        """The probabilities of the next word of documents, given what is seen of them.

        Arguments:
            x: Counts with shape (N, V), NaN where one was not seen.
            seed: Seeds the draws, where there are any.

        Returns:
            Probabilities with shape (N, V).
        """
        raise NotImplementedError


def check_counts(program: Program, x: Any) -> None:
    """Refuses data that are no counts.

    Raises:
        ValueError: A number is negative or no integer.
    """
    seen = x[~torch.isnan(x)]
    if bool((seen < 0).any()) or bool((seen != seen.round()).any()) or bool(seen.isinf().any()):
        wrong = seen[(seen < 0) | (seen != seen.round()) | seen.isinf()][0].item()
        raise ValueError(f"{type(program).__name__}: {wrong:g} is no count of a word; give integers from 0 on, or NaN.")
