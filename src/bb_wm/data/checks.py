"""What the numbers of a batch may be, and what its rows may say about time.

The good case costs a few reductions per tensor; only a failure looks for count and first place.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from bb_wm.data.limits import MAX_ABS, index_error, number_error
from bb_wm.errors import ActionError, BatchError, EpisodeError
from bb_wm.types import ActionSpec, Batch, ObsEntry, ObsSpec


def check_numbers(batch: Batch, obs_spec: ObsSpec) -> None:
    """Finite, within 1e6, risk >= 0, choices below their classes; padding too: 0 * NaN is NaN."""
    for entry in obs_spec.entries:
        label = "obs" if entry.key == "obs" else f"obs[{entry.key!r}]"
        check_obs(label, entry, batch.obs[entry.key])
    _check_floats("action", batch.action)
    _check_floats("reward", batch.reward)
    _check_floats("safety", batch.safety, low=0.0)


def check_obs(label: str, entry: ObsEntry, tensor: torch.Tensor) -> None:
    """The numbers of one key."""
    if entry.kind == "vector":
        _check_floats(label, tensor)
    elif entry.kind == "discrete" and tensor.numel():
        flat = tensor.reshape(-1, tensor.shape[-1])
        low, high = int(flat.min()), flat.amax(0).tolist()
        if low < 0 or any(top >= n for top, n in zip(high, entry.classes, strict=True)):
            raise index_error(label, tensor.cpu().numpy(), entry.classes)


def _check_floats(field: str, tensor: torch.Tensor, low: float = -MAX_ABS) -> None:
    if not tensor.numel():
        return
    least, most = torch.aminmax(tensor)  # NaN comes through, and then both comparisons fail
    if not (least.item() >= low and most.item() <= MAX_ABS):
        raise number_error(field, tensor.cpu().numpy(), low=low)


def check_rows(batch: Batch, truncated: torch.Tensor | None, *, learn: bool) -> torch.Tensor:
    """Raise EpisodeError where rows contradict each other; [B, T], where an action was done."""
    first, valid, ended = batch.is_first, batch.valid, batch.terminated
    before, after = valid[:, :-1], valid[:, 1:]
    begins = after & first[:, 1:]
    goes_on = after & ~first[:, 1:]
    wrong = (goes_on & (ended[:, :-1] | ~before)) | (begins & before & first[:, :-1])
    over = ended if truncated is None else ended | truncated
    if truncated is not None:
        wrong |= (goes_on & over[:, :-1]) | (begins & before & ~over[:, :-1])
        if bool((ended & truncated & valid).any()):
            _explain_both(ended & truncated & valid)
    if bool(wrong.any()) or bool((ended & first & valid).any()):
        _explain(batch, over, truncated is not None)
    done = torch.zeros_like(valid)
    done[:, :-1] = before & goes_on
    if learn and not bool(done.any()):
        raise BatchError(
            "valid",
            expected="at least one transition: two valid rows of one episode",
            actual=f"{int(valid.sum())} valid rows, none followed by another",
            hint="nothing to learn from padding.",
        )
    return done


def _place(wrong: torch.Tensor, shift: int = 0) -> str:
    b, t = (int(i) for i in wrong.nonzero()[0])
    return f"[{b}, {t + shift}] ({int(wrong.sum())} such)"


def _explain_both(both: torch.Tensor) -> None:
    raise EpisodeError(
        "truncated",
        expected="False where terminated: only one ended the episode",
        actual=f"both True at {_place(both)}",
        hint="the world's end wins: truncated=False there.",
    )


def _explain(batch: Batch, over: torch.Tensor, declared: bool) -> None:
    """Name the first rule of time that is broken."""
    first, valid = batch.is_first, batch.valid
    before, after = valid[:, :-1], valid[:, 1:]
    begins, goes_on = after & first[:, 1:], after & ~first[:, 1:]
    swapped = bool(first[0].all()) and first.shape[1] > 1
    gone = goes_on & ~before
    if gone.any():
        raise EpisodeError(
            "is_first",
            expected="True where rows become valid again after padding",
            actual=f"False at {_place(gone, 1)}",
            hint="pad at the end of a sequence, or mark the new start.",
        )
    late = goes_on & over[:, :-1]
    if late.any():
        raise EpisodeError(
            "is_first",
            expected="True in the row after an episode's end",
            actual=f"False at {_place(late, 1)}, after the end",
            hint="one episode's rows go on past its end: reset, pad (valid), or check the shift.",
        )
    single = begins & before & first[:, :-1]
    if single.any():
        raise EpisodeError(
            "is_first",
            expected="an episode of at least two rows before the next one starts",
            actual=f"True twice in a row at {_place(single, 1)}",
            hint="time and batch swapped?" if swapped else "drop episodes of one row.",
        )
    if declared and (begins & before & ~over[:, :-1]).any():
        raise EpisodeError(
            "is_first",
            expected="a start only after a row that is terminated or truncated",
            actual=f"True at {_place(begins & before & ~over[:, :-1], 1)} after neither",
            hint="mark an abandoned recording as truncated in its last row.",
        )
    raise EpisodeError(
        "terminated",
        expected="False in an episode's first row",
        actual=f"True at {_place(batch.terminated & first & valid)}",
    )


@lru_cache(maxsize=32)
def _box(spec: ActionSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Bounds [A] with room for rounding; None when nothing is bounded."""
    low, high = (torch.from_numpy(bound) for bound in spec.bounds())
    span = high - low
    slack = 1e-4 * torch.where(span.isfinite(), span.clamp_min(1.0), torch.ones_like(span))
    for part, place in spec.slices():
        if part.kind == "discrete":
            low[place], high[place] = -torch.inf, torch.inf
    if not bool((low.isfinite() | high.isfinite()).any()):
        return None
    return (low - slack).to(device), (high + slack).to(device)


