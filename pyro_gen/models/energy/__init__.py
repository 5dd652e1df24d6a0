"""Energy-based models."""

from pyro_gen.models.energy.energy_based import EnergyBased

__all__ = ["EnergyBased"]
