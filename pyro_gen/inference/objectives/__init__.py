r"""What training minimises: negative bounds on the log-likelihood :math:`\log p(x_{1:N})`, in nats.

With particles :math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`,

.. math::
    \text{ELBO} = \mathbb{E} \big[ \log w_1 \big], \qquad
    \text{IWAE}_K = \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k \Big], \qquad
    \text{Renyi}_\alpha = \tfrac{1}{1 - \alpha} \, \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k^{1 - \alpha} \Big] .

An unnormalised density has no such bound. It is trained by contrastive divergence, which follows the gradient of the
likelihood with draws by a Markov chain; by score matching or noise contrast, which need no draws of the model; or,
where its entries are discrete, by the pseudo-likelihood. Where its constant is a sum that is known, by its likelihood.

An objective is a module whose :meth:`~Objective.loss` returns a differentiable scalar; what is traced inside is the
program's guide, then its model with the guide's latent variables. On a minibatch, inside
:class:`~pyro_gen.program.data_size`, the loss is an unbiased estimate of that of the full data set.
"""

from pyro_gen.inference.objectives.adversarial import Adversarial
from pyro_gen.inference.objectives.aggregate import InfoVAE, WassersteinAutoencoder
from pyro_gen.inference.objectives.base import Objective, Player, missing_refused
from pyro_gen.inference.objectives.contrastive_divergence import ContrastiveDivergence
from pyro_gen.inference.objectives.cycle_consistency import CycleConsistent
from pyro_gen.inference.objectives.diffusion import DiffusionELBO
from pyro_gen.inference.objectives.discrepancy import MMD, Sinkhorn
from pyro_gen.inference.objectives.elbo import ELBO, resolve_objective
from pyro_gen.inference.objectives.enumeration import EnumELBO, asked_to_enumerate
from pyro_gen.inference.objectives.exact_likelihood import ExactLikelihood
from pyro_gen.inference.objectives.importance import IWAE, DReG, Renyi, local_log_weight
from pyro_gen.inference.objectives.labels import SemiSupervisedELBO
from pyro_gen.inference.objectives.leave_one_out import LeaveOneOut
from pyro_gen.inference.objectives.noise_contrastive import NoiseContrastive
from pyro_gen.inference.objectives.one_order import OneOrder
from pyro_gen.inference.objectives.pseudo_likelihood import PseudoLikelihood
from pyro_gen.inference.objectives.relaxation import RelaxedELBO
from pyro_gen.inference.objectives.score_function import VIMCO, ScoreFunctionELBO
from pyro_gen.inference.objectives.score_matching import Noised, ScoreMatching
from pyro_gen.inference.objectives.suitability import require_suitable, suitable
from pyro_gen.inference.objectives.total_correlation import BetaTCVAE, FactorVAE
from pyro_gen.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "VIMCO",
    "Adversarial",
    "BetaTCVAE",
    "ContrastiveDivergence",
    "CycleConsistent",
    "DReG",
    "DiffusionELBO",
    "EnumELBO",
    "ExactLikelihood",
    "FactorVAE",
    "InfoVAE",
    "LeaveOneOut",
    "NoiseContrastive",
    "Noised",
    "Objective",
    "OneOrder",
    "Player",
    "PseudoLikelihood",
    "RelaxedELBO",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunctionELBO",
    "ScoreMatching",
    "SemiSupervisedELBO",
    "Sinkhorn",
    "WakeSleep",
    "WassersteinAutoencoder",
    "asked_to_enumerate",
    "local_log_weight",
    "missing_refused",
    "require_suitable",
    "resolve_objective",
    "suitable",
]
