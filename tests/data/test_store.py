"""Acknowledged means it survives; damage is found and counted; a header cannot lie."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.builders import OBS, box, discrete, make_episode, rich_obs, same
from tests.faults import failing, kill_before_call

from bb_wm.data import EpisodeStore
from bb_wm.data import layout as layout_module
from bb_wm.data.chunk import columns_of, decode_chunk, encode_chunk
from bb_wm.errors import DataError, InputTypeError, LockError, SaveError
from bb_wm.types import ActionSpec, Episode, ObsSpec

ACTION = ActionSpec.of(2)


def episodes(count: int, seed: int = 0, **options: Any) -> list[Episode]:
    ends = ("terminated", "truncated", "abandoned")
    return [
        make_episode(3 + (seed + i) % 5, seed=seed + i, end=ends[i % 3], **options)
        for i in range(count)
    ]


def new_store(path: Path | None, *sizes: int) -> list[Episode]:
    """A store with one append (one chunk) per size; what it holds."""
    held: list[Episode] = []
    with EpisodeStore(path, OBS, ACTION) as store:
        for size in sizes:
            group = episodes(size, seed=len(held))
            assert store.append(group) == list(range(len(held), len(held) + size))
            held += group
    return held


def chunk_files(path: Path) -> list[Path]:
    return sorted((path / "chunks").iterdir())


# --- what goes in comes out ----------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_what_goes_in_comes_out(tmp_path: Path, on_disk: bool, masked: bool) -> None:
    spec, choice = rich_obs(), discrete(3)
    given = episodes(5, obs_spec=spec, action_spec=choice)
    if masked:
        given[2:4] = episodes(2, seed=9, obs_spec=spec, action_spec=choice, masked=True)
    path = tmp_path / "s" if on_disk else None
    store = EpisodeStore(path, spec, choice)
    assert store.append(given[:3]) == [0, 1, 2]
    assert store.append([]) == []
    assert store.append(given[3:]) == [3, 4]
    readers = [store, *([EpisodeStore(path, mode="r")] if on_disk else [])]
    for reader in readers:
        assert len(reader) == 5
        assert reader.rows == sum(len(e) for e in given)
        assert all(same(a, b) for a, b in zip(reader, given, strict=True))
        assert all(same(reader[i], given[i]) for i in (4, 0, 2))
        assert [number for number, _ in reader.items(3)] == [3, 4]
        assert reader.obs_spec == spec
        assert reader.action_spec == choice
        for number in (5, -1, 10**9):
            with pytest.raises(DataError):
                reader[number]


def test_a_caller_cannot_change_what_is_stored(tmp_path: Path) -> None:
    for path in (None, tmp_path / "s"):
        store = EpisodeStore(path, OBS, ACTION)
        given, kept = make_episode(), make_episode()
        store.append([given])
        given.obs["obs"][:] = 7
        given.reward[:] = 7
        assert same(store[0], kept)
        with pytest.raises(ValueError, match="read-only"):
            store[0].obs["obs"][0] = 1


def test_any_safetensors_reader_opens_a_chunk(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    held = new_store(tmp_path / "s", 3)
    columns = load_file(chunk_files(tmp_path / "s")[0])
    assert columns["reward"].tobytes() == np.concatenate([e.reward for e in held]).tobytes()
    assert columns["obs:obs"].shape == (sum(map(len, held)), 3)


def test_large_appends_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "CHUNK_BYTES", 150)
    held = new_store(tmp_path / "s", 7)
    assert len(chunk_files(tmp_path / "s")) > 3
    assert all(
        same(a, b) for a, b in zip(EpisodeStore(tmp_path / "s", mode="r"), held, strict=True)
    )


def test_a_reader_sees_what_was_added_when_it_looks_again(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "s", OBS, ACTION) as store:
        reader = EpisodeStore(tmp_path / "s", mode="r")
        store.append(episodes(2))
        assert len(reader) == 0
        assert reader.refresh() == 2
        assert reader.refresh() == 0
        assert same(reader[1], store[1])


def test_the_store_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from bb_wm.data import EpisodeStore\n"
        "from bb_wm.types import ObsSpec, ActionSpec\n"
        "EpisodeStore(sys.argv[1], ObsSpec.of(3), ActionSpec.of(2)); import bb_wm.data.sampler\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True)


# --- opening -------------------------------------------------------------------------------------


def test_other_specs_are_refused_by_name(tmp_path: Path) -> None:
    new_store(tmp_path / "s", 1)
    for obs, action, field in (
        (ObsSpec.of(4), ACTION, "obs_spec.entries[0].shape[0]"),
        (OBS, box(-1, 1, 2), "action_spec.parts[0].low[0]"),
        (ObsSpec.of({"obs": 3}), None, "obs_spec.single"),
        (None, discrete(2), "action_spec.form"),
    ):
        for mode in ("r", "a"):
            with pytest.raises(DataError) as caught:
                EpisodeStore(tmp_path / "s", obs, action, mode)  # type: ignore[arg-type]
            assert caught.value.field == field
    EpisodeStore(tmp_path / "s", OBS, ACTION, "a").close()  # the lock was given back


def test_places_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_bytes(b"")
    for name in ("mine", "file"):
        with pytest.raises((DataError, SaveError)):
            EpisodeStore(tmp_path / name, OBS, ACTION)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    for arguments in (
        (tmp_path / "absent", OBS, ACTION, "r"),
        (tmp_path / "absent", None, ACTION, "a"),
        (None, OBS, ACTION, "r"),
        (None, OBS, None, "a"),
        (tmp_path / "absent", OBS, ACTION, "w"),
    ):
        with pytest.raises(DataError):
            EpisodeStore(*arguments)
    with pytest.raises(InputTypeError):
        EpisodeStore(5, OBS, ACTION)  # type: ignore[arg-type]
    assert not (tmp_path / "absent").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "s", OBS, ACTION) as store:
        with pytest.raises(LockError):
            EpisodeStore(tmp_path / "s", OBS, ACTION)
        store.append(episodes(1))
        assert len(EpisodeStore(tmp_path / "s", mode="r")) == 1
    for closed in (store, EpisodeStore(tmp_path / "s", mode="r")):
        with pytest.raises(DataError):
            closed.append(episodes(1))
        with pytest.raises(DataError):
            closed.truncate(0)
    with EpisodeStore(tmp_path / "s") as store:
        with pytest.raises(InputTypeError):
            store.append(make_episode())  # type: ignore[arg-type]
        with pytest.raises(InputTypeError):
            store.append(e for e in episodes(1))  # type: ignore[arg-type]
        assert store.append(episodes(1)) == [1]


def test_a_spec_file_that_was_touched_is_refused(tmp_path: Path) -> None:
    new_store(tmp_path / "s", 1)
    path = tmp_path / "s" / "store.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError):
            EpisodeStore(tmp_path / "s", mode="r")


# --- crashes -------------------------------------------------------------------------------------


def test_killed_at_every_file_call_of_an_append(tmp_path: Path) -> None:
    held = new_store(tmp_path / "whole", 2, 1)
    more = episodes(2, seed=50)
    k, killed, lengths = 0, True, set()
    while killed:
        path = tmp_path / f"k{k}"
        shutil.copytree(tmp_path / "whole", path)

        def work(path: Path = path) -> None:
            with EpisodeStore(path) as store:
                store.append(more)

        killed = kill_before_call(k, work)
        with EpisodeStore(path, strict=True) as store:
            lengths.add(len(store))
            assert all(
                same(a, b) for a, b in zip(store, [*held, *more][: len(store)], strict=True)
            ), f"point {k}"
            assert store.check().quarantined == ()
            assert store.append(episodes(1)) == [len(store) - 1]
            assert not [name for name in os.listdir(path / "chunks") if name.startswith(".")]
        k += 1
    assert lengths == {3, 5}
    assert k > 8


def test_killed_at_every_file_call_of_making_a_store(tmp_path: Path) -> None:
    k, killed = 0, True
    while killed:
        path = tmp_path / f"k{k}"
        killed = kill_before_call(k, lambda path=path: EpisodeStore(path, OBS, ACTION).close())
        with EpisodeStore(path, OBS, ACTION) as store:
            assert store.append(episodes(1)) == [0]
        k += 1
    assert k > 8


WRITER = """
import sys
from bb_wm.data import EpisodeStore
from tests.data.test_store import episodes, OBS, ACTION
with EpisodeStore(sys.argv[1], OBS, ACTION) as store:
    print("ready", flush=True)
    while True:
        first = store.next_id
        print(store.append(episodes(2, seed=first))[-1], flush=True)
