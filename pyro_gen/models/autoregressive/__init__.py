"""Exact densities by the chain rule: each entry has a law that a network gives it from those before."""

from pyro_gen.models.autoregressive.made import MADE
from pyro_gen.models.autoregressive.nade import NADE
from pyro_gen.models.autoregressive.pixel_cnn import PixelCNN
from pyro_gen.models.autoregressive.pixel_rnn import PixelRNN
from pyro_gen.models.autoregressive.transformer import CausalTransformer
from pyro_gen.models.autoregressive.wavenet import WaveNet

__all__ = ["MADE", "NADE", "CausalTransformer", "PixelCNN", "PixelRNN", "WaveNet"]
