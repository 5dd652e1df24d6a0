"""Data: sets with a fixed split, tables from files, transforms with their log-Jacobians, minibatches."""

from pyro_gen.data.batches import Batches
from pyro_gen.data.column import KINDS, Column
from pyro_gen.data.datasets import DataSet, load
from pyro_gen.data.scaling import Scaling
from pyro_gen.data.schema import Schema
from pyro_gen.data.tables import Table, as_tensor, read_table
from pyro_gen.data.transforms import (
    Binarize,
    Compose,
    Cut,
    Dequantize,
    DynamicBinarize,
    Flatten,
    JitteredBinarize,
    Logit,
    Standardize,
    StochasticBinarize,
    Transform,
    bits_per_dim,
)

__all__ = [
    "KINDS",
    "Batches",
    "Binarize",
    "Column",
    "Compose",
    "Cut",
    "DataSet",
    "Dequantize",
    "DynamicBinarize",
    "Flatten",
    "JitteredBinarize",
    "Logit",
    "Scaling",
    "Schema",
    "Standardize",
    "StochasticBinarize",
    "Table",
    "Transform",
    "as_tensor",
    "bits_per_dim",
    "load",
    "read_table",
]
