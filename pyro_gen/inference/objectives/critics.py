r"""Critics: networks that score data, and what keeps their slopes in bounds.

With features :math:`\phi(x)` of the last hidden layer, and the embedding :math:`e_y` of a class that is given,

.. math:: D(x, y) = w^\top \phi(x) + b + e_y^\top \phi(x) .

The second part is the projection: where both laws are :math:`p(y) \, p(x \mid y)`, the log-ratio of two exponential
families in :math:`\phi` has this form.

References:
    | cGANs with Projection Discriminator (Miyato & Koyama, 2018)
    | https://arxiv.org/abs/1802.05637
    | Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018)
    | https://arxiv.org/abs/1802.05957
    | Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue & Simonyan, 2019), the penalty
    | https://arxiv.org/abs/1809.11096
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from pyro_gen.heads import label
from pyro_gen.inference.objectives.generation import features
from pyro_gen.nets import MLP, ConvEncoder

__all__ = ["Critic", "non_orthogonality", "normalise_spectrum"]


class Critic(nn.Module):
    r"""Creates a critic for data of a shape.

    Arguments:
        x: Some data, with shape :math:`(N, *)`.
        context: What the program conditions on: it is read beside the data; or, with ``classes``, a label.
        hidden: The widths of the hidden layers of a multilayer perceptron.
        channels: Of images, the channels of the convolutions before it, see :class:`~pyro_gen.nets.ConvEncoder`.
        classes: The number of classes of the context, which is one label 0, 1, ... for each datum; 0 where it is none.

    Raises:
        ValueError: Sizes do not go together.

    Example:
        >>> critic = Critic(torch.zeros(2, 8, 8), torch.zeros(2), hidden=(32,), channels=(8, 16), classes=10)
        >>> critic(torch.zeros(5, 8, 8), torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])).shape
        torch.Size([5, 1])
    """

    def __init__(
        self, x: Tensor, *context: Any, hidden: Sequence[int], channels: Sequence[int] = (), classes: int = 0
    ) -> None:
        super().__init__()
        if (channels or classes) and not hidden:
            raise ValueError(f"Critic(hidden=(), channels={tuple(channels)}, classes={classes}): give a hidden layer.")
        if classes and (len(context) != 1 or context[0].shape != x.shape[:1]):
            raise ValueError(f"Critic(classes={classes}): the context is to be one label of each datum, shape (N,).")
        beside = () if classes else context
        self.classes = label(classes) if classes else None
        self.convolutions: nn.Module | None = None
        if channels:
            if beside:
                raise ValueError(f"Critic(channels={tuple(channels)}): beside images a critic reads classes alone.")
            images = ConvEncoder(x.shape[1:], hidden[0], channels, "leaky_relu")
            self.convolutions = nn.Sequential(images, nn.LeakyReLU())
        sizes = (*hidden,) if channels else (features(x, *beside).shape[1], *hidden)
        layers = [MLP(sizes, "leaky_relu"), nn.LeakyReLU()] if len(sizes) > 1 else []
        self.body = nn.Sequential(*layers)
        self.score = MLP((sizes[-1], 1))
        self.embedding = nn.Linear(classes, sizes[-1], bias=False) if classes else None

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """The scores of data :math:`(N, *)`, with shape (N, 1)."""
        read = self.convolutions(x) if self.convolutions else features(x, *(() if self.classes else context))
        phi = self.body(read)
        score: Tensor = self.score(phi)
        if self.classes is None or self.embedding is None:
            return score
        embedded = self.embedding(self.classes.one_hot(context[0]).to(phi))
        projected: Tensor = (embedded * phi).sum(1, keepdim=True)
        return score + projected


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The layers with a matrix of weights."""
    return (m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))


class _Scaled(nn.Module):
    """A matrix times a number, as a parametrisation."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, w: Tensor) -> Tensor:
        return self.norm * w


def normalise_spectrum(network: nn.Module, norm: float = 1.0) -> None:
    r"""Scales the matrix of each layer to a largest singular value, which a step of the power method follows.

    As the activations have slopes of at most 1, a network of L layers has then, nearly, slopes of at most
    :math:`\text{norm}^L`. (Of a convolution the matrix is that of its kernel, outputs by all the rest, whose norm is
    not the operator's.)

    Arguments:
        network: The network, changed in place.
        norm: The largest singular value.

    Example:
        >>> layer = nn.Sequential(nn.Linear(3, 4))
        >>> normalise_spectrum(layer, 2.0)
        >>> with torch.no_grad():
        ...     for _ in range(50):
        ...         _ = layer(torch.zeros(1, 3))
        >>> round(torch.linalg.matrix_norm(layer[0].weight, 2).item(), 3)
        2.0
    """
    for layer in list(_layers(network)):
        if not is_parametrized(layer, "weight"):
            spectral_norm(layer)
            register_parametrization(layer, "weight", _Scaled(norm))


def non_orthogonality(network: nn.Module) -> Tensor:
    r"""How far the rows of each layer's matrix :math:`W` are from orthogonal, whatever their lengths.

    .. math:: \sum_W \lVert W W^\top \odot (1 - I) \rVert_F^2

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[3.0, 1.0], [0.0, 2.0]]))  # the product of the rows is 2, twice
        >>> non_orthogonality(layer)
        tensor(8., grad_fn=<SumBackward0>)
    """
    total = []
    for layer in _layers(network):
        w = cast("Tensor", layer.weight).flatten(1)
        products = w @ w.T
        total.append((products - products.diagonal().diag()).square().sum())
    return torch.stack(total).sum()
