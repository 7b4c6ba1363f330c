"""Imagination: a latent unrolled under a policy or a sequence of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import BBWMError, PolicyError
from bb_wm.types import Latent, Trajectory, stack_latents

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Dynamics

Policy = Callable[[Latent], "Tensor"]
_MANY = 2**17  # numbers of h


def rollout(
    dynamics: Dynamics,
    latent: Latent,
    policy: Policy | Tensor,
    horizon: int,
    *,
    noise: Tensor | None = None,
) -> Trajectory:
    """Unroll `horizon` rows from `latent` [*batch].

    `policy` is a callable Latent -> flat action [*batch, A], or actions [*batch, horizon, A].
    `noise` [*batch, horizon, N] makes it a sample; None follows the mode of every step. Row k uses
    only noise[..., k, :] and actions up to k, so a shorter rollout is the prefix of a longer one.
    """
    latents: list[Latent] = []
    actions: list[Tensor] = []
    outcomes: list[tuple[Tensor, Tensor, Tensor]] = []
    # Many latents are read while the processor still has them at hand, few in one go at the end.
    one_by_one = latent.h.numel() >= _MANY
    current = latent
    for k in range(horizon):
        action = _action(dynamics, policy, current, k)
        current = dynamics.step(current, action, None if noise is None else noise[..., k, :])
        latents.append(current)
        actions.append(action)
        if one_by_one:
            outcomes.append(_outcomes(dynamics, current))
    stacked = stack_latents(latents)
    if one_by_one:
        reward, safety, continuation = (torch.stack(o, -1) for o in zip(*outcomes, strict=True))
    else:
        reward, safety, continuation = _outcomes(dynamics, stacked)
    return Trajectory(
        start=latent,
        latents=stacked,
        action=torch.stack(actions, dim=-2),
        reward=reward,
        safety=safety,
        continuation=continuation,
        discount=reach(continuation),
    )


def _outcomes(dynamics: Dynamics, latents: Latent) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, risk and continuation; in one pass where the dynamics offer `predict_outcomes`."""
    together = getattr(dynamics, "predict_outcomes", None)
    if together is not None:
        found: tuple[Tensor, Tensor, Tensor] = together(latents)
        return found
    return (
        dynamics.predict_reward(latents),
        dynamics.predict_safety(latents),
        dynamics.predict_continue(latents),
    )


def reach(continuation: Tensor) -> Tensor:
    """Probability that row k is reached: prod_{j<k} continuation_j, 1 at k = 0. [*batch, K]"""
    before = torch.ones_like(continuation[..., :1])
    return torch.cat([before, torch.cumprod(continuation[..., :-1], dim=-1)], dim=-1)


def _action(dynamics: Dynamics, policy: Policy | Tensor, latent: Latent, k: int) -> Tensor:
    if isinstance(policy, torch.Tensor):
        return policy[..., k, :]
    versions = _versions(latent)
    try:
        action = policy(latent)
    except BBWMError:
        raise
    except Exception as error:
        raise PolicyError(
            f"policy at step {k}",
            expected="an action",
            actual=f"{type(error).__name__}: {error}",
            hint="the original error is the cause of this one.",
            step=k,
        ) from error
    if _versions(latent) != versions:
        raise PolicyError(
            f"policy at step {k}",
            expected="to leave the latent unchanged",
            actual="an in-place change of h or z",
            hint="use out-of-place operations in the policy.",
            step=k,
        )
    return check_policy_action(action, (*latent.batch_shape, dynamics.action_size), latent.h, k)


def _versions(latent: Latent) -> list[int]:
    """How often h and z were written to; inference tensors do not count it."""
    return [part._version for part in (latent.h, latent.z) if not part.is_inference()]


def check_policy_action(action: object, shape: tuple[int, ...], like: Tensor, k: int) -> Tensor:
    """The policy's answer, or PolicyError naming step, shape and what was wrong."""
    field = f"policy action at step {k}"
    if not isinstance(action, torch.Tensor):
        raise PolicyError(
            field, expected=f"a tensor {list(shape)}", actual=type(action).__name__, step=k
        )
    if tuple(action.shape) != shape:
        raise PolicyError(field, expected=list(shape), actual=list(action.shape), step=k)
    if not action.is_floating_point():
        raise PolicyError(
            field,
            expected="floating point (flat actions; one-hots for choices)",
            actual=action.dtype,
            step=k,
        )
    if action.device != like.device:
        raise PolicyError(field, expected=like.device, actual=action.device, step=k)
    if action.requires_grad and not torch.is_grad_enabled():
        action = action.detach()
    if not bool(torch.isfinite(action).all()):
        raise PolicyError(
            field,
            expected="finite numbers",
            actual="NaN or infinity",
            step=k,
            hint="a plan with such an action must not reach an actuator.",
        )
    return action
