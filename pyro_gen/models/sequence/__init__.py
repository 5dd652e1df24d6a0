"""Models of series in time: their likelihoods are sums and integrals over all hidden paths, exactly."""

from pyro_gen.models.sequence.autoregression import Autoregression, BayesianAutoregression
from pyro_gen.models.sequence.change_points import ChangePoints
from pyro_gen.models.sequence.hidden_markov import HiddenMarkov
from pyro_gen.models.sequence.state_space import StateSpace
from pyro_gen.models.sequence.switching_autoregression import SwitchingAutoregression
from pyro_gen.models.sequence.switching_state_space import SwitchingStateSpace

__all__ = [
    "Autoregression",
    "BayesianAutoregression",
    "ChangePoints",
    "HiddenMarkov",
    "StateSpace",
    "SwitchingAutoregression",
    "SwitchingStateSpace",
]
