"""NUTS of blackjax and of nutpie on the potentials of NumPyro's models: rivals of ``benchmarks/mcmc.py``.

Each is given a model of ``numpyro_models.py``, its data and a setting, and gives the draws by site, (chain, draw, *).
"""

from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model


def blackjax(model: Any, data: list[np.ndarray], setting: dict[str, Any]) -> dict[str, np.ndarray]:
    """Chains side by side by ``vmap``, each with a window adaptation of its own, as Stan's; all in one compilation."""
    import blackjax as bj
    from blackjax.adaptation.base import get_filter_adapt_info_fn

    starts, runs = jax.random.split(jax.random.PRNGKey(setting["seed"]))
    known = initialize_model(jax.random.split(starts, setting["chains"]), model, model_args=tuple(data))

    def log_density(z: Any) -> Any:
        return -known.potential_fn(z)

    def chain(key: Any, z: Any) -> Any:
        adapting, drawing = jax.random.split(key)
        warmup = bj.window_adaptation(bj.nuts, log_density, adaptation_info_fn=get_filter_adapt_info_fn())
        (state, parameters), _ = warmup.run(adapting, z, num_steps=setting["warmup"])
        kernel = bj.nuts(log_density, **parameters)

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel.step(key, state)
            return state, known.postprocess_fn(state.position)

        return jax.lax.scan(step, state, jax.random.split(drawing, setting["draws"]))[1]

    keys = jax.random.split(runs, setting["chains"])
    draws = jax.block_until_ready(jax.jit(jax.vmap(chain))(keys, known.param_info.z))
    return {name: np.array(x) for name, x in draws.items()}


def nutpie(model: Any, data: list[np.ndarray], setting: dict[str, Any]) -> dict[str, np.ndarray]:
    """Its sampler, in Rust, calls the compiled potential and gradient for each step of each chain."""
    import nutpie as npie
    from nutpie.compiled_pyfunc import from_pyfunc

    known = initialize_model(jax.random.PRNGKey(setting["seed"]), model, model_args=tuple(data))
    flat, unravel = ravel_pytree(known.param_info.z)
    evaluate = jax.jit(jax.value_and_grad(lambda u: -known.potential_fn(unravel(u))))

    def log_density(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = evaluate(u)
        return float(value), np.asarray(gradient, dtype=np.float64)

    compiled = from_pyfunc(
        flat.size,
        lambda: log_density,
        lambda seed, other, chain: lambda u: {"u": np.asarray(u)},
        [np.dtype(np.float64)],
        [(flat.size,)],
        ["u"],
    )
    trace = npie.sample(
        compiled,
        draws=setting["draws"],
        tune=setting["warmup"],
        chains=setting["chains"],
        seed=setting["seed"],
        save_warmup=False,
        progress_bar=False,
    )
    u = trace.posterior["u"].to_numpy()
    back = jax.jit(jax.vmap(jax.vmap(lambda u: known.postprocess_fn(unravel(u)))))
    return {name: np.array(x) for name, x in back(u.astype(flat.dtype)).items()}
