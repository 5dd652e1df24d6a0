r"""The posterior of the discrete latent variables of a datum, by sums over their joint values.

Where all latent variables are local and discrete, draws are independent and exact. Beside continuous ones, which are
sampled with the discrete ones summed out, each draw :math:`z` has a draw of :math:`p(y_n \mid z_n, x_n)` by its side,
so that both together are a draw of the joint posterior.
"""

from collections.abc import Mapping

import pyro
import torch
from torch import Tensor

from pyro_gen.density import ProgramDensity, evaluation
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import latent_missing
from pyro_gen.inference.likelihood.enumeration import Summed, enumerated, probe
from pyro_gen.program import Program

__all__ = ["draw_beside", "draw_exactly"]


def draw_exactly(program: Program, data: tuple[Tensor, ...], draws: int) -> dict[str, Tensor]:
    """Independent draws from the posterior of discrete latent variables, by the global generator.

    Arguments:
        program: A program for which :func:`pyro_gen.inference.likelihood.enumeration.is_enumerable` holds.
        data: The data, with shape :math:`(N, *)`, and its context.
        draws: The number S of draws.

    Returns:
        Values by name of the site, each with shape :math:`(S, *site)`.
    """
    out: dict[str, Tensor] = {}
    n = len(data[0])
    with torch.no_grad(), evaluation(program), pyro.validation_enabled(False), latent_missing(program, *data):
        names = list(finite_sites(probe(program, *data)))
        blocks = f'{{"{names[0]}": "enumerate"{", ..." * (len(names) > 1)}}}'
        instead = f'sample them by Gibbs blocks, pg.posterior(..., method="gibbs", blocks={blocks})'
        for sums in enumerated(program, *data, instead=instead):
            chances = sums.log_weights.softmax(0).T
            chosen = sums.select(torch.multinomial(chances, draws, replacement=True).T)
            for name, value in chosen.items():
                dim = sums.data_dims[name] + 1
                if name not in out:
                    out[name] = value.new_empty(*value.shape[:dim], n, *value.shape[dim + 1 :])
                out[name].movedim(dim, 0)[sums.rows] = value.movedim(dim, 0)
    return out


def draw_beside(target: ProgramDensity, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws the discrete variables that a density per datum sums out, given draws of the others.

    Draws by the global generator.

    Arguments:
        target: The density.
        values: Draws of its latent variables by name, each with shape :math:`(S, *site)`.

    Returns:
        Values by name, each with shape :math:`(S, *site)`; nothing where there are none, or targets are joint.
    """
    program = target.program
    if not (target.per_datum and target.enumerated and isinstance(program, Program)):
        return {}
    given = {name: values[name] for name in target.names}
    with torch.no_grad(), evaluation(program), pyro.validation_enabled(False):
        sites = finite_sites(target.prototype)
        return Summed(program, sites, target.data).draw(given, len(next(iter(given.values()))))
