"""The zoo: programs by recipe, and the figures that these must reproduce."""

from pyro_gen.zoo.entries import Entry, Figure, load, make_objective, names
from pyro_gen.zoo.reproduction import Reproduction, measure, reproduce, versions
from pyro_gen.zoo.results import clock, models_table, store, stored, table, write_tables
from pyro_gen.zoo.training import prepare, train

__all__ = [
    "Entry",
    "Figure",
    "Reproduction",
    "clock",
    "load",
    "make_objective",
    "measure",
    "models_table",
    "names",
    "prepare",
    "reproduce",
    "store",
    "stored",
    "table",
    "train",
    "versions",
    "write_tables",
]
