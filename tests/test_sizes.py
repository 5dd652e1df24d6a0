"""Models refuse sizes that are none, in a sentence that names the model or the argument."""

from typing import Any

import pytest

from pyro_gen import models

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("Autoencoder", {"event_shape": 6, "latent": 0}, r"Autoencoder\(latent=0\): give a positive integer"),
    ("Autoencoder", {"event_shape": 0}, r"Autoencoder\(event_shape=0\): give a positive integer, or a sequence"),
    ("CCVAE", {"shape": 6, "classes": 3, "style": 0}, r"CCVAE\(style=0\)"),
    ("ConditionalVAE", {"event_shape": 6, "given": 3, "hidden": 5}, r"ConditionalVAE\(hidden=5\): give a sequence"),
    ("ConditionalVAE", {"event_shape": 6, "given": ()}, r"ConditionalVAE\(given=\(\)\)"),
    ("ContinuousFlow", {"event_shape": 3, "steps": 0}, r"ContinuousFlow\(steps=0\)"),
    ("DeepBelief", {"event_shape": 4, "hidden": 3}, r"DeepBelief\(hidden=3\): give a sequence"),
    ("DeepBoltzmann", {"event_shape": 4, "hidden": (0, 2)}, r"DeepBoltzmann\(hidden=\(0, 2\)\)"),
    ("DeepExponentialFamily", {"features": (2, 3)}, r"DeepExponentialFamily\(features=\(2, 3\)\)"),
    ("DeepExponentialFamily", {"features": 4, "layers": 5}, r"DeepExponentialFamily\(layers=5\)"),
    ("DeepMarkov", {"event_shape": (5, 2), "recurrent": 0}, r"DeepMarkov\(recurrent=0\)"),
    ("DeepMarkov", {"event_shape": (5, 2, 2)}, r"DeepMarkov\(event_shape=\(5, 2, 2\)\): a datum is a sequence"),
    ("DiscreteVAE", {"event_shape": 6, "units": 0}, r"DiscreteVAE\(units=0\)"),
    ("Glow", {"event_shape": (4, 4), "scales": 0}, r"Glow\(scales=0\)"),
    ("Glow", {"event_shape": 6}, "images have shape"),
    ("HierarchicalVAE", {"event_shape": 6, "latent": 3}, r"HierarchicalVAE\(latent=3\): give a sequence"),
    ("IAF", {"event_shape": 3, "context": -1}, "context=-1: give the size"),
    ("MADE", {"event_shape": 4, "hidden": (0,)}, r"MADE\(hidden=\(0,\)\)"),
    ("MAF", {"event_shape": 3, "hidden": 4}, "hidden=4 and bins=8: give at least one layer"),
    ("NADE", {"event_shape": 4, "orders": 0}, r"NADE\(orders=0\)"),
    ("NADE", {"event_shape": 4, "depth": -1}, r"NADE\(depth=-1\): give an integer of 0 or more"),
    ("NeuralSpline", {"event_shape": 0}, r"NeuralSpline\(event_shape=0\)"),
    ("PixelVAE", {"event_shape": (2, 3), "layers": -1}, r"PixelVAE\(layers=-1\)"),
    ("RealNVP", {"event_shape": (2, 0)}, r"RealNVP\(event_shape=\(2, 0\)\)"),
    ("ResidualFlow", {"event_shape": 3, "layers": 0}, r"ResidualFlow\(layers=0\)"),
    ("RestrictedBoltzmann", {"event_shape": 4, "hidden": (3,)}, r"RestrictedBoltzmann\(hidden=\(3,\)\)"),
    ("SemiSupervisedVAE", {"shape": 6, "classes": 3, "latent": True}, r"SemiSupervisedVAE\(latent=True\)"),
    ("VAE", {"event_shape": 6.0}, r"VAE\(event_shape=6.0\)"),
    ("VQVAE", {"event_shape": 6, "words": 0}, r"VQVAE\(words=0\)"),
    ("VQVAE", {"event_shape": 6, "commitment": -1.0}, r"VQVAE\(commitment=-1.0\)"),
    ("VariationalDequantization", {"event_shape": 3, "levels": 1, "flow": "MAF"}, "levels=1"),
    ("VariationalDequantization", {"event_shape": 3, "levels": 4, "flow": "MAF", "context": 2}, "no context"),
    ("VariationalRNN", {"event_shape": (5, 2), "hidden": "wide"}, r"VariationalRNN\(hidden='wide'\)"),
]


@pytest.mark.parametrize(("name", "options", "said"), BAD, ids=[f"{name} {options}" for name, options, _ in BAD])
def test_sizes_that_are_none_are_refused_by_name(name, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        getattr(models, name)(**options)
