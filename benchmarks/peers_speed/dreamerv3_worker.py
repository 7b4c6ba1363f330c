"""DreamerV3 in JAX by its author (the package of the index), as a worker; everything is jitted.

Its own WorldModel with its own losses and optimiser (float32), its RSSM to imagine. `unroll` is
off, which is its own setting: compiling the unrolled loop takes minutes.
"""

from __future__ import annotations

from typing import Any

import dreamerv3
import embodied
import jax
import jax.numpy as jnp
import numpy as np
from dreamerv3 import agent, nets
from dreamerv3 import ninjax as nj

from benchmarks.peers_speed import line
from benchmarks.peers_speed.line import Shape


def config(shape: Shape) -> Any:
    """The package's defaults with the sizes of the shape."""
    mlp = {"mlp_layers": 2, "mlp_units": shape.units, "cnn_keys": "$^"}
    head = {"layers": 2, "units": shape.units}
    changes = {
        "rssm": {
            "deter": shape.size,
            "units": shape.units,
            "stoch": shape.groups,
            "classes": shape.classes,
        },
        "encoder": mlp,
        "decoder": mlp,
        "reward_head": head,
        "cont_head": head,
        "actor": head,
    }
    return embodied.Config(dreamerv3.configs["defaults"]).update(changes)


class DreamerV3:
    """A model of a shape and its tasks."""

    def __init__(self, shape: Shape) -> None:
        settings = self.config = config(shape)
        spaces = {
            "obs": embodied.Space(np.float32, (line.OBS,)),
            "reward": embodied.Space(np.float32),
            "is_first": embodied.Space(bool),
            "is_last": embodied.Space(bool),
            "is_terminal": embodied.Space(bool),
        }
        actions = {"action": embodied.Space(np.float32, (line.ACTION,), -1, 1)}
        self.model = agent.WorldModel(spaces, actions, settings, name="wm")
        self.actor = nets.MLP(
            line.ACTION, **{**settings.actor, "dist": "mse"}, dims="deter", name="actor"
        )
        rows = line.rows(shape)
        self.rows = {
            "obs": rows["obs"],
            "action": rows["action"],
            "reward": rows["reward"],
            "is_first": rows["is_first"].astype(np.float32),
            "is_last": np.zeros_like(rows["reward"]),
            "is_terminal": rows["terminated"].astype(np.float32),
            "cont": 1 - rows["terminated"].astype(np.float32),
        }
        flat = rows["obs"].reshape(-1, line.OBS)
        self.one = flat[:1]
        self.key = jax.random.PRNGKey(0)
        create = nj.pure(self._all)
        self.state = jax.jit(lambda *given: create({}, *given, ignore=True)[1])(self.key, self.rows)
        self.parameters = sum(
            int(v.size) for k, v in self.state.items() if "model_opt" not in k and "actor" not in k
        )
        self._update = jax.jit(nj.pure(self._learn), donate_argnums=(0,))
        self._imagine = jax.jit(nj.pure(self._dream))
        self._decide = jax.jit(nj.pure(self._choose))
        encode = jax.jit(nj.pure(self._encode))
        self.start, _ = encode(self.state, self.key, np.resize(flat, (line.STARTS, line.OBS)))

    def _all(self, rows: Any) -> Any:
        """Everything once, so that every parameter exists."""
        self._learn(rows)
        start = self._encode(rows["obs"][:, 0])
        return self._policy(start)

    def _learn(self, rows: Any) -> Any:
        _, _, metrics = self.model.train(rows, self.model.initial(len(rows["obs"])))
        return metrics["model_opt_loss"]

    def _encode(self, obs: Any) -> Any:
        latent, action = self.model.initial(len(obs))
        seen = self.model.encoder({"obs": obs})
        return self.model.rssm.obs_step(latent, action, seen, jnp.ones(len(obs)))[0]

    def _policy(self, latent: Any) -> Any:
        return jnp.tanh(self.actor(latent).mode())

    def _outcomes(self, rows: Any) -> Any:
        """Rewards times the probability that each row is reached, [K, N]."""
        reward = self.model.heads["reward"](rows).mean()
        going = self.model.heads["cont"](rows).mean()
        reached = jnp.concatenate([jnp.ones_like(going[:1]), jnp.cumprod(going[:-1], 0)])
        return reward * reached

    def _dream(self, start: Any) -> Any:
        def step(latent: Any, _: Any) -> Any:
            latent = self.model.rssm.img_step(latent, self._policy(latent))
            return latent, latent

        _, rows = nj.scan(step, start, jnp.arange(line.ROWS))
        return rows, self._outcomes(rows)

    def _choose(self, obs: Any) -> Any:
        size = (line.CANDIDATES, line.AHEAD, line.ACTION)
        actions = jax.random.uniform(nj.rng(), size, minval=-1, maxval=1)
        one = self._encode(obs)
        start = {k: jnp.repeat(v, line.CANDIDATES, 0) for k, v in one.items()}

        def step(latent: Any, action: Any) -> Any:
            latent = self.model.rssm.img_step(latent, action)
            return latent, latent

        _, rows = nj.scan(step, start, actions.transpose([1, 0, 2]))
        return self._outcomes(rows).sum(0).argmax()

    def _next(self) -> Any:
        self.key, key = jax.random.split(self.key)
        return key

    def update(self) -> float:
        loss, self.state = self._update(self.state, self._next(), self.rows)
        jax.block_until_ready(self.state)
        return float(loss)

    def imagine(self) -> Any:
        return jax.block_until_ready(self._imagine(self.state, self._next(), self.start)[0])

    def decide(self) -> int:
        return int(self._decide(self.state, self._next(), self.one)[0])


if __name__ == "__main__":
    line.serve(DreamerV3)
