r"""Transforms of data, and what they do to a density.

A transform is a callable ``y = t(x)`` on a batch ``x`` of shape (N, \*event). Grey levels become zeros and ones
(binarisation) or real numbers (dequantisation), columns get zero mean and unit scale, pixels leave the unit interval.
A model of :math:`y` is a model of :math:`x` once the change of volume is accounted for,

.. math:: \log p(x) = \log p(y) + \log \left| \det \frac{\partial y}{\partial x} \right| ,

and ``t.log_abs_det_jacobian(x)`` is that last term, per datum, in nats. The sign is the whole point: a transform that
shrinks the data, as division by 256 does, makes :math:`p(y)` larger than :math:`p(x)`, and its term is negative.
:func:`bits_per_dim` puts the two together. Binarisation throws information away, so it has no such term: a likelihood
of binarised data is the likelihood of another data set.

NaN means "not observed" and passes through every transform untouched; a missing entry adds nothing to the log-Jacobian,
in step with the marginal likelihood of what was seen.

References:
    | A Note on the Evaluation of Generative Models (Theis et al., 2016): uniform dequantisation, bits/dim
    | https://arxiv.org/abs/1511.01844
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017): the logit transform
    | https://arxiv.org/abs/1705.07057
"""

from pyro_gen.data.transforms.base import Transform
from pyro_gen.data.transforms.binarisation import Binarize, DynamicBinarize, JitteredBinarize, StochasticBinarize
from pyro_gen.data.transforms.composition import Compose, bits_per_dim
from pyro_gen.data.transforms.cut import Cut
from pyro_gen.data.transforms.dequantisation import Dequantize
from pyro_gen.data.transforms.flatten import Flatten
from pyro_gen.data.transforms.logit import Logit
from pyro_gen.data.transforms.standardisation import Standardize

__all__ = [
    "Binarize",
    "Compose",
    "Cut",
    "Dequantize",
    "DynamicBinarize",
    "Flatten",
    "JitteredBinarize",
    "Logit",
    "Standardize",
    "StochasticBinarize",
    "Transform",
    "bits_per_dim",
]
