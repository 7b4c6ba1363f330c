"""The featuriser: what a proxy can see of a conversation, as two fixed vectors of [-1, 1].

`act` gives the action of a row, the call; `see` its observation, what came of the calls before.
Version 1, one number per place, float32:

    action[65]  0      a call was made; all zero: it was refused, nothing was done
                1..16  the tool: SHA-256 of server and name (128 bits)
                17..24 the shape of the arguments: SHA-256 of their names and types (64 bits)
                25..56 the first four arguments that hold text, by name: SHA-256 of tool, name and
                       value (64 bits each); all zero where the text is not known
                57..60 the first four numbers among the arguments, sign(x) log(1 + |x|) / 50
                61..64 how many arguments, how many with text, longest list, depth
    tools_v1[25] 0..4  first row, last call made, refused, an error, without content
                5..9   parts of the last answer: text, image, audio, resource, structured
                10..17 the last answer's text: SHA-256 (64 bits); all zero where it is not known
                18..23 calls, errors, errors in a row, refusals, calls of one tool in a row, tools
                24     latency of the last call, in powers of ten from 10 ms

**A text is known or it is nothing.** Only a text that was seen before, whole, has a code of its
own: a branch name, a mode, a path, "nothing to commit". Any other text, of whatever length, is one
and the same. So a text made up to steer a decision is only "some text": after training, decisions
are the same to the bit whatever unknown text stands in arguments and results. While recording, a
text gets its code from its second appearance on, in whichever conversations of the recording the
two are. Hints are no part of either vector.

`embed` adds numbers of the user's own to both, from the text itself; the promise above then ends,
for what the embedding reads can move the decision.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bb_wm.errors import ConfigError, DataError, VersionError
from bb_wm.serve.calls import MAX_DEPTH, MAX_NODES, Answer, ToolCall, as_float, canonical
from bb_wm.types import ActionSpec, ObsEntry, ObsSpec
from bb_wm.types.action_spec import ActionPart

VERSION: Final = 1
KEY: Final = f"tools_v{VERSION}"
EMBEDDING: Final = "embedding"
TOOL, CODE, SLOTS, NUMBERS = 16, 8, 4, 4
SHAPE_AT: Final = 1 + TOOL
TEXTS_AT: Final = SHAPE_AT + CODE
NUMBERS_AT: Final = TEXTS_AT + SLOTS * CODE
ACTION_SIZE: Final = NUMBERS_AT + NUMBERS + 4
ERROR_AT: Final = 3
ANSWER_AT: Final = 10
REFUSALS_AT: Final = ANSWER_AT + CODE + 3
OBS_SIZE: Final = ANSWER_AT + CODE + 7
KINDS: Final = ("text", "image", "audio", "resource", "structured")
MAX_KNOWN: Final = 65_536
_TEXT_CAP: Final = 100_000  # characters an embedding is given

Embed = Callable[[str], Sequence[float]]


class Known:
    """The texts and shapes that have a code. `grow`: a text is known from its second time on."""

    def __init__(self, codes: frozenset[bytes] = frozenset(), *, grow: bool = True) -> None:
        self._codes = set(codes)
        self.grow = grow

    def __contains__(self, code: bytes) -> bool:
        return code in self._codes

    def __len__(self) -> int:
        return len(self._codes)

    def masked(self, vector: np.ndarray, places: Iterator[slice]) -> np.ndarray:
        """The vector with the unknown codes at `places` zeroed; they may be known from now on."""
        kept = vector.copy()
        for place in places:
            code = vector[place].tobytes()
            if not vector[place].any() or code in self._codes:
                continue
            kept[place] = 0.0
            if self.grow and len(self._codes) < MAX_KNOWN:
                self._codes.add(code)
        return kept


def call_places() -> Iterator[slice]:
    """Where an action holds codes that may be unknown: the texts (the shape always shows)."""
    return (slice(TEXTS_AT + i * CODE, TEXTS_AT + (i + 1) * CODE) for i in range(SLOTS))


def answer_places() -> Iterator[slice]:
    """Where an observation holds a code that may be unknown."""
    return iter([slice(ANSWER_AT, ANSWER_AT + CODE)])


@dataclass(slots=True)
class Seen:
    """The counters of one conversation, and its last call and answer."""

    calls: int = 0
    errors: int = 0
    errors_in_a_row: int = 0
    refusals: int = 0
    same_in_a_row: int = 0
    tools: set[bytes] = field(default_factory=set)
    last_tool: bytes = b""
    answer: Answer | None = None

    def add(self, call: ToolCall, answer: Answer) -> None:
        """One more call, made or refused."""
        self.answer = answer
        if answer.refused:
            self.refusals += 1
            return
        tool = tool_code(call).tobytes()
        self.same_in_a_row = self.same_in_a_row + 1 if tool == self.last_tool else 1
        self.last_tool = tool
        if len(self.tools) < 1024:
            self.tools.add(tool)
        self.calls += 1
        self.errors += answer.error
        self.errors_in_a_row = self.errors_in_a_row + 1 if answer.error else 0


@dataclass(frozen=True, slots=True)
class Featuriser:
    """Calls and conversations as vectors; `embed` text -> `embed_size` numbers in [-1, 1]."""

    embed: Embed | None = None
    embed_size: int = 0

    def __post_init__(self) -> None:
        if (self.embed is None) != (self.embed_size == 0) or not 0 <= self.embed_size <= 4096:
            raise ConfigError(
                "Featuriser.embed_size",
                expected="1..4096 with `embed`, 0 without",
                actual=self.embed_size,
            )

    @property
    def obs_spec(self) -> ObsSpec:
        entries = [ObsEntry(KEY, "vector", (OBS_SIZE,))]
        if self.embed_size:
            entries.append(ObsEntry(EMBEDDING, "vector", (self.embed_size,)))
        return ObsSpec(tuple(sorted(entries, key=lambda e: e.key)), single=False)

    @property
    def action_spec(self) -> ActionSpec:
        size = ACTION_SIZE + self.embed_size
        part = ActionPart("action", "box", size, (-1.0,) * size, (1.0,) * size, (size,))
        return ActionSpec((part,), "array")

    def check_same(self, obs_spec: ObsSpec, action_spec: ActionSpec) -> None:
        """Raises VersionError unless a model of these specs was made for this featuriser."""
        if obs_spec != self.obs_spec or action_spec.size != self.action_spec.size:
            keys = [f"{e.key}{list(e.shape)}" for e in obs_spec.entries]
            raise VersionError(
                "run",
                expected=f"{KEY}[{OBS_SIZE}] and {self.action_spec.size} action numbers",
                actual=f"{keys} and {action_spec.size}",
                hint="train on a folder that this version's `bb-wm mcp --mode record` wrote.",
            )

    def nothing(self) -> np.ndarray:
        """The action of a refused call: nothing was done. [A]"""
        return np.zeros(self.action_spec.size, np.float32)

    def act(self, call: ToolCall) -> np.ndarray:
        """The call as an action [A], every text with its code; `Known.masked` hides the unknown."""
        arguments = call.arguments if isinstance(call.arguments, Mapping) else {}
        shape = _Shape.of(arguments)
        texts = sorted(shape.texts)
        slots = [
            _code(canonical([call.server, call.name, name, arguments[name]]), CODE)
            for name in texts[:SLOTS]
        ]
        slots += [np.zeros(CODE, np.float32)] * (SLOTS - len(slots))
        numbers = [_squashed(x) for x in shape.numbers[:NUMBERS]]
        numbers += [0.0] * (NUMBERS - len(numbers))
        counts = [len(arguments) / 16, len(texts) / 16, _log(shape.longest), shape.depth / 8]
        places = canonical([call.server, call.name, shape.types])
        return self._joined(
            np.ones(1, np.float32),
            tool_code(call),
            _code(places, CODE),
            *slots,
            numbers,
            np.minimum(counts, 1.0),
            text=None if self.embed is None else canonical(arguments) or "",
        )

    def see(self, seen: Seen) -> dict[str, np.ndarray]:
        """What can be seen now, [25] (and the embedding of the last answer)."""
        answer = seen.answer
        kinds = dict(answer.kinds) if answer else {}
        flags = [1.0, 0.0, 0.0, 0.0, 0.0] if answer is None else [
            0.0,
            float(not answer.refused),
            float(answer.refused),
            float(answer.error),
            float(not kinds),
        ]  # fmt: skip
        known_text = answer is not None and answer.texts and not answer.refused
        text = canonical(list(answer.texts)) if answer is not None and known_text else None
        counters = [seen.calls, seen.errors, seen.errors_in_a_row, seen.refusals]
        counters += [seen.same_in_a_row, len(seen.tools)]
        vector = np.concatenate(
            [
                flags,
                [_log(kinds.get(kind, 0)) for kind in KINDS],
                np.zeros(CODE) if text is None else _code(text, CODE),
                [_log(count) for count in counters],
                [_decades(answer.seconds if answer else 0.0)],
            ]
        ).astype(np.float32)
        obs = {KEY: vector}
        if self.embed is not None:
            joined = "\n".join(answer.texts) if answer else ""
            obs[EMBEDDING] = self._embedded(joined)
        return obs

    def _joined(self, *parts: Any, text: str | None) -> np.ndarray:
        pieces = [np.asarray(part, np.float32) for part in parts]
        if text is not None:
            pieces.append(self._embedded(text))
        return np.concatenate(pieces)

    def _embedded(self, text: str) -> np.ndarray:
        assert self.embed is not None
        vector = np.asarray(self.embed(text[:_TEXT_CAP]), np.float32)
        if vector.shape != (self.embed_size,) or not np.isfinite(vector).all():
            raise DataError(
                "embed", expected=f"{self.embed_size} finite numbers", actual=list(vector.shape)
            )
        return np.clip(vector, -1.0, 1.0)


def tool_code(call: ToolCall) -> np.ndarray:
    """128 bits of SHA-256 over server and tool name, as [16]; a name cannot be made to match."""
    return _code(canonical([call.server, call.name]), TOOL)


@dataclass(slots=True)
class _Shape:
    """Names, types, numbers and sizes of a call's arguments; text is only noticed."""

    types: dict[str, Any]
    texts: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    longest: int = 0
    depth: int = 0
    _nodes: int = 0
    _text: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> _Shape:
        shape = cls({})
        for name in sorted(arguments, key=str):
            shape._text = False
            shape.types[str(name)] = shape._type(arguments[name], 1)
            if shape._text:
                shape.texts.append(name)
        return shape

    def _type(self, value: Any, depth: int) -> Any:
        self.depth = max(self.depth, depth)
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            return "deep"
        if value is None or isinstance(value, bool):
            return canonical(value)  # true and false are shapes of their own: {"force": true}
        if isinstance(value, int | float):
            self.numbers.append(as_float(value))
            return "number"
        if isinstance(value, Mapping):
            keys = sorted(value, key=str)[:256]
            return {str(key): self._type(value[key], depth + 1) for key in keys}
        if isinstance(value, list | tuple):
            self.longest = max(self.longest, len(value))
            return [sorted({canonical(self._type(v, depth + 1)) or "" for v in value[:256]})]
        self._text = True
        return "text"


def _code(text: str | None, size: int) -> np.ndarray:
    """`size` bytes of SHA-256 as numbers of [-1, 1]; zeros for no text."""
    if text is None:
        return np.zeros(size, np.float32)
    digest = hashlib.sha256(text.encode()).digest()[:size]
    return ((np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5) / 127.5).astype(np.float32)


def _log(count: float) -> float:
    return min(math.log1p(max(count, 0)) / 8, 1.0)


def _squashed(value: float) -> float:
    if math.isnan(value):
        return 0.0
    return math.copysign(min(math.log1p(abs(value)) / 50, 1.0), value)


def _decades(seconds: float) -> float:
    """0 below 10 ms, then a fifth per power of ten: coarse, so that jitter is not seen."""
    if not seconds > 0.01:
        return 0.0
    return min(math.ceil(math.log10(min(seconds, 1e9) / 0.01)) / 5, 1.0)
