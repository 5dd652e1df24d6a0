"""Where the training of programs with latent variables starts: at the principal axes of what was seen.

Centres and scales of the columns are those of their observed entries. The axes are those of the correlations of pairs
of features, of the rows weighted at random, another weighting for each member.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_gen.models.tabular.latent import LatentTable

__all__ = ["scatter", "start"]

CONSTANTS = {"cuts": 0.5, "log_df": 2.0, "absent_log_precision": -2.0}  # of the parameters that do not start at 0
ROWS = 10_000  # to look at


@torch.no_grad()
def scatter(program: "LatentTable") -> None:
    """Networks start at Glorot's weights with a last layer of 0, experts and loadings at small ones."""
    for name, p in program.weights.items():
        if "_weight_" in name:
            sizes = program.decoder_sizes if name.startswith("decoder") else program.encoder_sizes
            last = int(name.rsplit("_", 1)[1]) == len(sizes) - 2
            p.copy_(0.0 * p if last else torch.randn_like(p) * (2 / (p.shape[-2] + p.shape[-1])) ** 0.5)
        elif name == "loadings":
            p.copy_(0.3 * torch.randn_like(p))
        elif name == "experts":
            p.copy_(program.weights["loadings"])
        else:
            p.fill_(CONSTANTS.get(name, 0.0))


@torch.no_grad()
def start(program: "LatentTable", x: Tensor) -> Tensor:
    """Starts every member at the principal axes of pairwise correlations, of its own weighting of the rows.

    Arguments:
        program: The program; its parameters are overwritten.
        x: Rows with shape :math:`(N, D)`.

    Returns:
        The centres of the features, which the offsets start at, float64 with shape :math:`(F)`.
    """
    scatter(program)
    features, weights = program.features, program.weights
    sample = torch.randperm(len(x), device=x.device)[:ROWS]
    x = x[sample].double()
    centre, spread = features.standardise(features.raw(x))
    weights["offset"].copy_(centre.expand(program.members, -1))
    real, count, *_ = features.parts
    # What each feature is worth in the decoder's output: the logarithm of a mean, about 2 logits per deviation.
    worth = torch.cat([spread[: real + count], torch.full_like(spread[real + count :], 2.0)])
    phi, seen = features(x)
    for e in range(program.members):
        weight = -torch.rand(len(x), 1, device=x.device, dtype=x.dtype).log()
        mine = seen * weight.sqrt()
        together = mine.mT @ mine
        correlation = ((phi * mine).mT @ (phi * mine)) / together.clamp(min=1.0)
        correlation = correlation * (together / (together + 5.0))  # pairs hardly ever seen together say little
        values, axes = torch.linalg.eigh(correlation)
        k = min(program.latent, len(values))
        rest = values[:-k].clamp(min=0.0).mean() if len(values) > k else values.new_tensor(0.1)
        axes = axes[:, -k:] * (values[-k:] - rest).clamp(min=1e-2).sqrt()  # (F, k)
        noise = (1 - axes.square().sum(1)).clamp(0.05, 1.0)
        weights["loadings"][e, :, :k] = (worth.unsqueeze(1) * axes).to(weights["loadings"])
        weights["experts"][e, :, :k] = axes.to(weights["experts"])
        weights["log_precision"][e] = -noise.log().to(weights["log_precision"])
        if real:
            weights["log_scale"][e] = (noise[:real].sqrt() * spread[:real]).log().to(weights["log_scale"])
    return centre