"""


def test_every_acknowledged_episode_survives_kill_at_random_moments(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path, acknowledged = tmp_path / "s", -1
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(random.integers(4)):
                acknowledged = int(writer.stdout.readline())
            time.sleep(random.uniform(0.0, 0.01))
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        store = EpisodeStore(path, strict=True, mode="r")
        assert store.next_id > acknowledged
        assert store.check().episodes == store.next_id
        for number, episode in store.items():
            assert same(episode, episodes(2, seed=number - number % 2)[number % 2])
    assert acknowledged >= 10


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_full_disk_keeps_what_was_there(tmp_path: Path, for_ever: bool) -> None:
    held = new_store(tmp_path / "s", 2)
    with EpisodeStore(tmp_path / "s") as store:
        for k in range(50):
            try:
                with failing(k, errno.ENOSPC, for_ever=for_ever):
                    store.append(episodes(1, seed=70))
            except SaveError:
                assert len(store) == 2
                reader = EpisodeStore(tmp_path / "s", mode="r", strict=True)
                if not for_ever:
                    assert len(reader) == 2, f"point {k}"
                assert all(same(a, b) for a, b in zip(reader, held, strict=False))
            else:
                break
        assert k >= 5
        assert store.append(episodes(1)) == [3]


# --- damage --------------------------------------------------------------------------------------


def damaged_versions(whole: bytes, step: int = 1) -> list[bytes]:
    places = range(0, len(whole), step)
    flips = [whole[:i] + bytes([whole[i] ^ 1 << (i % 8)]) + whole[i + 1 :] for i in places]
    return [*flips, *[whole[:n] for n in places], whole + b"\0", whole + whole]


def test_no_changed_byte_of_a_chunk_is_believed() -> None:
    masked = make_episode(3, action_spec=discrete(2), masked=True)
    columns = columns_of(OBS, discrete(2), masked=True)
    head, whole = encode_chunk(7, 20, [masked, masked], columns)
    assert decode_chunk(whole, OBS, discrete(2))[0] == head
    for data in damaged_versions(whole):
        with pytest.raises(DataError):
            decode_chunk(data, OBS, discrete(2))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_damaged_chunk_is_passed_over_and_counted(tmp_path: Path, position: int) -> None:
    held = new_store(tmp_path / "s", 1, 1, 1)
    victim = chunk_files(tmp_path / "s")[position]
    whole = victim.read_bytes()
    rest = [e for i, e in enumerate(held) if i != position]
    for data in damaged_versions(whole, 17):
        victim.write_bytes(data)
        store = EpisodeStore(tmp_path / "s", mode="r")
        report = store.check()
        assert report.episodes == 2
        assert len(report.quarantined) + len(report.dropped) == 1
        assert victim.name in (report.quarantined + report.dropped)[0]
        assert all(same(a, b) for a, b in zip(store, rest, strict=True))
        assert report.lost_episodes == 1 or position == 2
    with pytest.raises(DataError):
        EpisodeStore(tmp_path / "s", mode="r", strict=True).check()


def test_a_torn_last_chunk_is_set_aside_and_its_number_used_again(tmp_path: Path) -> None:
    held = new_store(tmp_path / "s", 2, 1)
    last = chunk_files(tmp_path / "s")[-1]
    torn = last.read_bytes()[:-5]
    last.write_bytes(torn)
    with EpisodeStore(tmp_path / "s") as store:
        assert len(store) == 2
        assert last.name in store.report.dropped[0]
        assert store.append([held[2]]) == [2]
    assert next((tmp_path / "s" / "dropped").iterdir()).read_bytes() == torn
    store = EpisodeStore(tmp_path / "s", mode="r", strict=True)
    assert all(same(a, b) for a, b in zip(store, held, strict=True))
    assert store.check().dropped == ()


def test_a_missing_or_repeated_chunk_is_noticed(tmp_path: Path) -> None:
    held = new_store(tmp_path / "s", 1, 2, 1)
    files = chunk_files(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    files[1].unlink()
    store = EpisodeStore(tmp_path / "s", mode="r")
    assert store.check().lost_episodes == 2
    assert "missing" in store.report.quarantined[0]
    assert [n for n, _ in store.items()] == [0, 3]
    assert same(store[3], held[3])
    with pytest.raises(DataError):
        store[1]
    with pytest.raises(DataError):
        EpisodeStore(tmp_path / "s", mode="r", strict=True)

    files = chunk_files(tmp_path / "copy")
    shutil.copy(files[0], files[2])  # the same episode index twice
    store = EpisodeStore(tmp_path / "copy", mode="r")
    assert [n for n, _ in store.items()] == [0, 1, 2]
    assert files[2].name in store.report.quarantined[0]


def test_a_store_with_damage_grows_on(tmp_path: Path) -> None:
    held = new_store(tmp_path / "s", 1, 1)
    last = chunk_files(tmp_path / "s")[1]
    whole = bytearray(last.read_bytes())
    whole[-1] ^= 1
    last.write_bytes(whole)
    with EpisodeStore(tmp_path / "s") as store:
        assert store.check().episodes == 1
        assert store.append([held[1]]) == [2]
        assert [n for n, _ in store.items()] == [0, 2]
        assert last.read_bytes() == whole, "evidence is kept"


def test_a_link_or_fifo_in_a_chunks_place(tmp_path: Path) -> None:
    new_store(tmp_path / "s", 1, 1, 1)
    files = chunk_files(tmp_path / "s")
    files[0].rename(tmp_path / "elsewhere")
    files[0].symlink_to(tmp_path / "elsewhere")
    files[1].unlink()
    os.mkfifo(files[1])
    report = EpisodeStore(tmp_path / "s", mode="r").check()
    assert report.episodes == 1
    assert report.lost_episodes == 2


def forge(path: Path, **metadata: str) -> None:
    """Rewrite a chunk's header with other facts, as an attacker would who knows the format."""
    import hashlib

    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"].update(metadata, seal="0" * 64)

    def text() -> bytes:
        body = json.dumps(header, separators=(",", ":")).encode()
        body += b" " * (-len(body) % 8)
        return len(body).to_bytes(8, "little") + body

    header["__metadata__"]["seal"] = hashlib.sha256(text()).hexdigest()
    path.write_bytes(text() + raw[8 + length :])


