"""Old or new, never a mixture: crashes, full disks, flipped bytes, hostile names, two writers."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults import failing, kill_before_call

from bb_wm.durable import (
    RunLock,
    check_name,
    clean_temporaries,
    dump_json,
    load_json,
    make_directory,
    read_file,
    read_files,
    read_manifest,
    seal_json,
    unseal_json,
    write_file,
    write_files,
)
from bb_wm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LockError,
    PathError,
    SaveError,
    VersionError,
)

OLD = {"a.bin": b"old a" * 5, "b.bin": b""}
NEW = {"a.bin": b"new a" * 7, "c.bin": b"x"}


def listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# --- crashes -------------------------------------------------------------------------------------


def test_a_directory_killed_at_every_file_call_is_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "run"
    seen, k, killed = set(), 0, True
    while killed:
        shutil.rmtree(tmp_path, ignore_errors=True)
        tmp_path.mkdir()
        write_files(target, OLD, {"step": 1})
        killed = kill_before_call(k, lambda: write_files(target, NEW, {"step": 2}) and None)
        manifest, files = read_files(target)
        assert (files, manifest.meta) in ((OLD, {"step": 1}), (NEW, {"step": 2})), f"point {k}"
        seen.add(manifest.meta["step"])
        write_files(target, OLD, {"step": 3})
        assert listing(tmp_path) == ["run"], f"point {k} left something behind"
        k += 1
    assert k > 12, "too few points: the calls were not counted"
    assert seen == {1, 2}


def test_a_file_killed_at_every_file_call_is_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "file"
    k, killed, seen = 0, True, set()
    while killed:
        write_file(target, b"old")
        killed = kill_before_call(k, lambda: write_file(target, b"new" * 9))
        seen.add(target.read_bytes())
        k += 1
    assert seen == {b"old", b"new" * 9}
    assert k >= 6
    assert clean_temporaries(tmp_path) >= 2
    assert listing(tmp_path) == ["file"]


def test_temporaries_of_a_living_writer_stay(tmp_path: Path) -> None:
    living = tmp_path / f".tmp-{os.getppid()}-00000000-0-file"
    dead = tmp_path / f".tmp-{os.getpid()}-00000000-0-file"  # our pid, but not our token
    living.write_bytes(b"")
    dead.write_bytes(b"")
    assert clean_temporaries(tmp_path) == 1
    assert listing(tmp_path) == [living.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_failing_disk_leaves_the_old_directory(
    tmp_path: Path, number: int, for_ever: bool
) -> None:
    target = tmp_path / "run"
    refused = 0
    for k in range(30):
        write_files(target, OLD, {"step": 1})
        try:
            with failing(k, number, for_ever=for_ever):
                write_files(target, NEW, {"step": 2})
        except OSError as error:
            assert (type(error), error.errno) == (SaveError, number)  # noqa: PT017
            refused += 1
            manifest, files = read_files(target)
            if "in place" in str(error):  # making the names durable failed, and so did going back
                assert for_ever
                assert (files, manifest.meta) == (NEW, {"step": 2})
                continue
            assert (files, manifest.meta) == (OLD, {"step": 1}), f"point {k}"
            if not for_ever:
                assert listing(tmp_path) == ["run"], f"point {k} left something behind"
        else:  # a reading call that was tried again, or there is no k-th call
            assert read_files(target)[1] == NEW
    assert 10 < refused < 30


def test_a_failing_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(target, b"old")
    for k in range(100):
        try:
            with failing(k, errno.ENOSPC, for_ever=False):
                write_file(target, b"new")
        except SaveError as error:
            if "in place" in error.hint:  # the last call: making the new name durable
                assert target.read_bytes() == b"new"
                write_file(target, b"old")
            else:
                assert target.read_bytes() == b"old"
        else:
            break
        assert listing(tmp_path) == ["file"]
    assert k >= 5


def test_a_file_size_limit_is_a_save_error(tmp_path: Path) -> None:
    target = tmp_path / "run"
    write_files(target, OLD)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_files(target, {"big": b"x" * 5000})
        except SaveError as error:
            os._exit(0 if error.errno == errno.EFBIG else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
    assert read_files(target)[1] == OLD
    assert listing(tmp_path) == ["run"]


def test_the_previous_directory_is_read_when_the_swap_was_cut(tmp_path: Path) -> None:
    write_files(tmp_path / "run", OLD)
    os.rename(tmp_path / "run", tmp_path / ".run.previous")
    assert read_files(tmp_path / "run")[1] == OLD
    write_files(tmp_path / "run", NEW)
    assert read_files(tmp_path / "run")[1] == NEW
    assert listing(tmp_path) == ["run"]


def test_a_directory_with_other_peoples_files_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_files(home, OLD)  # empty: may be taken
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(SaveError, match=r"thesis\.txt"):
        write_files(home, NEW)
    assert listing(home) == ["a.bin", "b.bin", "manifest.json", "thesis.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError):
        write_files(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_text() == "mine"
    write_files(tmp_path / "run", OLD)
    (tmp_path / "run" / "manifest.json").write_bytes(b"damaged")
    (tmp_path / "run" / "b.bin").unlink()
    write_files(tmp_path / "run", NEW)  # nothing in it that is not ours by name
    assert read_files(tmp_path / "run")[1] == NEW


# --- damage --------------------------------------------------------------------------------------


def test_every_flip_truncation_and_extension_is_detected(tmp_path: Path) -> None:
    target = tmp_path / "run"
    write_files(target, OLD, {"note": "x", "number": 0.1})
    for name in ("a.bin", "b.bin", "manifest.json"):
        path = target / name
        whole = path.read_bytes()
        damaged = [
            whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))
        ]
        damaged += [whole[:n] for n in range(len(whole))]
        damaged += [whole + b"\0", whole + b"\n", whole + whole[:7], b" " + whole]
        for data in set(damaged) - {whole}:
            path.write_bytes(data)
            error = CheckpointError if len(data) % 2 else DataError
            with pytest.raises(error):
                read_files(target, error=error)
        path.write_bytes(whole)
    assert read_files(target)[1] == OLD


@pytest.mark.parametrize("how", ["missing", "symlink", "hardlink", "fifo", "directory"])
def test_a_member_must_be_a_file_of_its_own(tmp_path: Path, how: str) -> None:
    target = tmp_path / "run"
    write_files(target, OLD)
    member = target / "a.bin"
    other = tmp_path / "other"
    member.rename(other)
    if how == "symlink":
        member.symlink_to(other)
    elif how == "hardlink":
        os.link(other, member)
    elif how == "fifo":
        os.mkfifo(member)
    elif how == "directory":
        member.mkdir()
    with pytest.raises(CheckpointError) as caught:
        read_files(target)
    assert "a.bin" in str(caught.value)


def test_caps_hold_before_anything_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "run", OLD)
    total = sum(map(len, OLD.values()))
    assert read_files(tmp_path / "run", max_bytes=total)[1] == OLD
    with pytest.raises(CheckpointError, match="at most"):
        read_files(tmp_path / "run", max_bytes=total - 1)
    with pytest.raises(DataError, match="at most"):
        read_file(tmp_path / "run" / "a.bin", error=DataError, max_bytes=3)
    with pytest.raises(SaveError):
        write_files(tmp_path / "run", OLD, {"long": "x" * (1 << 20)})


def test_a_fifo_or_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path, tmp_path / "absent", "nul\0"):
        with pytest.raises(ConfigError):
            read_file(path, error=ConfigError)


def forge(target: Path, **changes: object) -> None:
    body = json.loads((target / "manifest.json").read_bytes())
    del body["seal"]
    (target / "manifest.json").write_bytes(seal_json(body | changes))


def test_a_sealed_manifest_is_still_judged(tmp_path: Path) -> None:
    target = tmp_path / "run"
    digest = "0" * 64
    for changes in (
        {"members": {"../x": {"bytes": 1, "sha256": digest}}},
        {"members": {"a": {"bytes": 1, "sha256": digest}, "A": {"bytes": 1, "sha256": digest}}},
        {"members": {"a": {"bytes": -1, "sha256": digest}}},
        {"members": {"a": {"bytes": 10**30, "sha256": digest}}},
        {"members": {"a": 5}},
        {"members": []},
        {"meta": 3},
        {"more": 1},
    ):
        write_files(target, OLD)
        forge(target, **changes)
        with pytest.raises(CheckpointError):
            read_files(target)
    write_files(target, OLD)
    forge(target, schema=2)
    with pytest.raises(VersionError):
        read_manifest(target)
    with pytest.raises(DataError):
        read_manifest(target, error=DataError)


# --- names and JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a/b",
        "a\\b",
        "CON",
        "con.txt",
        "x" * 65,
        "é",
        "🙂",
        "a\n",
        "a\0",
        ".hidden",
        " a",
        "lpt1",
        None,
        5,
        b"a",
    ],
)
def test_harmful_names_are_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(PathError):
        check_name(name)
    with pytest.raises(PathError):
        write_files(tmp_path / "run", {name: b""})  # type: ignore[dict-item]
    assert listing(tmp_path) == []


def test_member_names_must_differ_beyond_case(tmp_path: Path) -> None:
    for names in (("a", "A"), ("manifest.json",), ("Manifest.JSON",)):
        with pytest.raises(PathError):
            write_files(tmp_path / "run", dict.fromkeys(names, b""))
    assert check_name("Model-1.safetensors_") == "Model-1.safetensors_"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b"1" * 4000,
        b"0." + b"1" * 100,
        b'{"a":1,"a":1}',
        b"[" * 100_000,
        b"[" * 33 + b"]" * 33,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"\0",
        b"'a'",
        b"[1,]",
    ],
)
def test_doubtful_json_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError):
        load_json(text, error=ConfigError)


def test_json_at_the_limits_is_read() -> None:
    deep = b"[" * 32 + b"1" + b"]" * 32
    assert json.dumps(load_json(deep, error=DataError)).encode() == deep
    assert load_json(b" " * 10 + b"3", error=DataError, max_bytes=11) == 3
    with pytest.raises(DataError):
        load_json(b" " * 11 + b"3", error=DataError, max_bytes=11)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1: 2}, {"a": {None: 1}}, [b"x"], {1, 2}, object()]
)
def test_json_that_would_come_back_different_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(SaveError):
        dump_json(value)
    with pytest.raises(SaveError):
        write_files(tmp_path / "run", {}, {"meta": value})
    assert listing(tmp_path) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4).filter(lambda key: key != "seal"), JSON, max_size=4))
def test_sealed_json_comes_back_the_same(body: dict[str, object]) -> None:
    raw = seal_json(body)
    assert unseal_json(raw, error=DataError) == body
    assert seal_json(unseal_json(raw, error=DataError)) == raw


# --- one writer ----------------------------------------------------------------------------------


def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as lock:
        with pytest.raises(LockError, match=str(os.getpid())):
            RunLock(tmp_path / "run")
        code = (
            "import sys\nfrom bb_wm.durable import RunLock\nfrom bb_wm.errors import LockError\n"
            "try: RunLock(sys.argv[1])\nexcept LockError: print('refused')\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        )
        run = [sys.executable, "-c", code, str(tmp_path / "run")]
        answer = subprocess.run(run, capture_output=True, text=True, check=True)
        assert answer.stdout == "refused\n"
        assert lock.held
    assert not lock.held
    RunLock(tmp_path / "run").release()


def test_a_dead_writers_lock_is_free_though_its_worker_lives(tmp_path: Path) -> None:
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock = RunLock(tmp_path)
        worker = os.fork()
        if worker == 0:
            os.write(say, f"{os.getpid()}\n".encode())
            signal.pause()
            os._exit(0)
        signal.pause()
        assert lock.held
        os._exit(0)
    worker = int(os.read(ready, 20))
    try:
        with pytest.raises(LockError):
            RunLock(tmp_path)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        RunLock(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(ready)
        os.close(say)


def test_make_directory_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    assert make_directory(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError):
        make_directory(tmp_path / "file" / "b")
    with pytest.raises(SaveError):
        write_file(tmp_path / "absent" / "x", b"")