def check_actions(action: torch.Tensor, done: torch.Tensor, spec: ActionSpec) -> None:
    """Raise ActionError outside the space; all zero passes only where no action was done."""
    box = _box(spec, action.device)
    if box is not None:
        outside = ((action < box[0]) | (action > box[1])).any(-1)
        if bool(outside.any()):
            outside &= done | (action != 0).any(-1)
            if bool(outside.any()):
                _explain_box(action, outside, spec)
    for part, place in spec.slices():
        if part.kind == "box":
            continue
        piece = action[..., place]
        total = piece.sum(-1)
        good = (piece * piece == piece).all(-1) & ((total == 1) | ((total == 0) & ~done))
        if not bool(good.all()):
            b, t = (int(i) for i in (~good).nonzero()[0])
            raise ActionError(
                "action",
                expected=f"one-hots of {part.size} (all zero only where no action was done)",
                actual=f"{int((~good).sum())} rows that are none, first at [{b}, {t}]",
            )


def _explain_box(action: torch.Tensor, outside: torch.Tensor, spec: ActionSpec) -> None:
    box = _box(spec, action.device)
    assert box is not None
    b, t = (int(i) for i in outside.nonzero()[0])
    wrong = (action[b, t] < box[0]) | (action[b, t] > box[1])
    i = int(wrong.nonzero()[0])
    low, high = spec.bounds()
    raise ActionError(
        "action",
        expected=f"numbers within [{low[i]:g}, {high[i]:g}]",
        actual=f"{float(action[b, t, i]):g} at [{b}, {t}, {i}] ({int(outside.sum())} such rows)",
    )


def check_mask(mask: torch.Tensor, batch: Batch, done: torch.Tensor, spec: ActionSpec) -> None:
    """Raise ActionError where an action was done that was not available."""
    for part, place in spec.slices():
        if part.kind == "box":
            continue
        allowed = mask[..., place]
        forbidden = done & ((batch.action[..., place] > 0) & ~allowed).any(-1)
        if bool(forbidden.any()):
            raise ActionError(
                "action",
                expected="only actions that action_mask allows",
                actual=f"a forbidden one at {_place(forbidden)}",
            )


def check_varied(batch: Batch) -> None:
    """Raise BatchError when every row is the same: nothing to learn, and scales would be 0."""
    whole = bool(batch.valid[-1, -1] & batch.valid[0, 0])
    for tensor in (*batch.obs.values(), batch.reward, batch.safety, batch.action):
        if whole and bool((tensor[0, 0] != tensor[-1, -1]).any()):  # the usual case, in one step
            return
        rows = tensor[batch.valid]
        if bool((rows != rows[0]).any()):
            return
    if not bool((batch.terminated & batch.valid).any()):
        raise BatchError(
            "batch",
            expected="rows that differ in something",
            actual=f"{int(batch.valid.sum())} equal rows",
            hint="is the recording stuck, or a dummy?",
        )
