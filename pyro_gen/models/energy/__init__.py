"""Energy-based models."""

from pyro_gen.models.energy.energy_based import EnergyBased
from pyro_gen.models.energy.joint_energy import JointEnergy

__all__ = ["EnergyBased", "JointEnergy"]
