r"""The style-based generator: noise becomes a style, which scales the maps of every layer of a network.

.. math::
    z \sim \mathcal{N}(0, I_K), \quad \epsilon_l \sim \mathcal{N}(0, I), \qquad
    w = f\big([z \, / \sqrt{\overline{z^2}}, e_y]\big), \qquad
    h_l = \phi\big(d_l \odot (W_l * (s_l(w) \odot h_{l-1}^{\uparrow})) + \beta_l \epsilon_l + b_l\big) .

The image starts from a constant :math:`h_0` that is learnt. Each layer but the first doubles height and width
(:math:`^{\uparrow}`); it scales its input maps by an affine function :math:`s_l` of the style, convolves, and divides
each output map by the norm that it would have of independent inputs of variance 1,
:math:`d_{lo}^{-2} = \sum_{ik} s_{li}^2 W_{loik}^2`; noise :math:`\epsilon_l` of one map, with a strength
:math:`\beta_l` of each channel, is for what a style does not fix. The image is :math:`\sigma` of a mixture of the last
maps. A class :math:`y` that is asked for is context, and its indicator :math:`e_y` goes into the style.

**Truncation** draws styles towards their mean :math:`\bar w`, that of the class where there is one, by
:meth:`StyleGAN.truncated`,

.. math:: w_\psi = \bar w + \psi \, (w - \bar w), \qquad 0 \le \psi \le 1 :

images near the middle of what was learnt are better, and fewer: precision rises, recall falls.

The game is that of any generator, :class:`~pyro_gen.inference.Adversarial`. Styles and noise are latent variables, so
that under a stated observation noise (:func:`pyro_gen.with_noise`) images have posteriors over them.

References:
    | A Style-Based Generator Architecture for Generative Adversarial Networks (Karras, Laine & Aila, 2019)
    | https://arxiv.org/abs/1812.04948
    | Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2020), scaling for normalising
    | https://arxiv.org/abs/1912.04958
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.heads import check_asked, label
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["StyleGAN", "StyledConvolution"]

OF_MEAN = 10_000  # draws


class StyledConvolution(nn.Module):
    r"""Creates one layer: a convolution of maps that are scaled by the style.

    Arguments:
        style: The width of a style.
        before: The number of maps of the input.
        after: The number of maps of the output.

    Example:
        >>> StyledConvolution(4, 3, 5)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4), torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 5, 8, 8])
    """

    def __init__(self, style: int, before: int, after: int) -> None:
        super().__init__()
        self.scale = MLP((style, before))
        nn.init.ones_(self.scale[0].bias)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3) / (9 * before) ** 0.5)
        self.strength, self.bias = (nn.Parameter(torch.zeros(after, 1, 1)) for _ in range(2))

    def forward(self, h: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Maps (N, before, H, W), styles (N, S) and noise (N, 1, H, W) to maps (N, after, H, W)."""
        s = self.scale(w)  # (N, before)
        of_independent = s.square() @ self.weight.square().sum((2, 3)).T  # (N, after)
        convolved = F.conv2d(h * s[..., None, None], self.weight, padding=1)
        scaled = convolved * (of_independent + 1e-8).rsqrt()[..., None, None]
        return F.leaky_relu(scaled + self.strength * noise + self.bias, 0.2)


