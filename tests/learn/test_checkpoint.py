"""Checkpoints: every damage is noticed, the one before is used, nothing is executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as plain_save

from bb_wm import durable
from bb_wm.durable.tensors import check_header, decode_tensors, digest_tensors, encode_tensors
from bb_wm.errors import CheckpointError, ConfigError, SaveError, VersionError
from bb_wm.learn.checkpoint import (
    list_steps,
    load_best,
    load_checkpoint,
    read_checkpoint,
    save_best,
    save_checkpoint,
    set_aside,
)


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 5, generator=chance),
        "half": torch.randn(4, generator=chance).to(torch.bfloat16),
        "double": torch.randn(2, 1, 2, generator=chance, dtype=torch.float64),
        "generator": torch.randint(0, 256, (16,), generator=chance, dtype=torch.uint8),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }


def save_two(folder: Path) -> None:
    save_checkpoint(folder, 1, tensors(1), {"name": "one"})
    save_checkpoint(folder, 2, tensors(2), {"name": "two"})


def member(folder: Path, step: int, name: str = "model.safetensors") -> Path:
    return folder / f"step-{step:09d}" / name


def replace_member(path: Path, data: bytes) -> None:
    """A checkpoint whose digests fit `data`: only the contents can betray it."""
    _, files = durable.read_files(path.parent)
    meta = durable.read_manifest(path.parent).meta
    durable.write_files(path.parent, files | {path.name: data}, meta)


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    meta = {"seed": 3, "window": {"loss": [0.1 + 0.2, 3]}, "best": None}
    path = save_checkpoint(tmp_path, 1500, tensors(), meta)
    assert path.name == "step-000001500"
    found = load_checkpoint(tmp_path)
    assert (found.step, found.meta, found.problems) == (1500, meta, ())
    assert found.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert digest_tensors(found.tensors) == digest_tensors(tensors())


def test_digest_by_hand() -> None:
    expected = hashlib.sha256(
        b"a|torch.float32|(2,)|" + struct.pack("<2f", 1.0, 2.0) + b"b|torch.bool|()|\x01"
    ).hexdigest()
    assert digest_tensors({"b": torch.tensor(True), "a": torch.tensor([1.0, 2.0])}) == expected


def test_digest_sees_one_bit_a_name_a_shape_and_a_dtype() -> None:
    one = {"a": torch.zeros(2, 3)}
    others = [
        {"a": torch.zeros(3, 2)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.full((2, 3), -0.0)},
    ]
    assert len({digest_tensors(state) for state in [one, *others]}) == 5


def test_views_are_saved_as_their_contents(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path, 0, {"t": base.T, "row": base[1], "same": base[1]}, {})
    found = load_checkpoint(tmp_path).tensors
    assert torch.equal(found["t"], base.T)
    assert torch.equal(found["row"], base[1])
    assert torch.equal(found["same"], base[1])


def test_order_is_by_step_never_by_time(tmp_path: Path) -> None:
    for step in (2, 10, 9_999_999_999):
        save_checkpoint(tmp_path, step, tensors(step % 7), {"step": step})
    now = time.time()
    for age, step in enumerate(list_steps(tmp_path)):
        place = tmp_path / f"step-{step:09d}"
        for path in (place, *place.iterdir()):
            os.utime(path, (now - 86_400 * (10 + age), now - 86_400 * (10 + age)))
    assert load_checkpoint(tmp_path).step == 9_999_999_999


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(6):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=3)
    assert list_steps(tmp_path) == [3, 4, 5]
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:09d}" for step in (3, 4, 5)]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, tensors(1), {})
    save_checkpoint(tmp_path, 4, tensors(2), {})
    assert torch.equal(load_checkpoint(tmp_path).tensors["weight"], tensors(2)["weight"])


def test_an_older_step_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, tensors(1), {})
    with pytest.raises(SaveError) as caught:
        save_checkpoint(tmp_path, 3, tensors(2), {})
    assert caught.value.field == "step"
    assert list_steps(tmp_path) == [4]


@pytest.mark.parametrize("step", [-1, 1.0, True, "3"])
def test_steps_that_are_none(tmp_path: Path, step: object) -> None:
    with pytest.raises(ConfigError):
        save_checkpoint(tmp_path, step, tensors(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_not_a_number_is_refused_at_save(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    save_two(tmp_path)
    before = digest_tree(tmp_path)
    broken = tensors() | {"weight": torch.full((2,), bad, dtype=dtype)}
    for step in (2, 3):
        with pytest.raises(SaveError) as caught:
            save_checkpoint(tmp_path, step, broken, {})
        assert "weight" in caught.value.field
    with pytest.raises(SaveError):
        save_best(tmp_path, 3, broken, {})
    assert digest_tree(tmp_path) == before


def test_not_a_number_is_refused_at_load(tmp_path: Path) -> None:
    save_two(tmp_path)
    broken = tensors() | {"weight": torch.tensor([1.0, float("nan")])}
    replace_member(member(tmp_path, 2), plain_save(broken))
    found = load_checkpoint(tmp_path)
    assert found.step == 1
    assert "NaN or Inf in 'weight'" in str(found.problems[0])


def test_every_flipped_byte_is_detected_and_the_previous_used(tmp_path: Path) -> None:
    small = {"w": torch.tensor([1.5, -2.0]), "g": torch.tensor([3], dtype=torch.uint8)}
    save_checkpoint(tmp_path, 1, tensors(), {})
    save_checkpoint(tmp_path, 2, small, {"a": 1})
    flips = 0
    for path in sorted((tmp_path / "step-000000002").iterdir()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            for mask in (0x01, 0x80):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
                with pytest.raises(CheckpointError):
                    read_checkpoint(path.parent)
                flips += 1
        path.write_bytes(whole)
    assert flips > 800
    assert read_checkpoint(tmp_path / "step-000000002").meta == {"a": 1}


def test_every_truncation_and_extension_is_detected(tmp_path: Path) -> None:
    save_two(tmp_path)
    for path in sorted((tmp_path / "step-000000002").iterdir()):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                read_checkpoint(path.parent)
        for more in (b"\0", b" ", b"\n", b"x" * 4096):
            path.write_bytes(whole + more)
            with pytest.raises(CheckpointError):
                read_checkpoint(path.parent)
        path.unlink()
        found = load_checkpoint(tmp_path)
        assert (found.step, len(found.problems)) == (1, 1)
        path.write_bytes(whole)
    assert load_checkpoint(tmp_path).step == 2


def test_two_damaged_one_good(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, tensors(step), {})
    for step in (2, 3):
        member(tmp_path, step).write_bytes(b"")
    found = load_checkpoint(tmp_path)
    assert found.step == 1
    assert [error.field for error in found.problems] == ["member", "member"]
    member(tmp_path, 1).unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.actual == "3 damaged"


def test_damaged_ones_are_set_aside_and_training_goes_on(tmp_path: Path) -> None:
    save_two(tmp_path)
    member(tmp_path, 2).write_bytes(b"")
    moved = set_aside(tmp_path, newest=load_checkpoint(tmp_path).step)
    assert [path.name for path in moved] == ["damaged-step-000000002"]
    save_checkpoint(tmp_path, 2, tensors(2), {})
    assert load_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize("content", ["nothing", "empty", "strangers"])
def test_no_checkpoint_at_all(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "checkpoints"
    if content != "nothing":
        folder.mkdir()
    if content == "strangers":
        (folder / "step-7").mkdir()
        (folder / "step-0000000xx").mkdir()
        (folder / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert caught.value.actual == "none"


def test_an_empty_step_directory_gives_way(tmp_path: Path) -> None:
    save_two(tmp_path)
    (tmp_path / "step-000000003").mkdir()
    assert load_checkpoint(tmp_path).step == 2


def test_a_step_in_another_steps_directory(tmp_path: Path) -> None:
    save_two(tmp_path)
    (tmp_path / "step-000000002").rename(tmp_path / "step-000000009")
    found = load_checkpoint(tmp_path)
    assert (found.step, found.problems[0].field) == (1, "step")


def test_a_newer_format_stops_rather_than_goes_back(tmp_path: Path) -> None:
    save_two(tmp_path)
    _, files = durable.read_files(tmp_path / "step-000000002")
    meta = {"kind": "checkpoint", "format": 99, "step": 2, "meta": {}}
    durable.write_files(tmp_path / "step-000000002", files, meta)
    with pytest.raises(VersionError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("link", ["member", "directory", "hard"])
def test_links_are_refused(tmp_path: Path, link: str) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save_two(folder)
    place = folder / "step-000000002"
    if link == "directory":
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
    elif link == "member":
        member(folder, 2).rename(elsewhere)
        member(folder, 2).symlink_to(elsewhere)
    else:
        os.link(member(folder, 2), elsewhere)
    assert load_checkpoint(folder).step == 1


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


def malicious(kind: str, canary: Path) -> bytes:
    bomb = pickle.dumps({"weight": Canary(str(canary))})
    if kind == "pickle":
        return bomb
    if kind == "torch zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", bomb)
            archive.writestr("archive/version", "3\n")
        return stream.getvalue()
    good = plain_save(tensors())
    return good + bomb if kind == "polyglot" else bomb + good


@pytest.mark.parametrize("kind", ["pickle", "torch zip", "polyglot", "pickle before"])
def test_a_pickle_renamed_runs_nothing(tmp_path: Path, kind: str) -> None:
    save_two(tmp_path / "run")
    canary = tmp_path / "canary"
    replace_member(member(tmp_path / "run", 2), malicious(kind, canary))
    assert load_checkpoint(tmp_path / "run").step == 1
    assert not canary.exists()


def header(entries: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: object, first: object, last: object, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


LIES = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "huge length": header({}, length=1 << 63),
    "length beyond the file": header({}, length=3),
    "length over the cap": struct.pack("<Q", (1 << 20) + 1) + b" " * ((1 << 20) + 1),
    "not utf-8": header(b"\xff\xfe"),
    "not json": header(b"{"),
    "deep": header(b"[" * 200_000),
    "a list": header([]),
    "duplicate names": header(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "overlap": header({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"xyz"),
    "hole": header({"a": entry([1], 0, 1), "b": entry([1], 2, 3)}, b"xyz"),
    "not from 0": header({"a": entry([1], 1, 2)}, b"xy"),
    "trailing data": header({"a": entry([1], 0, 1)}, b"xy"),
    "missing data": header({"a": entry([3], 0, 3)}, b"xy"),
    "negative": header({"a": entry([-1], 0, 1)}, b"x"),
    "negative place": header({"a": entry([1], -1, 0)}, b"x"),
    "backwards": header({"a": entry([1], 1, 0)}, b"x"),
    "overflow": header({"a": entry([1 << 62, 4], 0, 1)}, b"x"),
    "big int": header({"a": entry([1 << 70], 0, 1)}, b"x"),
    "bool shape": header({"a": entry([True], 0, 1)}, b"x"),
    "float shape": header({"a": entry([1.0], 0, 1)}, b"x"),
    "no list": header({"a": entry(1, 0, 1)}, b"x"),
    "unknown dtype": header({"a": entry([1], 0, 1, "Q99")}, b"x"),
    "dtype a list": header({"a": entry([1], 0, 1, ["U8"])}, b"x"),
    "wrong size": header({"a": entry([1], 0, 1, "F32")}, b"x"),
    "extra field": header({"a": entry([1], 0, 1) | {"x": 1}}, b"x"),
    "missing field": header({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "entry null": header({"a": None}),
    "long name": header({"a" * 513: entry([0], 0, 0)}),
    "too many": header({f"{i}": entry([0], 0, 0) for i in range(10_001)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header(tmp_path: Path, lie: str) -> None:
    with pytest.raises(CheckpointError):
        check_header(LIES[lie])
    save_two(tmp_path)
    replace_member(member(tmp_path, 2), LIES[lie])
    assert load_checkpoint(tmp_path).step == 1


def test_the_limits_themselves_are_allowed() -> None:
    check_header(header({f"{i}": entry([0], 0, 0) for i in range(10_000)}))
    raw = json.dumps({"a": entry([1], 0, 1)}).encode()
    check_header(header(raw + b" " * ((1 << 20) - len(raw)), b"x"))
    check_header(header({"a" * 512: entry([0], 0, 0)}))


def test_too_much_is_refused_at_save() -> None:
    with pytest.raises(SaveError):
        encode_tensors({f"{i}": torch.zeros(0) for i in range(10_001)})
    with pytest.raises(SaveError):
        encode_tensors({f"{i:0500d}": torch.zeros(0) for i in range(3_000)})
    with pytest.raises(SaveError):
        encode_tensors({"": torch.zeros(1)})
    with pytest.raises(SaveError):
        encode_tensors({"a": [1.0]})  # type: ignore[dict-item]


def test_bytes_are_the_same_whatever_the_order() -> None:
    forward = encode_tensors(tensors())
    backward = encode_tensors(dict(reversed(tensors().items())))
    assert forward == backward
    assert digest_tensors(decode_tensors(forward)) == digest_tensors(tensors())


def test_a_full_disk_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_two(tmp_path)
    before = digest_tree(tmp_path)
    real, calls = os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SaveError) as caught:
        save_checkpoint(tmp_path, 3, tensors(3), {}, keep=1)
    monkeypatch.undo()
    assert caught.value.errno == 28
    assert digest_tree(tmp_path) == before


def test_a_crash_between_the_renames_of_a_rewrite(tmp_path: Path) -> None:
    save_two(tmp_path)
    (tmp_path / "step-000000002").rename(tmp_path / ".step-000000002.previous")
    assert list_steps(tmp_path) == [1, 2]
    assert load_checkpoint(tmp_path).step == 2


def test_best_is_a_named_copy_and_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_best(tmp_path)
    save_best(tmp_path, 5, tensors(5), {"score": 0.5})
    save_best(tmp_path, 3, tensors(3), {"score": 0.4})
    assert (load_best(tmp_path).step, load_best(tmp_path).meta) == (3, {"score": 0.4})
    assert list_steps(tmp_path) == []


def digest_tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
