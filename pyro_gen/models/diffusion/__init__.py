"""Diffusion: chains that turn noise into data, step by step."""

from pyro_gen.models.diffusion.absorbing import AbsorbingDiffusion
from pyro_gen.models.diffusion.ddim import DDIM
from pyro_gen.models.diffusion.ddpm import DDPM
from pyro_gen.models.diffusion.guided import Guided
from pyro_gen.models.diffusion.latent import LatentDiffusion
from pyro_gen.models.diffusion.score_sde import ScoreSDE
from pyro_gen.models.diffusion.vdm import VDM

__all__ = ["DDIM", "DDPM", "VDM", "AbsorbingDiffusion", "Guided", "LatentDiffusion", "ScoreSDE"]
