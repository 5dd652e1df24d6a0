r"""The training of programs with latent variables: an ensemble by the weighted likelihood bootstrap.

Member :math:`e` follows the gradient of the importance-weighted bound on what was seen and the log-prior,

.. math::
    \sum_n \omega_{ne} \log \frac{1}{K} \sum_k w_{nke} + \log p(\theta_e), \qquad
    w_{nke} = \frac{p(x_{n,o} \mid z_{nke}) \, p(z_{nke})}{q(z_{nke} \mid x_{n,o})} ,

by :func:`pyro_gen.fit`, all members side by side. They start at different weights, each sees rows weighted anew (the
Bayesian bootstrap: :math:`\omega_{ne} \sim \operatorname{Exp}(1)`) and, where there is a network, does without a tenth
of the entries: by these the precision :math:`\lambda` of its prior is chosen, and training stopped.

References:
    | Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016)
    | https://arxiv.org/abs/1509.00519
    | MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019)
    | https://arxiv.org/abs/1812.02633
    | Approximate Bayesian Inference with the Weighted Likelihood Bootstrap (Newton & Raftery, 1994)
"""

import math
import time
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.poutine.messenger import block_messengers
from torch import Tensor

from pyro_gen._random import fork, vmap_draws
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress
from pyro_gen.inference.objectives import Objective, local_log_weight
from pyro_gen.inference.svi import fit
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.program import data_scale, data_size, fixed
from pyro_gen.traces import per_datum_log_prob, trace_pair, trace_side

if TYPE_CHECKING:
    from pyro_gen.models.tabular.parts.latent_table import LatentTable

__all__ = ["DECAYS", "STEPS", "EnsembleBound", "train"]

DECAYS = (10.0, 100.0, 1000.0)  # precisions of the prior of the networks' weights, to choose from
HELD_OUT_SHARE = 0.1  # the share of the seen entries that a member is stopped by
STEPS, BATCH, PARTICLES = 1500, 64, 5
STEPS_BETWEEN_LOOKS = 100  # steps between two looks at the held-out entries
VALIDATION_ROWS = 512
RACE_SHARE = 0.3  # the share of the steps in which the precisions race


