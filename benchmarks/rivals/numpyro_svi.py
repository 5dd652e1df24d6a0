"""The small VAE of ``benchmarks/svi_step.py`` for NumPyro: updates in one scan, as ``SVI.run`` has them, or one by one.

Same network, same one-particle ELBO, same Adam. A scan returns its losses at the end; the update's loss is read after
each step, as all other contenders read theirs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer import SVI, Trace_ELBO


def _linear(inputs: int, outputs: int, key: Array) -> dict[str, Array]:
    bound = 1 / np.sqrt(inputs)  # as torch's
    w, b = jax.random.split(key)
    return {
        "w": jax.random.uniform(w, (inputs, outputs), minval=-bound, maxval=bound),
        "b": jax.random.uniform(b, (outputs,), minval=-bound, maxval=bound),
    }


def _forward(layers: list[dict[str, Array]], x: Array) -> Array:
    first, second = layers
    return jax.nn.relu(x @ first["w"] + first["b"]) @ second["w"] + second["b"]


def contenders(x: np.ndarray, hidden: int, latent: int, steps: int) -> dict[str, Callable[[], Any]]:
    """Functions that each train for so many steps."""
    batch, pixels = x.shape
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    encoder = [_linear(pixels, hidden, keys[0]), _linear(hidden, 2 * latent, keys[1])]
    decoder = [_linear(latent, hidden, keys[2]), _linear(hidden, pixels, keys[3])]

    def model(x: Array) -> None:
        layers = numpyro.param("decoder", decoder)
        with numpyro.plate("data", batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=_forward(layers, z)).to_event(1), obs=x)

    def guide(x: Array) -> None:
        layers = numpyro.param("encoder", encoder)
        with numpyro.plate("data", batch):
            loc, log_scale = jnp.split(_forward(layers, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    data = jnp.asarray(x)
    update = jax.jit(svi.update)
    scanned = jax.jit(lambda state: jax.lax.scan(lambda s, _: svi.update(s, data), state, None, length=steps))
    states = {name: svi.init(jax.random.PRNGKey(1), data) for name in ("scan", "update")}

    def scan() -> None:
        states["scan"], losses = scanned(states["scan"])
        np.asarray(losses)

    def one_by_one() -> None:
        for _ in range(steps):
            states["update"], loss = update(states["update"], data)
            float(loss)

    return {"numpyro_scan": scan, "numpyro_update": one_by_one}
