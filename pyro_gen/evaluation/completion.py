r"""Document completion: how well words of a document are predicted from its other words.

Each token of a document is seen or held out by a fair coin. Of what a model says the next word is, :math:`p_n` given
what is seen of document n, the perplexity per held-out token is

.. math:: \exp\Big(- \frac{\sum_{nv} h_{nv} \log p_{nv}}{\sum_{nv} h_{nv}}\Big) .

Unlike bounds on the probability of whole documents, which libraries define each in its own way, it can be compared.

References:
    | Evaluation Methods for Topic Models (Wallach, Murray, Salakhutdinov & Mimno, 2009)
    | https://doi.org/10.1145/1553374.1553515
"""

import math

import torch
from torch import Tensor

from pyro_gen._random import seeded

__all__ = ["completion_perplexity", "halves"]


def halves(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Splits the tokens of documents at random.

    Arguments:
        x: Counts with shape (N, V), NaN where one was not seen.
        seed: Seeds the split.

    Returns:
        The counts that are seen, NaN where ``x`` is, and those held out, 0 there, both with shape (N, V).

    Example:
        >>> seen, held = halves(torch.tensor([[4.0, 0.0, torch.nan]]))
        >>> (seen + held)[0, :2].tolist(), seen[0, 2].item(), held[0, 2].item()
        ([4.0, 0.0], nan, 0.0)
    """
    with seeded(seed):
        held = torch.binomial(x.nan_to_num(), torch.full_like(x, 0.5))
    return x - held, held


def completion_perplexity(held: Tensor, p: Tensor) -> tuple[float, float]:
    """The perplexity of held-out counts (N, V) under probabilities (N, V), and its sampling error over documents.

    Example:
        >>> value, _ = completion_perplexity(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.5, 0.5]]))
        >>> round(value, 4)
        2.0
    """
    held = held.double()
    scores = (held * p.double().clamp(min=1e-300).log()).sum(1)  # (N,)
    tokens = held.sum(1)
    mean = scores.sum() / tokens.sum()
    value = math.exp(-mean)
    error = (scores - tokens * mean).square().sum().sqrt() / tokens.sum()  # of a ratio, by the delta method
    return value, value * float(error)