@pytest.mark.parametrize(
    "lie",
    [
        {"lengths": "99999999999999"},
        {"lengths": "-3"},
        {"lengths": "0"},
        {"lengths": "3 3"},
        {"lengths": "٣"},
        {"lengths": " ".join(["2"] * 5000), "ends": "T" * 5000, "masks": "0" * 5000},
        {"ends": "TT"},
        {"masks": "1"},
        {"number": "5"},
        {"first": "-1"},
        {"schema": "2"},
        {"format": "other"},
        {"sha256": "0" * 64},
        {"number": "9" * 5000},
    ],
    ids=lambda lie: next(iter(lie)) + "=" + next(iter(lie.values()))[:6],
)
def test_a_lying_header_is_refused_before_anything_is_allocated(
    tmp_path: Path, lie: dict[str, str]
) -> None:
    new_store(tmp_path / "s", 1, 1)
    forge(chunk_files(tmp_path / "s")[0], **lie)
    report = EpisodeStore(tmp_path / "s", mode="r").check()
    assert report.episodes == 1
    assert len(report.quarantined) == 1


def test_a_huge_header_or_a_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    for content in (
        (2**62).to_bytes(8, "little") + b"{}",
        (1 << 21).to_bytes(8, "little") + b" " * (1 << 21),
        pickle.dumps(Canary()),
        b"PK\x03\x04" + b"\0" * 100,
    ):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        new_store(tmp_path / "s", 1, 1)
        chunk_files(tmp_path / "s")[0].write_bytes(content)
        report = EpisodeStore(tmp_path / "s", mode="r").check()
        assert report.episodes == 1
        assert len(report.quarantined) == 1
    assert not (tmp_path / "ran").exists()


