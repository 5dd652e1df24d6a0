"""Models of series in time: hidden paths are summed and integrated out exactly, or followed by a guide."""

from pyro_gen.models.sequence.autoregression import Autoregression, BayesianAutoregression
from pyro_gen.models.sequence.change_points import ChangePoints
from pyro_gen.models.sequence.deep_markov import DeepMarkov
from pyro_gen.models.sequence.hidden_markov import HiddenMarkov
from pyro_gen.models.sequence.state_space import StateSpace
from pyro_gen.models.sequence.switching_autoregression import SwitchingAutoregression
from pyro_gen.models.sequence.switching_state_space import SwitchingStateSpace
from pyro_gen.models.sequence.variational_rnn import VariationalRNN

__all__ = [
    "Autoregression",
    "BayesianAutoregression",
    "ChangePoints",
    "DeepMarkov",
    "HiddenMarkov",
    "StateSpace",
    "SwitchingAutoregression",
    "SwitchingStateSpace",
    "VariationalRNN",
]
