"""The three time loops of training, backwards by hand: filter, open loop, shortcut.

Each is the same arithmetic as `RSSM.advance`, `posterior`, `prior` and `shortcut_step` row by row
(the tests hold them equal in value and gradient); what does not depend on the row before is given
in, computed for all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from bb_wm.model import native
from bb_wm.model.lookup import index_of_hots
from bb_wm.model.tape import Affine, Loop, Perceptron, Tape, pull_through, silu_slope

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bb_wm.model.cores import CoreTape
    from bb_wm.model.stochastic import Stochastic
    from bb_wm.model.tape import Pull


class PosteriorTape(Tape):
    """q(z | h, o) from h and the sight's own parts, whose biases are in those parts."""

    def __init__(self, to_hidden: nn.Linear, to_params: nn.Linear) -> None:
        self.to_hidden = Affine(to_hidden, bias=False)
        self.to_params = Affine(to_params, bias=False)
        self.parameters = [to_hidden.weight, to_params.weight]
        self.hidden_size = to_hidden.out_features
        self.before: list[Tensor] = []

    def forward(self, h: Tensor, hidden: Tensor, skip: Tensor, out: Tensor | None = None) -> Tensor:
        """The parameters [N, P]; in `out`, if they can be written there."""
        self.before.append(self.to_hidden.forward(h, hidden))
        return self.to_params.forward(F.silu(self.before[-1]), skip)

    def rewind(self) -> None:
        self.to_hidden.rewind()
        self.to_params.rewind()

    def backward(self, row: int, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of h and of the hidden part; the skipped part's is the slope itself."""
        by_hidden = silu_slope(self.to_params.backward(slope), self.before[row])
        return self.to_hidden.backward(by_hidden), by_hidden

    def gradients(self) -> list[Tensor]:
        return [*self.to_hidden.gradients(), *self.to_params.gradients()]


class NativePosteriorTape(PosteriorTape):
    """The same by `bb_wm.model.native`."""

    def forward(self, h: Tensor, hidden: Tensor, skip: Tensor, out: Tensor | None = None) -> Tensor:
        told = self.to_hidden.product(h)
        after = torch.empty_like(told)
        self.before.append(native.silu_kept(told, hidden, after))
        return native.add(self.to_params.product(after), skip, out)

    def backward(self, row: int, slope: Tensor) -> tuple[Tensor, Tensor]:
        by_hidden = native.silu_slope(self.to_params.product_back(slope), self.before[row])
        return self.to_hidden.backward(by_hidden), by_hidden.float()


def posterior_tape(to_hidden: nn.Linear, to_params: nn.Linear) -> PosteriorTape:
    """The one for these layers, as things are."""
    sizes = to_hidden.out_features, to_params.out_features
    quick = native.fits(to_hidden.weight, *sizes)
    return (NativePosteriorTape if quick else PosteriorTape)(to_hidden, to_params)


class FilterLoop(Loop):
    """entered, hidden, skip [T, B, .], h, z [B, .] -> h, z, posterior [T, B, .].

    `noise` per row, or None for the mode; `keep` per row [B, 1], None where no past is forgotten.
    """

    def __init__(
        self,
        core: CoreTape,
        posterior: PosteriorTape,
        family: Stochastic,
        noise: Sequence[Tensor] | None,
        keep: Sequence[Tensor | None],
    ) -> None:
        self.core, self.posterior, self.family = core, posterior, family
        self.noise, self.keep = noise, keep
        self.tapes = (core, posterior)
        self.pulls: list[Pull] = []
        self.index: list[Tensor | None] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entered, hidden, skip = (x.unbind() for x in inputs[:3])
        h, z = inputs[3:]
        hots = self.family.hots
        outputs = _room(len(entered), len(h), h, z, skip[0])
        for t, keep in enumerate(self.keep):
            if keep is not None:
                h, z = h * keep, z * keep
            out = [whole[t] for whole in outputs]
            h = self.core.forward(h, z, entered[t], out[0])
            params = self.posterior.forward(h, hidden[t], skip[t], out[2])
            noise = None if self.noise is None else self.noise[t]
            z, pull = self.family.draw(params, noise, out[1])
            self.pulls.append(pull)
            self.index.append(None if hots is None else index_of_hots(z, *hots))
            _fill(out, (h, z, params))
        return outputs

    def backward(self, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_h, by_z, by_params = (x.unbind() for x in slopes)
        past_h, past_z = torch.zeros_like(by_h[0]), torch.zeros_like(by_z[0])
        hidden = past_h.new_empty(len(past_h), self.posterior.hidden_size)
        outputs = _room(len(by_h), len(past_h), past_h, hidden, by_params[0])
        for t in reversed(range(len(by_h))):
            out = [whole[t] for whole in outputs]
            to_params = self.pulls[t](by_z[t], past_z, by_params[t], out[2])
            through, to_hidden = self.posterior.backward(t, to_params)
            past_h, past_z, to_entered = self.core.backward(t, by_h[t] + past_h + through)
            keep = self.keep[t]
            if keep is not None:
                past_h, past_z = past_h * keep, past_z * keep
            _fill(out, (to_entered, to_hidden, to_params))
        return (*outputs, past_h, past_z)


class OpenLoop(Loop):
    """entered [N, K, U], h, z [N, .] -> h, z, prior [N, K, .], following the prior's mode."""

    def __init__(self, core: CoreTape, prior: Perceptron, family: Stochastic) -> None:
        self.core, self.prior, self.family = core, prior, family
        self.tapes = (core, prior)
        self.pulls: list[Pull] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entered, h, z = inputs
        outputs = []
        for row in entered.unbind(1):
            h = self.core.forward(h, z, row)
            params = self.prior.forward(h)
            z, pull = self.family.draw(params, None)
            self.pulls.append(pull)
            outputs.append((h, z, params))
        return _stack(outputs)

    def backward(self, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_h, by_z, by_params = (x.unbind(1) for x in slopes)
        past_h, past_z = torch.zeros_like(by_h[0]), torch.zeros_like(by_z[0])
        found = []
        for k in reversed(range(len(by_h))):
            to_params = self.pulls[k](by_z[k], past_z, by_params[k])
            through = self.prior.backward(k, to_params)
            past_h, past_z, to_entered = self.core.backward(k, by_h[k] + past_h + through)
            found.append((to_entered,))
        return (*_stack(found[::-1]), past_h, past_z)


class ShortcutLoop(Loop):
    """entered [N, K, U], scaled actions [N, K, A], h, z, sight [N, .], biases -> sight, raw.

    `guess`, held, is what a row alone says of the next one's raw output, to which the direct net
    adds; that `share` of the direct net's gradient reaches h. `advance` makes the next sight of the
    last one and of the raw output, and has no parameters. `biases` are what the sight's two parts
    of the posterior are added to. The last row's z is never read, so it is not made.
    """

    def __init__(
        self,
        core: CoreTape,
        direct: Perceptron,
        guess: Perceptron,
        encoder: Perceptron,
        skip: Affine,
        posterior: PosteriorTape,
        family: Stochastic,
        advance: Callable[[Tensor, Tensor], Tensor],
        share: Tensor,
    ) -> None:
        self.core, self.direct, self.guess, self.encoder = core, direct, guess, encoder
        self.skip, self.posterior, self.family = skip, posterior, family
        self.advance, self.share = advance, share
        self.tapes = (core, direct, guess, encoder, skip, posterior)
        self.pulls: list[Pull] = []
        self.moves: list[Callable[[Tensor], tuple[Tensor, ...]]] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entered, actions, h, z, sight, hidden_bias, skip_bias = inputs
        outputs, last = [], entered.shape[1] - 1
        for k, row in enumerate(entered.unbind(1)):
            h = self.core.forward(h, z, row)
            seen = torch.cat([h, sight, actions[:, k]], dim=-1)
            raw = self.direct.forward(seen) + self.guess.forward(seen[:, self.core.size :])
            sight, move = pull_through(self.advance, sight, raw)
            self.moves.append(move)
            outputs.append((sight, raw))
            if k < last:
                hidden = self.encoder.forward(sight) + hidden_bias
                params = self.posterior.forward(h, hidden, self.skip.forward(sight, skip_bias))
                z, pull = self.family.draw(params, None)
                self.pulls.append(pull)
        return _stack(outputs)

    def backward(self, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_sight, by_raw = (x.unbind(1) for x in slopes)
        last, size = len(by_raw) - 1, self.core.size
        found, seen = [], []
        past_sight = torch.zeros_like(by_sight[0])
        sizes = self.family.size, self.family.param_size
        zero_z, zero_params = (past_sight.new_zeros(s).expand(len(past_sight), s) for s in sizes)
        past_h = past_z = torch.zeros(())
        for k in reversed(range(last + 1)):
            to_sight = by_sight[k] + past_sight
            if k < last:
                to_params = self.pulls[k](zero_z, past_z, zero_params)
                through, to_hidden = self.posterior.backward(k, to_params)
                seen.append((to_hidden, to_params))
                past_h = past_h + through
                to_sight = to_sight + self.encoder.backward(k, to_hidden)
                to_sight = to_sight + self.skip.backward(to_params)
            past_sight, to_raw = self.moves[k](to_sight)
            to_raw = to_raw + by_raw[k]
            direct_h, to_row = self.direct.backward(k, to_raw).tensor_split([size], dim=-1)
            to_row = to_row + self.guess.backward(k, to_raw)
            direct_sight, to_action = to_row.tensor_split([past_sight.shape[-1]], dim=-1)
            past_sight = past_sight + direct_sight
            past_h, past_z, to_entered = self.core.backward(k, past_h + self.share * direct_h)
            found.append((to_entered, to_action))
        by_biases: list[Tensor | None] = [None, None]
        if seen:
            by_biases = [torch.cat(parts).sum(0) for parts in zip(*seen, strict=True)]
        return (*_stack(found[::-1]), past_h, past_z, past_sight, *by_biases)


def _room(rows: int, count: int, *like: Tensor) -> tuple[Tensor, ...]:
    """Room [rows, count, .] of the widths of `like`."""
    return tuple(one.new_empty(rows, count, one.shape[-1]) for one in like)


def _fill(places: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Copy what was not made in its place."""
    for place, one in zip(places, found, strict=True):
        if one.data_ptr() != place.data_ptr():
            place.copy_(one)


def _stack(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Rows of outputs -> every output [N, T, .]."""
    return tuple(torch.stack(column, dim=1) for column in zip(*rows, strict=True))