@model(
    "style-based generator",
    paper="Karras, Laine & Aila (2019)",
    small={
        "images": lambda: (StyleGAN((5, 6), latent=3, style=4, channels=(4, 3)), normal_rows(9, 5, 6).sigmoid()),
        "classes": lambda: (
            StyleGAN((4, 4), latent=3, style=4, channels=(4, 3), classes=3),
            *(normal_rows(9, 4, 4).sigmoid(), level_rows(3, 9)),
        ),
    },
)
class StyleGAN(Program):
    r"""Creates a generator of images with values in (0, 1).

    Arguments:
        event_shape: The shape of an image, (H, W) or (C, H, W).
        latent: The number :math:`K` of latent dimensions.
        style: The width of a style.
        channels: The number of maps of each layer; each but the first doubles height and width.
        mapping: The number of layers of :math:`f`.
        classes: The number of classes, 0 for none; else the context is a label 0, 1, ... for each image, shape (N,).

    Raises:
        ValueError: The shape is not one of an image, or a number is not positive.

    Example:
        >>> import pyro_gen as pg
        >>> gan = StyleGAN((8, 8), channels=(16, 8))
        >>> pg.sample(gan.truncated(0.5), 3).shape
        torch.Size([3, 8, 8])
    """

    psi: Tensor
    mean_style: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent: int = 32,
        style: int = 32,
        channels: Sequence[int] = (64, 64, 32),
        mapping: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(self, latent=latent, style=style, mapping=mapping)
        check_widths(self, channels=channels)
        self.event_shape = torch.Size(event_shape)
        if len(self.event_shape) not in (2, 3) or not channels:
            raise ValueError(
                f"StyleGAN(event_shape={tuple(event_shape)}, channels={tuple(channels)}): give the shape of an image, "
                "(H, W) or (C, H, W), and the maps of one layer at least."
            )
        self.latent = latent
        self.sizes = [tuple(self.event_shape[-2:])]
        for _ in channels[1:]:
            self.sizes.insert(0, tuple((n + 1) // 2 for n in self.sizes[0]))
        if classes:
            check_sizes(self, 2, classes=classes)
        self.classes = label(classes) if classes else None
        self.mapping = MLP((latent + classes, *[style] * mapping), "leaky_relu")
        self.start = nn.Parameter(torch.randn(channels[0], *self.sizes[0]))
        layers = [StyledConvolution(style, *pair) for pair in pairwise((channels[0], *channels))]
        self.layers = nn.ModuleList(layers)
        self.to_image = nn.Conv2d(channels[-1], self.event_shape[:-2].numel(), 1)
        self.register_buffer("psi", torch.ones(()))
        self.register_buffer("mean_style", torch.zeros(max(classes, 1), style))

    def styles(self, z: Tensor, *labels: Tensor) -> Tensor:
        """The styles of noise (N, K), and labels (N,) where there are classes: (N, S)."""
        unit, mean = z * (z.square().mean(-1, keepdim=True) + 1e-8).rsqrt(), self.mean_style
        if self.classes is not None:
            asked = self.classes.one_hot(labels[0]).to(z)
            unit, mean = torch.cat([unit, asked], -1), asked @ mean
        w: Tensor = self.mapping(unit)
        return mean + self.psi * (w - mean)

    def truncated(self, psi: float, seed: int = 0) -> "StyleGAN":
        r"""A copy that draws styles at :math:`\psi` of their distance from the mean, 1 for all of it.

        Arguments:
            psi: The share :math:`\psi`.
            seed: Of the draws by which the mean is known.

        Raises:
            ValueError: The share is not in [0, 1].
        """
        if not 0 <= psi <= 1:
            raise ValueError(f"truncated(psi={psi}): the share of the distance from the mean is between 0 and 1.")
        other = copy.deepcopy(self)
        with torch.no_grad(), seeded(seed):
            other.psi.fill_(1.0)
            z = torch.randn(OF_MEAN, self.latent).to(self.start)
            for k, mean in enumerate(other.mean_style):  # one, or one for each class
                labels = (torch.full((OF_MEAN,), float(k)).to(z),) if self.classes is not None else ()
                mean.copy_(other.styles(z, *labels).mean(0))
            other.psi.fill_(psi)
        return other

    def check_inputs(self, x: Tensor, *labels: Tensor) -> None:
        super().check_inputs(x, *labels)
        check_asked(self, self.classes, x, labels)

    def model(self, x: Tensor, *labels: Tensor) -> Tensor:
        r"""Draws an image for each row of ``x``, with shape :math:`(N, *event)`."""
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))  # (N, K)
            w = self.styles(z, *(y.expand(z.shape[:-1]) for y in labels)).reshape(-1, self.mean_style.shape[1])
            h = self.start.expand(len(w), *self.start.shape)
            for i, (layer, size) in enumerate(zip(self.layers, self.sizes, strict=True)):
                noise = pyro.sample(f"noise_{i}", dist.Normal(x.new_zeros(1, *size), 1.0).to_event(3))
                h = layer(F.interpolate(h, size), w, noise.reshape(-1, 1, *size))
            image = torch.sigmoid(self.to_image(h)).reshape(*z.shape[:-1], *self.event_shape)
            return observe("x", dist.Delta(image, event_dim=len(self.event_shape)), x)