class EnsembleBound(Objective):
    r"""The negative importance-weighted bounds of all members of an ensemble, less their log-priors.

    Member :math:`e` sees row :math:`n` with weight :math:`\omega_{ne}`, without the entries held out from it. In
    evaluation mode the loss is that of held-out entries given the others, :math:`-\log p(x_h \mid x_o, \theta_e)`.

    Arguments:
        num_particles: The number of particles :math:`K`; evaluation takes twice as many.
        rows: The number of rows that the log-likelihood is that of.
    """

    anneals = False

    def __init__(self, num_particles: int, rows: int) -> None:
        super().__init__()
        self.num_particles, self.rows = num_particles, rows

    def loss(self, program: Any, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        """Computes the loss.

        Arguments:
            program: A program with E members.
            x: Rows with shape :math:`(N, D)`.
            context: What the program conditions on; then weights with shape :math:`(N, E)` and which entries are held
                out, boolean with shape :math:`(N, E, D)`.
            kl_weight: Of no effect.
        """
        return self.member_losses(program, x, *context).sum()

    def member_losses(self, program: Any, x: Tensor, *context: Any) -> Tensor:
        """The losses of the members, with shape :math:`(E)`, see :meth:`loss`."""
        *given, weights, held = context
        scale = data_scale(x)
        prior_share = scale * len(x) / self.rows  # fit counts a row as often as it comes in an epoch

        def member(parameters: dict[str, Tensor], decay: Tensor, weight: Tensor, held: Tensor) -> Tensor:
            with program.at(parameters):
                inputs = (x.masked_fill(held, torch.nan), *given)
                if self.training:
                    bound = vmap_draws(lambda: _log_weight(program, inputs)[0], self.num_particles).logsumexp(0)
                    log_prior: Tensor = prior_share * program.log_prior(decay)
                    return -scale * (weight * (bound - math.log(self.num_particles))).sum() - log_prior
                targets = (x.masked_fill(~held, torch.nan), *given)

                def particle() -> tuple[Tensor, Tensor]:
                    log_weight, z = _log_weight(program, inputs)
                    with fixed({"z": z}):
                        trace = trace_side(program, "model", *targets)
                    return log_weight, per_datum_log_prob(trace.nodes["x"])

                log_weight, log_prob = vmap_draws(particle, 2 * self.num_particles)
                return -scale * ((log_weight + log_prob).logsumexp(0) - log_weight.logsumexp(0)).sum()

        # Held-out entries are missing whatever fit has found, so that an answer from outside does not hold in here.
        with (
            block_messengers(lambda handler: isinstance(handler, assume_missing)),
            assume_missing(True),
            no_completion(),
            data_size(len(x)),
        ):
            losses: Tensor = torch.vmap(member, in_dims=(0, 0, 1, 1), randomness="different")(
                dict(program.weights.items()), program.decay, weights, held
            )
        return losses


def _log_weight(program: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The log importance weight of one draw of the guide for each row, and the draw."""
    model_trace, guide_trace = trace_pair(program, *inputs)
    log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
    z: Any = guide_trace.nodes["z"]["value"]
    return log_likelihood + log_ratio, z


def train(program: "LatentTable", x: Tensor, seed: int, progress: FitProgress | None, deadline: float | None) -> None:
    """Trains all members of a program, in place.

    Arguments:
        program: The program.
        x: Rows with shape :math:`(N, D)`, each with an entry that was seen.
        seed: Seeds the training.
        progress: Called with the share that is done, and words.
        deadline: The time of :func:`time.monotonic` after which it stops with what it has.
    """
    program.start(x)
    members, race = program.members, 0.0
    if program.hidden and members >= len(DECAYS):
        # The prior of the networks: members that differ in it alone race for held-out entries.
        race = RACE_SHARE
        program.decay.copy_(torch.tensor([DECAYS[e % len(DECAYS)] for e in range(members)]))
        held = _held_out(x, 1).expand(-1, members, -1)
        _run(program, x, torch.ones(len(x), members), held, seed, (0.0, race), progress, deadline)
        losses = _held_out_loss(program, x, held)
        program.decay.fill_(min(DECAYS, key=lambda decay: float(losses[program.decay == decay].mean())))
        program.start(x)
    weights = -torch.rand(len(x), members).log() if members > 1 else torch.ones(len(x), members)
    held = _held_out(x, members) & bool(program.hidden)
    _run(program, x, weights / weights.mean(0), held, fork(seed), (race, 1.0), progress, deadline)


def _held_out(x: Tensor, members: int) -> Tensor:
    """Which entries are held out from which member, boolean with shape (N, E, D)."""
    draw = torch.rand(len(x), members, x.shape[1], device=x.device)
    return (draw < HELD_OUT_SHARE) & ~torch.isnan(x).unsqueeze(1)


def _held_out_loss(program: "LatentTable", x: Tensor, held: Tensor) -> Tensor:
    objective = EnsembleBound(PARTICLES, len(x)).eval()
    some = x[:VALIDATION_ROWS].to(program.weights["offset"].dtype)
    with torch.no_grad(), pyro.validation_enabled(False):
        weights = some.new_ones(len(some), program.members)
        return objective.member_losses(program, *program.inputs(some), weights, held[:VALIDATION_ROWS])


def _run(
    program: "LatentTable",
    x: Tensor,
    weights: Tensor,
    held: Tensor,
    seed: int,
    span: tuple[float, float],
    progress: FitProgress | None,
    deadline: float | None,
) -> None:
    """Trains all members for a share of the steps."""
    n, batch = len(x), min(len(x), BATCH)
    repeats = max(1, math.ceil(STEPS_BETWEEN_LOOKS * batch / n))  # rows come several times in an epoch of a small table
    order = torch.cat([torch.randperm(n) for _ in range(repeats)])
    order = order[: len(order) // batch * batch].to(x.device)  # whole batches: one graph for all of them
    epochs = max(1, round(program.steps * (span[1] - span[0]) * batch / len(order)))
    look = order[:n].unique()[:VALIDATION_ROWS]
    dtype = program.weights["offset"].dtype
    data = (*program.inputs(x.to(dtype)), weights.to(x.device, dtype), held)

    def schedule(share: float) -> float:  # called before each step
        if deadline is not None and time.monotonic() > deadline:
            raise _OutOfTime
        if progress is not None:
            progress(span[0] + share * (span[1] - span[0]), f"{program.members} decoders")
        return 0.5 * (1 + math.cos(math.pi * share))

    try:
        fit(
            program,
            tuple(part[order] for part in data),
            objective=EnsembleBound(PARTICLES, n),
            epochs=epochs,
            batch_size=batch,
            lr=1e-2,
            schedule=schedule,
            # A linear decoder does not overfit by long training, and a slope of selection takes long to grow.
            validation=tuple(part[look] for part in data) if program.hidden else None,
            patience=max(2, epochs // 3) if program.hidden else None,
            seed=seed,
            progress=False,
        )
    except _OutOfTime:
        if progress is not None:
            progress(span[1], f"{type(program).__name__}: out of time, its training was cut short")


class _OutOfTime(Exception):
    pass
