r"""Networks of encoders and decoders.

They are made of ``torch.nn`` layers and take any number of batch dimensions on the left (data, particles), so that
they work on plates as under ``torch.func.vmap``; nothing in them depends on the values of the data.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "GRU", "MLP", "ConvDecoder", "ConvEncoder", "MaskedLinear", "MissingInput"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"There is no activation named {name!r}: choose one of {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]()


class MissingInput(nn.Module):
    r"""Creates a first layer that takes data with missing entries (NaN).

    .. math:: h = W \, x_0 + b + V m, \qquad m = [x \text{ is NaN}], \quad x_0 = x \text{ with } 0 \text{ for NaN}

    A missing entry contributes nothing through W, and V lets the layer tell it from an entry that is 0. V starts at 0:
    as long as no missing entry was seen in training, one counts as the value 0, which is the middle of normalised data.

    Arguments:
        layer: The layer of W and b, an ``nn.Linear`` or ``nn.Conv2d``.

    Example:
        >>> layer = MissingInput(nn.Linear(2, 3))
        >>> x = torch.tensor([[1.0, torch.nan], [1.0, 0.0]])
        >>> bool((layer(x)[0] == layer(x)[1]).all())  # before training
        True
        >>> _ = nn.init.ones_(layer.missing.weight)
        >>> bool((layer(x)[0] == layer(x)[1]).any())
        False
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.seen = layer
        self.missing = copy.deepcopy(layer)
        self.missing.register_parameter("bias", None)
        nn.init.zeros_(self.missing.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to ``x`` of the layer's input shape, NaN where missing; no NaN in the output."""
        missing = torch.isnan(x)
        return self.seen(x.masked_fill(missing, 0.0)) + self.missing(missing.to(x.dtype))  # type: ignore[no-any-return]


class MaskedLinear(nn.Linear):
    """Creates a linear layer some of whose weights are zero for good, of which autoregressive networks are made.

    Arguments:
        mask: Which inputs an output may depend on, with shape (outputs, inputs).
        bias: Whether there is a bias.

    Example:
        >>> layer = MaskedLinear(torch.tensor([[True, False], [True, True]]))
        >>> jacobian = torch.autograd.functional.jacobian(layer, torch.zeros(2))
        >>> (jacobian != 0).tolist()
        [[True, False], [True, True]]
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MLP(nn.Sequential):
    """Creates a multilayer perceptron, from shape (*, sizes[0]) to (*, sizes[-1]).

    The weights start as in Understanding the Difficulty of Training Deep Feedforward Neural Networks (Glorot & Bengio,
    2010), at which the variance of a signal survives the layers.

    Arguments:
        sizes: The widths of input, hidden layers and output.
        activation: What stands between the layers, a name in :data:`ACTIVATIONS`.
        dropout: The share of each hidden layer dropped in training.
        missing: Whether the input may have missing entries, see :class:`MissingInput`.

    Raises:
        ValueError: There are fewer than two sizes, or no activation of that name.

    Example:
        >>> MLP((4, 16, 2), activation="tanh")(torch.zeros(7, 3, 4)).shape
        torch.Size([7, 3, 2])
    """

    def __init__(
        self, sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0, missing: bool = False
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"MLP(sizes={tuple(sizes)}): give at least the widths of input and output.")
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            if i > 0:
                layers += [_activation(activation), *([nn.Dropout(dropout)] if dropout else [])]
            linear = nn.Linear(before, after)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers.append(MissingInput(linear) if missing and i == 0 else linear)
        super().__init__(*layers)


class GRU(nn.Module):
    r"""Creates a gated recurrent network (Cho et al., 2014) of sequences with any number of batch dimensions.

    .. math::
        r, u = \sigma(A x_t + B h_{t-1}), \qquad n = \tanh(C x_t + r \odot D h_{t-1}), \qquad
        h_t = (1 - u) \odot n + u \odot h_{t-1}

    Arguments:
        features: The width D of a step of the input.
        width: The width H of the state.
        missing: Whether the input may have missing entries, see :class:`MissingInput`.

    Example:
        >>> GRU(4, 8)(torch.zeros(2, 5, 3, 4)).shape
        torch.Size([2, 5, 3, 8])
    """

    def __init__(self, features: int, width: int, missing: bool = False) -> None:
        super().__init__()
        self.width = width
        linear, self.recurrent = nn.Linear(features, 3 * width), nn.Linear(width, 3 * width)
        for layer in (linear, self.recurrent):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.input: nn.Module = MissingInput(linear) if missing else linear

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """The next state, with shape :math:`(*, H)`, of a step with shape :math:`(*, D)` and the state before."""
        return self._next(self.input(x), h)

    def _next(self, of_input: Tensor, h: Tensor) -> Tensor:
        reset, update, new = of_input.chunk(3, -1)
        of_state = self.recurrent(h).chunk(3, -1)
        u = torch.sigmoid(update + of_state[1])
        n = torch.tanh(new + torch.sigmoid(reset + of_state[0]) * of_state[2])
        return n + u * (h - n)

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        """The states of sequences with shape :math:`(*, T, D)`, from the first step or from the last."""
        of_input = self.input(x)
        h = of_input.new_zeros(*x.shape[:-2], self.width)
        steps, states = range(x.shape[-2]), []
        for t in reversed(steps) if reverse else steps:
            h = self._next(of_input[..., t, :], h)
            states.append(h)
        return torch.stack(states[::-1] if reverse else states, -2)


def _stages(image: Sequence[int], depth: int) -> list[tuple[int, int]]:
    """The heights and widths after 0, ..., depth halvings, rounded up."""
    sizes = [(image[-2], image[-1])]
    for _ in range(depth):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def _check_image(name: str, shape: Sequence[int], channels: Sequence[int], dims: tuple[int, ...]) -> None:
    if len(shape) not in dims:
        raise ValueError(f"{name}: images have shape (H, W) or (C, H, W), not {tuple(shape)}.")
    if not channels:
        raise ValueError(f"{name}(channels=()): give the number of channels of at least one stage.")


class ConvEncoder(nn.Module):
    """Creates a convolutional network from images (*, H, W) or (*, C, H, W), any H and W, to features (*, out).

    Each stage halves height and width; a linear layer follows the last one.

    Arguments:
        shape: The shape of one image, (H, W) or (C, H, W).
        out: The number of features of the output.
        channels: The number of channels of each stage.
        activation: What follows each stage, a name in :data:`ACTIVATIONS`.
        dropout: The share of the features dropped in training before the linear layer.
        missing: Whether the images may have missing entries, see :class:`MissingInput`.

    Raises:
        ValueError: The shape is not one of an image, there is no stage, or no activation of that name.

    Example:
        >>> ConvEncoder((8, 8), out=16)(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        shape: Sequence[int],
        out: int,
        channels: Sequence[int] = (32, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        _check_image("ConvEncoder", shape, channels, dims=(2, 3))
        self.shape = tuple(shape) if len(shape) == 3 else (1, *shape)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise((self.shape[0], *channels))):
            conv = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            layers += [MissingInput(conv) if missing and i == 0 else conv, _activation(activation)]
        self.convolutions = nn.Sequential(*layers)
        h, w = _stages(shape, len(channels))[-1]
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1] * h * w, out))
        self._event_dim = len(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images of shape (*, H, W) or (*, C, H, W) to features of shape (*, out)."""
        batch = x.shape[: x.dim() - self._event_dim]
        h = self.head(self.convolutions(x.reshape(-1, *self.shape)))
        return h.reshape(*batch, -1)  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """Creates a convolutional network from codes (*, features) to images (*, shape), any height and width.

    It mirrors :class:`ConvEncoder`: a linear layer, then stages that double height and width.

    Arguments:
        features: The number of features of the input.
        shape: The shape of the output, (H, W) or (..., C, H, W); all dimensions left of (H, W) are channels, as in the
            ``features`` of a likelihood head.
        channels: The number of channels that enters each stage.
        activation: What stands between the stages, a name in :data:`ACTIVATIONS`.
        dropout: The share of the features dropped in training after the linear layer.

    Raises:
        ValueError: The shape is not one of an image, there is no stage, or no activation of that name.

    Example:
        >>> ConvDecoder(16, (2, 7, 5))(torch.zeros(3, 16)).shape
        torch.Size([3, 2, 7, 5])
    """

    def __init__(
        self,
        features: int,
        shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_image("ConvDecoder", shape, channels, dims=(2, 3, 4))
        self.shape = torch.Size(shape)
        sizes = _stages(shape, len(channels))[::-1]
        h, w = sizes[0]
        self.linear = nn.Sequential(
            nn.Linear(features, channels[0] * h * w),
            _activation(activation),
            nn.Dropout(dropout),
            nn.Unflatten(-1, (channels[0], h, w)),
        )
        layers: list[nn.Module] = []
        out = self.shape[:-2].numel()
        for i, (before, after) in enumerate(pairwise((*channels, out))):
            if i > 0:
                layers.append(_activation(activation))
            # A transposed stage makes 2 n - 1 of n: one more where the size to reach is even.
            extra = tuple(1 - n % 2 for n in sizes[i + 1])
            layers.append(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=extra))  # type: ignore[arg-type]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Maps codes of shape (*, features) to images of shape (*, shape)."""
        h = self.linear(z.reshape(-1, z.shape[-1]))
        return self.convolutions(h).reshape(*z.shape[:-1], *self.shape)  # type: ignore[no-any-return]