# --- going back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("next_id", range(7))
def test_truncate_forgets_the_newest(tmp_path: Path, next_id: int, on_disk: bool) -> None:
    path = tmp_path / "s" if on_disk else None
    store = EpisodeStore(path, OBS, ACTION)
    held = episodes(6)
    for group in (held[:2], held[2:5], held[5:]):
        store.append(group)
    store.truncate(next_id)
    for reader in [store, *([EpisodeStore(path, mode="r", strict=True)] if on_disk else [])]:
        assert reader.next_id == len(reader) == next_id
        assert all(same(a, b) for a, b in zip(reader, held[:next_id], strict=True))
    assert store.append(held[:1]) == [next_id]
    assert same(store[next_id], held[0])
    for wrong in (-1, next_id + 2):
        with pytest.raises(DataError):
            store.truncate(wrong)


def test_truncate_killed_at_every_file_call_leaves_a_prefix(tmp_path: Path) -> None:
    held = new_store(tmp_path / "whole", 2, 2, 2)
    k, killed = 0, True
    while killed:
        path = tmp_path / f"k{k}"
        shutil.copytree(tmp_path / "whole", path)

        def work(path: Path = path) -> None:
            with EpisodeStore(path) as store:
                store.truncate(1)

        killed = kill_before_call(k, work)
        store = EpisodeStore(path, mode="r", strict=True)
        assert len(store) in (1, 2, 4, 6)
        assert all(same(a, b) for a, b in zip(store, held[: len(store)], strict=True))
        k += 1
    assert len(store) == 1
