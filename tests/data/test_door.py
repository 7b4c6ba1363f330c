"""Classes B1-B30 and O1 of the design: refused by name, or taken exactly; nothing changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.builders import OBS, box, discrete, random_obs, raw_batch, rich_obs

from bb_wm.data import as_batch, as_obs
from bb_wm.errors import (
    ActionError,
    BatchError,
    BBWMError,
    DeviceError,
    DtypeError,
    EpisodeError,
    InputTypeError,
    RangeError,
    ResourceError,
)
from bb_wm.types import ActionSpec, Batch, ObsSpec

ACTION = ActionSpec.of(2)
Raw = dict[str, Any]


def digest(raw: Any) -> str:
    """What the caller's data are, bit for bit, and where the random numbers stand."""
    parts: list[bytes] = [
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()).encode(),
    ]

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                parts.append(str(key).encode())
                walk(item)
        elif isinstance(value, Batch):
            walk({name: getattr(value, name) for name in Batch.__dataclass_fields__})
        elif isinstance(value, torch.Tensor):
            parts.append(f"{value.dtype}{value.shape}{value.requires_grad}".encode())
            if value.layout is torch.strided and value.device.type == "cpu":
                parts.append(str(value.detach().tolist()).encode())
        elif isinstance(value, np.ndarray) and value.nbytes < 1e6:
            parts.append(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            parts.append(str(type(value)).encode())

    walk(raw)
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def refused(
    raw: Any,
    error: type[BBWMError],
    field: str,
    *,
    obs: ObsSpec = OBS,
    action: ActionSpec = ACTION,
    says: str = "",
    **options: Any,
) -> BBWMError:
    """The error, after checking its form and that nothing changed."""
    before = digest(raw)
    with pytest.raises(error) as caught:
        as_batch(raw, obs, action, **options)
    found = caught.value
    assert type(found) is error, f"{type(found).__name__}: {found}"
    assert found.field.startswith(field), str(found)
    assert found.expected
    assert found.actual
    assert says in str(found), str(found)
    assert len(str(found)) <= 400
    assert "tensor(" not in str(found)
    assert digest(raw) == before
    return found


def written(name: str, index: Any, value: Any) -> Raw:
    raw = raw_batch()
    raw[name][index] = value
    return raw


def replaced(**changes: Any) -> Raw:
    return raw_batch() | changes


def equal(a: Batch, b: Batch) -> bool:
    def flat(batch: Batch) -> dict[str, torch.Tensor]:
        columns = {n: getattr(batch, n) for n in Batch.__dataclass_fields__ if n != "obs"}
        return {**columns, **{f"obs:{k}": v for k, v in batch.obs.items()}}

    x, y = flat(a), flat(b)
    return x.keys() == y.keys() and all(
        x[n] is y[n] is None or (x[n].dtype == y[n].dtype and torch.equal(x[n], y[n])) for n in x
    )


GOOD = raw_batch()
FLOATS = ("obs", "action", "reward", "safety")
FLAGS = ("terminated", "is_first", "valid")


# --- B1-B30 --------------------------------------------------------------------------------------


def b1() -> None:
    for key in ("obs", "action", "reward", "terminated"):
        raw = raw_batch()
        del raw[key]
        assert key in str(refused(raw, BatchError, "batch").expected)
    refused(raw_batch(), BatchError, "batch", says="action_mask", masked=True)
    refused(raw_batch(rich_obs()) | {"obs": {}}, BatchError, "obs", obs=rich_obs(), says="'arm'")


def b2() -> None:
    refused(replaced(extra=GOOD["reward"]), BatchError, "batch", says="extra")
    refused(replaced(obs={"obs": GOOD["obs"], "eye": GOOD["obs"]}), BatchError, "obs", says="eye")
    refused(replaced() | {5: 5}, BatchError, "batch", says="5")  # type: ignore[dict-item]


def b3() -> None:
    for name in ("reward", "safety", *FLAGS):
        found = refused(replaced(**{name: GOOD[name][..., None]}), BatchError, name)
        assert "[4, 6]" in found.expected
        assert "[4, 6, 1]" in found.actual
        assert "squeeze" in found.hint
    one = ObsSpec.of(1)
    raw = raw_batch(one)
    found = refused(raw | {"obs": raw["obs"][..., 0]}, BatchError, "obs", obs=one)
    assert "[..., None]" in found.hint


def b4() -> None:
    for name in ("reward", "action", "obs", "is_first"):
        swapped = replaced(**{name: np.swapaxes(GOOD[name], 0, 1)})
        assert "swapped" in refused(swapped, BatchError, name).hint
    all_swapped = {name: np.swapaxes(value, 0, 1) for name, value in GOOD.items()}
    assert "swapped" in refused(all_swapped, EpisodeError, "is_first").hint


def b5() -> None:
    wrong = [GOOD["obs"][..., :2], GOOD["obs"][..., :1], GOOD["obs"][0, 0, 0], np.zeros((1,), "f4")]
    for obs in [*wrong, np.float32(1.0), 1.0, np.zeros((4, 6, 3, 1), np.float32)]:
        refused(replaced(obs=obs), BatchError, "obs")
    refused(replaced(action=GOOD["action"][..., :1]), BatchError, "action")
    refused(replaced(reward=0.0), BatchError, "reward")
    refused(replaced(reward=np.float32(0)), BatchError, "reward")


def b6() -> None:
    found = refused(replaced(reward=GOOD["reward"][:, :-1]), BatchError, "reward")
    assert "obs" in found.hint or "action" in found.hint
    refused(replaced(terminated=GOOD["terminated"][:-1]), BatchError, "terminated")
    spec = rich_obs()
    raw = raw_batch(spec)
    raw["obs"]["eye"] = raw["obs"]["eye"][:2]
    refused(raw, BatchError, "obs['eye']", obs=spec)


def b7() -> None:
    for shape in ((0, 6), (4, 0), (4, 1), (0, 0)):
        refused(raw_batch(shape=shape), BatchError, "batch", says=str(list(shape)))
    one = as_batch(raw_batch(shape=(4, 1)), OBS, ACTION, learn=False)
    assert one.shape == (4, 1)


def broken_number(value: float, says: str) -> None:
    for name in FLOATS:
        for place in (0, -1, GOOD[name].size // 2):
            raw = raw_batch()
            raw[name].flat[place] = value
            index = [int(i) for i in np.unravel_index(place % GOOD[name].size, GOOD[name].shape)]
            found = refused(raw, BatchError, name, says=says)
            assert "1 " in found.actual
            assert str(index) in found.actual
    raw = raw_batch()
    raw["valid"][:, -1] = False
    raw["reward"][:, -1] = value  # padding is multiplied by 0, and 0 * NaN is NaN
    refused(raw, BatchError, "reward", says=says)


def b8() -> None:
    broken_number(np.nan, "NaN")


def b9() -> None:
    broken_number(np.inf, "Inf")
    broken_number(-np.inf, "Inf")


def b10() -> None:
    for name in FLOATS:
        raw = raw_batch()
        raw[name].flat[3] = 1.1e6
        refused(raw, RangeError, name)
    as_batch(written("obs", (0, 0, 0), -1e6), OBS, ACTION)


def b11() -> None:
    for name in FLOATS:
        for dtype in (np.float64, np.float16, np.int64, np.int32, ">f4"):
            refused(replaced(**{name: GOOD[name].astype(dtype)}), DtypeError, name)
        tensor = torch.from_numpy(GOOD[name])
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64):
            refused(replaced(**{name: tensor.to(kind)}), DtypeError, name)
    for dtype in (np.uint8, np.int8, np.int16, np.uint16, np.bool_):  # exact in float32
        obs = np.abs(GOOD["obs"] * 9).astype(dtype)
        batch = as_batch(replaced(obs=obs), OBS, ACTION)
        assert batch.obs["obs"].dtype == torch.float32
        assert batch.obs["obs"].numpy().astype(dtype).tobytes() == obs.tobytes()


def b12() -> None:
    spec = rich_obs()
    for dtype, value in ((np.int64, 300), (np.int16, -1), (np.float32, 0.5), (np.bool_, True)):
        raw = raw_batch(spec)
        raw["obs"]["eye"] = np.full(raw["obs"]["eye"].shape, value, dtype)
        refused(raw, DtypeError, "obs['eye']", obs=spec, says="uint8")
    for value in (-1, 3):
        raw = raw_batch(spec)
        raw["obs"]["mode"][2, 1, 0] = value
        refused(raw, RangeError, "obs['mode']", obs=spec, says="[2, 1, 0]")
    raw = raw_batch(spec)
    raw["obs"]["mode"] = raw["obs"]["mode"].astype(np.uint64)
    raw["obs"]["mode"][0, 0, 0] = 2**64 - 1
    refused(raw, RangeError, "obs['mode']", obs=spec)


def b13() -> None:
    for name in (*FLOATS, *FLAGS):
        for value in (
            GOOD[name].astype(complex),
            GOOD[name].astype(object),
            GOOD[name].astype(str),
            None,
            "text",
            b"bytes",
            GOOD["reward"].astype("datetime64[s]"),
            torch.zeros(GOOD[name].shape, dtype=torch.complex64),
        ):
            refused(replaced(**{name: value}), DtypeError, name)


def b14() -> None:
    tensors = {name: torch.from_numpy(value) for name, value in raw_batch().items()}
    for name in tensors:
        found = refused(tensors | {name: tensors[name].to("meta")}, DeviceError, name)
        assert "cpu" in found.expected
        assert "meta" in found.actual
    found = refused(tensors, DeviceError, "obs", device="meta")
    assert "meta" in found.expected


def b15() -> None:
    for name in FLOATS:
        leaf = torch.from_numpy(raw_batch()[name]).requires_grad_()
        refused(replaced(**{name: leaf}), BatchError, name, says="detach")
        refused(replaced(**{name: leaf * 2}), BatchError, name, says="detach")
        as_batch(replaced(**{name: leaf.detach()}), OBS, ACTION)


def b16() -> None:
    want = as_batch(raw_batch(), OBS, ACTION)
    views: list[Callable[[np.ndarray], Any]] = [
        np.asfortranarray,
        lambda x: np.ascontiguousarray(x[::-1])[::-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: torch.from_numpy(np.ascontiguousarray(np.swapaxes(x, 0, 1))).transpose(0, 1),
        lambda x: torch.from_numpy(np.repeat(x, 2, axis=0))[::2],
    ]
    for view in views:
        assert equal(as_batch({k: view(v) for k, v in raw_batch().items()}, OBS, ACTION), want)
    locked = raw_batch()
    for value in locked.values():
        value.flags.writeable = False
    assert equal(as_batch(locked, OBS, ACTION), want)
    wide = as_batch(replaced(reward=np.broadcast_to(np.float32(2), (4, 6))), OBS, ACTION)
    narrow = torch.full((1, 1), 2.0).expand(4, 6)
    assert equal(as_batch(replaced(reward=narrow), OBS, ACTION), wide)
    assert all(t.is_contiguous() for t in (wide.reward, *wide.obs.values()))


def b17() -> None:
    for shared in (GOOD["safety"].copy(), torch.from_numpy(GOOD["safety"].copy())):
        batch = as_batch(replaced(reward=shared, safety=shared), OBS, ACTION)
        assert torch.equal(batch.reward, batch.safety)
        assert np.asarray(shared).tobytes() == GOOD["safety"].tobytes()


def b18() -> None:
    raw, want = raw_batch(), as_batch(raw_batch(), OBS, ACTION)
    batch = as_batch(raw, OBS, ACTION)
    for value in raw.values():
        value[:] = 1
    assert equal(batch, want)


def b19() -> None:
    # A window may begin in mid-episode, so is_first may be False at t = 0; left out, it is True.
    middle = as_batch(written("is_first", slice(None), False), OBS, ACTION)
    assert not middle.is_first.any()
    raw = raw_batch()
    del raw["is_first"], raw["valid"], raw["safety"]
    batch = as_batch(raw, OBS, ACTION)
    assert batch.is_first[:, 0].all()
    assert not batch.is_first[:, 1:].any()
    assert batch.valid.all()
    assert not batch.safety.any()
    raw = raw_batch()
    raw["valid"][1, 2] = False  # rows after padding are a fresh start
    refused(raw, EpisodeError, "is_first", says="[1, 3]")
    raw["is_first"][1, 3] = True
    as_batch(raw, OBS, ACTION)


def b20() -> None:
    raw = raw_batch()
    raw["is_first"][2, 3] = raw["is_first"][2, 4] = True
    refused(raw, EpisodeError, "is_first", says="[2, 4]")
    refused(written("is_first", (0, 1), True), EpisodeError, "is_first", says="[0, 1]")
    as_batch(written("is_first", (0, 5), True), OBS, ACTION)  # a window that ends in a new episode


def b21() -> None:
    raw = raw_batch()
    raw["terminated"][1, 2] = True
    refused(raw, EpisodeError, "is_first", says="[1, 3]")
    raw["is_first"][1, 3] = True
    as_batch(raw, OBS, ACTION)
    raw = raw_batch()
    raw["terminated"][1, 2] = True
    raw["valid"][1, 3:] = False
    as_batch(raw, OBS, ACTION)
    as_batch(written("terminated", (slice(None), -1), True), OBS, ACTION)
    refused(written("terminated", (3, 0), True), EpisodeError, "", says="[3,")


def b22() -> None:
    raw = raw_batch() | {"truncated": np.zeros((4, 6), bool)}
    as_batch(raw, OBS, ACTION)
    raw["is_first"][0, 3] = True
    refused(raw, EpisodeError, "is_first", says="[0, 3]")
    raw["truncated"][0, 2] = True
    as_batch(raw, OBS, ACTION)
    raw["truncated"][1, 2] = True
    refused(raw, EpisodeError, "is_first", says="[1, 3]")
    as_batch(written("is_first", (0, 3), True), OBS, ACTION)  # no `truncated`: abandoned


def b23() -> None:
    for name in (*FLAGS, "truncated"):
        for dtype in (np.int64, np.uint8, np.float32):
            wrong = np.full((4, 6), 2 if dtype != np.float32 else 0.5, dtype)
            refused(replaced(**{name: wrong}), DtypeError, name, says="bool")
            refused(replaced(**{name: torch.from_numpy(wrong)}), DtypeError, name, says="bool")


def b24() -> None:
    raw = raw_batch() | {"truncated": np.zeros((4, 6), bool)}
    raw["truncated"][2, 5] = raw["terminated"][2, 5] = True
    refused(raw, EpisodeError, "truncated", says="[2, 5]")


def b25() -> None:
    bounded = box(-1, 1, 2)
    raw = raw_batch(action_spec=bounded)
    raw["action"][2, 3, 1] = 1.01
    refused(raw, ActionError, "action", action=bounded, says="[2, 3, 1]")
    raw["action"][2, 3, 1] = 1.00001  # rounding
    as_batch(raw, OBS, bounded)
    three = discrete(3)
    for row in ([0.5, 0.5, 0], [1, 1, 0], [0, 2, -1], [0, 0, 0]):
        raw = raw_batch(action_spec=three)
        raw["action"][1, 4] = row
        refused(raw, ActionError, "action", action=three, says="[1, 4]")
    for index in (3, -1):
        raw = raw_batch(action_spec=three)
        raw["action"] = np.zeros((4, 6), np.int64)
        raw["action"][0, 0] = index
        refused(raw, ActionError, "action", action=three)


def b26() -> None:
    refused(written("safety", (1, 2), -1e-3), RangeError, "safety", says="[1, 2]")


def b27() -> None:
    huge = (10**6, 10**5)
    raw = {
        "obs": np.broadcast_to(np.float32(0), (*huge, 3)),
        "action": np.broadcast_to(np.float32(0), (*huge, 2)),
        "reward": np.broadcast_to(np.float32(0), huge),
        "terminated": np.broadcast_to(False, huge),
    }
    refused(raw, ResourceError, "batch", says="bytes")
    many = discrete(10**6)
    index = raw_batch(shape=(40, 60)) | {"action": np.zeros((40, 60), np.int32)}
    refused(index, ResourceError, "batch", action=many)
    size = sum(value.nbytes for value in raw_batch().values())
    refused(raw_batch(), ResourceError, "batch", max_bytes=size - 1, says=str(size))
    as_batch(raw_batch(), OBS, ACTION, max_bytes=size)


def b28() -> None:
    import pandas

    table = pandas.DataFrame({"reward": [0.0]})
    structured = np.zeros((4, 6), [("reward", np.float32)])
    for raw in ([raw_batch()], table, structured, None, 5, GOOD["obs"], "batch"):
        refused(raw, InputTypeError, "batch", says="Batch")
    masked = np.ma.masked_array(GOOD["reward"])
    for value in (GOOD["reward"].tolist(), table, structured, masked, {"a": GOOD["reward"]}):
        refused(replaced(reward=value), InputTypeError, "reward", says="numpy")


def b29() -> None:
    same = {k: np.broadcast_to(v[:1, :1], v.shape).copy() for k, v in GOOD.items()}
    same["is_first"] = GOOD["is_first"]
    refused(same, BatchError, "batch", says="24 equal rows")
    as_batch(same, OBS, ACTION, learn=False)
    padded = dict(same, valid=GOOD["valid"].copy())
    padded["valid"][:, 4:] = False
    padded["obs"] = padded["obs"].copy()
    padded["obs"][:, 4:] = 0
    refused(padded, BatchError, "batch", says="16 equal rows")
    one_differs = dict(same, obs=same["obs"].copy())
    one_differs["obs"][2, 3, 1] += 1
    as_batch(one_differs, OBS, ACTION)
    nothing = written("valid", slice(None), False)
    refused(nothing, BatchError, "valid")
    no_transition = written("valid", (slice(None), slice(1, None)), False)
    refused(no_transition, BatchError, "valid", says="transition")
    as_batch(nothing, OBS, ACTION, learn=False)


def b30() -> None:
    spec = ObsSpec.of({"b": {"y": 2, "x": 1}, "a": 3})
    raw = raw_batch(spec)
    keys = raw["obs"]
    other_order = raw | {"obs": {"b": {"x": keys["b/x"], "y": keys["b/y"]}, "a": keys["a"]}}
    batch = as_batch(other_order, spec, ACTION)
    assert list(batch.obs) == ["a", "b/x", "b/y"]
    assert equal(batch, as_batch(raw, spec, ACTION))


CLASSES = {name.upper(): value for name, value in list(globals().items()) if name[1:].isdigit()}


@pytest.mark.parametrize("row", CLASSES)
def test_batch_class(row: str) -> None:
    CLASSES[row]()


def test_all_thirty_classes_are_here() -> None:
    assert list(CLASSES) == [f"B{n}" for n in range(1, 31)]


# --- what is taken -------------------------------------------------------------------------------


def test_a_good_batch_is_the_same_in_every_form() -> None:
    spec, action = rich_obs(), discrete(3)
    raw = raw_batch(spec, action)
    batch = as_batch(raw, spec, action)
    for key, value in raw["obs"].items():
        assert batch.obs[key].numpy().tobytes() == value.tobytes()
        assert batch.obs[key].numpy().dtype == value.dtype
    for name in ("action", "reward", "safety", *FLAGS):
        assert getattr(batch, name).numpy().tobytes() == raw[name].tobytes()
    as_tensors = {
        name: {k: torch.from_numpy(v) for k, v in value.items()}
        if name == "obs"
        else torch.from_numpy(value)
        for name, value in raw.items()
    }
    assert equal(as_batch(as_tensors, spec, action), batch)
    again = as_batch(batch, spec, action)
    assert equal(again, batch)
    assert again.reward.data_ptr() == batch.reward.data_ptr(), "a good Batch is not copied"


def test_the_outsides_own_actions_are_flattened() -> None:
    three = discrete(3)
    raw = raw_batch(action_spec=three)
    for kind in (np.int64, np.int8, np.uint8):
        index = raw["action"].argmax(-1).astype(kind)
        for action in (index, torch.from_numpy(index)):
            batch = as_batch(raw | {"action": action}, OBS, three)
            assert batch.action.numpy().tobytes() == raw["action"].tobytes()
    for wrong in (raw["action"].argmax(-1)[..., None], raw["action"].argmax(-1)[:, :-1]):
        refused(raw | {"action": wrong}, BatchError, "action", action=three)
    refused(raw | {"action": np.zeros((4, 6), np.float32)}, BatchError, "action", action=three)
    refused(raw | {"action": np.zeros((4, 6), np.float64)}, DtypeError, "action", action=three)

    space = gymnasium.spaces.Dict(
        {
            "go": gymnasium.spaces.Box(-1, 1, (2,)),
            "key": gymnasium.spaces.Discrete(3),
            "many": gymnasium.spaces.MultiDiscrete([2, 4]),
        }
    )
    mixed = ActionSpec.of(space)
    raw = raw_batch(action_spec=mixed)
    flat = raw["action"]
    leaves = {
        "many": np.stack([flat[..., 5:7].argmax(-1), flat[..., 7:].argmax(-1)], -1),
        "key": flat[..., 2:5].argmax(-1),
        "go": flat[..., :2],
    }
    want = as_batch(raw, OBS, mixed)
    assert equal(as_batch(raw | {"action": leaves}, OBS, mixed), want)
    for key, value, error in (
        ("go", flat[..., :2].astype(np.float64), DtypeError),
        ("go", flat[..., :2] + 3, ActionError),
        ("key", np.full((4, 6), 3), ActionError),
    ):
        refused(raw | {"action": {**leaves, key: value}}, error, "action", action=mixed)
    refused(raw | {"action": {"go": leaves["go"]}}, ActionError, "action", action=mixed, says="key")


def test_no_action_is_taken_only_where_none_was_done() -> None:
    for spec in (discrete(3), box(0.5, 1, 2)):
        raw = raw_batch(action_spec=spec)
        raw["action"][:, -1] = 0  # the end of the sequence
        raw["is_first"][0, 3] = True
        raw["action"][0, 2] = 0  # the next row is another episode
        raw["valid"][1, 4:] = False
        raw["action"][1, 3:] = 0  # the next row, and then the row itself, is padding
        batch = as_batch(raw, OBS, spec)
        assert batch.action.numpy().tobytes() == raw["action"].tobytes()
        for place in ((0, 1), (1, 2), (2, 0)):
            wrong = raw | {"action": raw["action"].copy()}
            wrong["action"][place] = 0
            refused(wrong, ActionError, "action", action=spec, says=str(list(place))[:-1])


def test_masks_say_what_could_be_done() -> None:
    three = discrete(3)
    raw = raw_batch(action_spec=three)
    raw["action_mask"] = raw["action"] > 0
    batch = as_batch(raw, OBS, three, masked=True)
    assert batch.action_mask is not None
    assert batch.action_mask.numpy().tobytes() == raw["action_mask"].tobytes()
    forbidden = raw | {"action_mask": raw["action_mask"].copy()}
    forbidden["action_mask"][1, 2] = ~forbidden["action_mask"][1, 2]
    refused(forbidden, ActionError, "action", action=three, says="[1, 2]")
    forbidden["valid"] = raw["valid"].copy()
    forbidden["valid"][1, 2:] = False
    as_batch(forbidden, OBS, three)
    for wrong, error in (
        (raw["action_mask"].astype(np.float32), DtypeError),
        (raw["action_mask"][..., :2], BatchError),
        (None, DtypeError),
    ):
        refused(raw | {"action_mask": wrong}, error, "action_mask", action=three)


def test_choices_may_lack_their_axis() -> None:
    spec = ObsSpec.of(gymnasium.spaces.Discrete(4))
    raw = raw_batch(spec)
    batch = as_batch(raw | {"obs": raw["obs"][..., 0].astype(np.uint8)}, spec, ACTION)
    assert equal(batch, as_batch(raw, spec, ACTION))
    assert batch.obs["obs"].shape == (4, 6, 1)


def twin(first: np.ndarray, valid: np.ndarray, ended: np.ndarray) -> tuple[bool, bool]:
    """Whether rows are consistent, and whether there is a transition, as one reads them."""
    transition = False
    for b in range(first.shape[0]):
        rows_of_episode = 0  # 0: nothing open
        over = False
        for t in range(first.shape[1]):
            if not valid[b, t]:
                rows_of_episode, over = 0, False
                continue
            if t and not valid[b, t - 1] and not first[b, t]:
                return False, False
            if first[b, t]:
                if rows_of_episode == 1 and first[b, t - 1]:
                    return False, False
                if ended[b, t]:
                    return False, False
                rows_of_episode = 1
            else:
                if over:
                    return False, False
                transition |= bool(t and valid[b, t - 1])
                rows_of_episode += 1
            over = bool(ended[b, t])
    return True, transition


@given(st.integers(0, 2**48 - 1))
def test_the_rules_of_time_against_reading_row_by_row(bits: int) -> None:
    shape = (2, 5)
    flags = [(bits >> i) & 1 for i in range(48)]
    # rare: ended; frequent: valid
    first = np.array([a & b for a, b in zip(flags[:10], flags[10:20], strict=True)], bool)
    valid = np.array([a | b for a, b in zip(flags[20:30], flags[30:40], strict=True)], bool)
    ended = np.array([flags[i] & flags[(i * 7 + 3) % 48] & flags[i + 1] for i in range(10)], bool)
    first, valid, ended = (x.reshape(shape) for x in (first, valid, ended))
    raw = raw_batch(shape=shape) | {"is_first": first, "valid": valid, "terminated": ended}
    good, transition = twin(first, valid, ended)
    if not good:
        refused(raw, EpisodeError, "")
    elif not transition:
        refused(raw, BatchError, "valid")
    else:
        as_batch(raw, OBS, ACTION)


# --- O1: observations ----------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,)])
def test_observations_single_or_batched(lead: tuple[int, ...]) -> None:
    spec = rich_obs()
    count = int(np.prod(lead, dtype=int))
    rows = random_obs(spec, count, np.random.default_rng(0))
    obs = {k: v.reshape(*lead, *v.shape[1:]) for k, v in rows.items()}
    tensors, shape = as_obs(obs, spec)
    assert shape == lead
    for key, value in obs.items():
        assert tensors[key].numpy().dtype == value.dtype
        assert tensors[key].numpy().tobytes() == value.tobytes()
        assert tensors[key].shape == value.shape
    bare, shape = as_obs(obs["pos"], OBS)
    assert shape == lead
    assert list(bare) == ["obs"]


def test_o1_a_simulators_float64_is_rounded() -> None:
    good = np.array([0.1, 0.2, 1e-9])
    for obs in (good, torch.from_numpy(good)):
        seen, shape = as_obs(obs, OBS)
        assert shape == ()
        assert seen["obs"].dtype == torch.float32
        assert seen["obs"].numpy().tobytes() == good.astype(np.float32).tobytes()


def test_o1_observations_that_are_refused() -> None:
    good = np.zeros(3, np.float32)
    nan = good.copy()
    nan[1] = np.nan
    cases: list[tuple[Any, type[BBWMError]]] = [
        (np.float32(1), BatchError),
        (good[:2], BatchError),
        (np.zeros((3, 1), np.float32), BatchError),
        (np.zeros(1, np.float32), BatchError),
        (good.astype(np.float16), DtypeError),
        (good.astype(np.int64), DtypeError),
        (good.astype(object), DtypeError),
        (None, DtypeError),
        ("look", DtypeError),
        ([0.0, 0.0, 0.0], InputTypeError),
        ({"eye": good}, BatchError),
        (nan, BatchError),
        (good - np.inf, BatchError),
        (good + 2e6, RangeError),
        (torch.zeros(3, requires_grad=True), BatchError),
        (torch.zeros(3, device="meta"), DeviceError),
        (torch.zeros(3).to_sparse(), DtypeError),
        (np.broadcast_to(np.float32(0), (10**9, 3)), ResourceError),
        (np.broadcast_to(np.float64(0), (10**9, 3)), ResourceError),
        (np.full(3, 1e300), BatchError),
    ]
    for obs, error in cases:
        with pytest.raises(error) as caught:
            as_obs(obs, OBS)
        assert type(caught.value) is error, str(caught.value)
        assert caught.value.field == ("batch" if error is ResourceError else "obs")
    with pytest.raises(BatchError) as caught:
        as_obs(good[:1], OBS, field="answer")
    assert caught.value.field == "answer"


def test_observation_keys_must_agree_on_their_batch() -> None:
    spec = rich_obs()
    obs = random_obs(spec, 4, np.random.default_rng(0))
    with pytest.raises(BatchError, match=r"\[4\]"):
        as_obs({**obs, "pos": obs["pos"][:3]}, spec)
    with pytest.raises(BatchError, match="pos"):
        as_obs({k: v for k, v in obs.items() if k != "pos"}, spec)
    with pytest.raises(DtypeError):
        as_obs({**obs, "eye": obs["eye"] / np.float32(255)}, spec)
    with pytest.raises(RangeError):
        as_obs({**obs, "mode": obs["mode"] + 4}, spec)


def test_a_single_choice_in_every_form() -> None:
    spec = ObsSpec.of(gymnasium.spaces.Discrete(4))
    for single in (2, np.int64(2), np.array(2), np.array([2]), torch.tensor(2)):
        tensors, shape = as_obs(single, spec)
        assert (tensors["obs"].tolist(), shape) == ([2], ())
    tensors, shape = as_obs(np.array([2, 3, 0]), spec)
    assert (tensors["obs"].tolist(), shape) == ([[2], [3], [0]], (3,))
    for wrong in (4, -1, 2.0, True, np.array([4])):
        with pytest.raises((RangeError, DtypeError)):
            as_obs(wrong, spec)


def test_a_callers_array_is_copied() -> None:
    mine = np.ones(3, np.float32)
    tensors, _ = as_obs(mine, OBS)
    mine[:] = 7
    assert tensors["obs"].tolist() == [1, 1, 1]
