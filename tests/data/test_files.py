"""Logs of others become the same rows as collecting would have given; broken ones are named."""

import io
import json
import zipfile
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from bb_wm.data import npz
from bb_wm.data.arrays import episode_from_arrays
from bb_wm.data.collecting import collect
from bb_wm.data.files import load_episodes, save_episodes_npz
from bb_wm.data.npz import npz_bytes
from bb_wm.data.table import TableColumns
from bb_wm.errors import (
    BBWMError,
    ConfigError,
    DataError,
    EpisodeError,
    MissingExtraError,
    PathError,
)
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.catalogue import make_world

spaces = gym.spaces
ONE, TWO = ObsSpec.of(1), ObsSpec.of(2)


def assert_same(left, right) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.terminated, a.truncated) == (b.terminated, b.truncated)
        pairs = [(a.obs[key], b.obs[key]) for key in b.obs]
        pairs += [(a.action, b.action), (a.reward, b.reward), (a.safety, b.safety)]
        assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
        assert (a.action_mask is None) == (b.action_mask is None)
        if a.action_mask is not None:
            assert np.array_equal(a.action_mask, b.action_mask)


# --- arrays: where the reward stands -------------------------------------------------------------


def test_leaving_rewards_move_one_row_down() -> None:
    """obs 0 1 2, action a b; the reward of a stands beside a."""
    made = episode_from_arrays(
        ONE,
        ActionSpec.of(1),
        obs=np.array([[0.0], [1.0], [2.0]]),
        action=np.array([0.1, 0.2]),
        reward=np.array([10.0, 20.0]),
        safety=np.array([0.0, 3.0]),
        terminated=np.array([False, True]),
    )
    assert made.reward.tolist() == [0, 10, 20]
    assert made.safety.tolist() == [0, 0, 3]
    assert made.action[:, 0].tolist() == [np.float32(0.1), np.float32(0.2), 0]
    assert made.terminated


def test_without_the_row_it_led_to_the_last_action_is_not_kept() -> None:
    """D4RL's form: as many observations as actions; what the last one led to was never stored."""
    made = episode_from_arrays(
        ONE,
        ActionSpec.of(1),
        obs=np.array([[0.0], [1.0], [2.0]]),
        action=np.array([0.1, 0.2, 0.3]),
        reward=np.array([10.0, 20.0, 30.0]),
        terminated=np.array([False, False, True]),
    )
    assert made.reward.tolist() == [0, 10, 20]
    assert made.action[-1, 0] == 0
    assert (made.terminated, made.truncated) == (False, True)


def test_arriving_rewards_stay_where_they_are() -> None:
    common = {
        "obs": np.array([[0.0], [1.0], [2.0]]),
        "action": np.array([0.1, 0.2, 0.3]),
        "terminated": np.array([False, False, True]),
        "rewards": "arriving",
    }
    made = episode_from_arrays(ONE, ActionSpec.of(1), reward=np.array([0.0, 10.0, 20.0]), **common)
    assert made.reward.tolist() == [0, 10, 20]
    assert made.terminated
    with pytest.raises(EpisodeError, match="leaving"):
        episode_from_arrays(ONE, ActionSpec.of(1), reward=np.array([5.0, 10.0, 20.0]), **common)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reward": np.zeros(4)}, "reward"),
        ({"reward": np.zeros((2, 2))}, "reward"),
        ({"reward": np.array(["a", "b"])}, "reward"),
        ({"reward": np.array([np.nan, 0])}, "reward"),
        ({"action": np.zeros((2, 3))}, "action"),
        ({"action": np.zeros((5, 1))}, "action"),
        ({"obs": np.zeros((1, 1))}, "obs"),
        ({"obs": np.zeros((3, 2))}, "obs"),
        ({"obs": np.full((3, 1), np.inf)}, "obs"),
        ({"terminated": np.array([True, False])}, "terminated"),
        ({"terminated": np.array([0.5, 0.0])}, "terminated"),
        ({"safety": np.array([-1.0, 0.0])}, "safety"),
        ({"rewards": "somewhere"}, "rewards"),
    ],
)
def test_arrays_that_contradict_each_other_are_named(change, field) -> None:
    arrays = {
        "obs": np.zeros((3, 1)),
        "action": np.zeros((2, 1)),
        "reward": np.zeros(2),
        "terminated": False,
    }
    episode_from_arrays(ONE, ActionSpec.of(1), **arrays)
    with pytest.raises(BBWMError, match=field):
        episode_from_arrays(ONE, ActionSpec.of(1), **{**arrays, **change})


# --- npz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["CartPole-v1", "Pendulum-v1", "Taxi-v4", "Blackjack-v1"])
def test_saved_episodes_come_back_bit_for_bit(world, tmp_path) -> None:
    maker, _ = make_world(world)
    env = maker()
    obs_spec, action_spec = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    episodes = collect(env, rows=60)
    folder = save_episodes_npz(tmp_path / "log", episodes, obs_spec, action_spec)
    loaded = load_episodes(folder)
    assert_same(loaded.episodes, episodes)
    assert (loaded.obs_spec, loaded.action_spec) == (obs_spec, action_spec)
    with pytest.raises(PathError):
        save_episodes_npz(folder, episodes, obs_spec, action_spec)
    again = save_episodes_npz(tmp_path / "again", episodes, obs_spec, action_spec)
    names = sorted(path.name for path in folder.iterdir())
    assert all((folder / n).read_bytes() == (again / n).read_bytes() for n in names)


def write_npz(path: Path, **arrays) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(npz_bytes(arrays))
    return path


def plain(**change):
    arrays = {
        "obs": np.arange(8.0).reshape(4, 2),
        "action": np.array([0, 2, 1]),
        "reward": np.array([1.0, 2.0, 3.0]),
        "cost": np.array([0.0, 0.5, 0.0]),
        "terminated": np.True_,
        **change,
    }
    return {name: value for name, value in arrays.items() if value is not None}


def test_a_plain_log_needs_no_specs(tmp_path) -> None:
    write_npz(tmp_path / "b.npz", **plain(reward=np.array([7.0, 7.0, 7.0])))
    write_npz(tmp_path / "a.npz", **plain())
    loaded = load_episodes(tmp_path)
    assert loaded.obs_spec == TWO
    assert loaded.action_spec == ActionSpec.of(spaces.Discrete(3))
    assert loaded[0].reward.tolist() == [0, 1, 2, 3]  # files in the order of their names
    assert loaded[0].safety.tolist() == [0, 0, 0.5, 0]
    assert loaded[0].action.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert loaded[0].terminated


def test_what_a_file_says_of_its_rewards_wins(tmp_path) -> None:
    arriving = plain(reward=np.array([0.0, 1.0, 2.0, 3.0]), cost=None, rewards="arriving")
    file = write_npz(tmp_path / "a.npz", **arriving)
    assert load_episodes(file, rewards="leaving")[0].reward.tolist() == [0, 1, 2, 3]
    arriving.pop("rewards")
    file = write_npz(tmp_path / "b.npz", **arriving)
    assert load_episodes(file, rewards="arriving")[0].reward.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"b\.npz.*reward|reward.*b\.npz"):
        load_episodes(file)


def test_several_keys_and_images(tmp_path) -> None:
    view = np.random.default_rng(0).integers(0, 255, (4, 9, 8, 3)).astype(np.uint8)
    arrays = plain(obs=None)
    arrays |= {"obs.view": view, "obs.arm/q": np.ones((4, 2))}
    loaded = load_episodes(write_npz(tmp_path / "a.npz", **arrays))
    assert [(e.key, e.kind) for e in loaded.obs_spec.entries] == [
        ("arm/q", "vector"),
        ("view", "image"),
    ]
    assert np.array_equal(loaded[0].obs["view"], view)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"obs": None}, "obs"),
        ({"obs.x": np.zeros((4, 1))}, "obs"),
        ({"reward": None}, "reward"),
        ({"rewrad": np.zeros(3)}, "rewrad"),
        ({"obs": np.zeros((4, 2), complex)}, "obs"),
        ({"action": np.array([[0.5], [np.nan], [0.1]])}, "action"),
        ({"terminated": np.array([1, 0, 0])}, "terminated"),
        ({"obs_spec": "{"}, "json|spec"),
        ({"obs_spec": '{"single": true}'}, "spec"),
        ({"rewards": "wherever"}, "rewards"),
    ],
)
def test_a_bad_file_is_named_with_its_field(tmp_path, change, told) -> None:
    write_npz(tmp_path / "good.npz", **plain())
    bad = write_npz(tmp_path / "x" / "worse.npz", **plain(**change))
    with pytest.raises(DataError, match=told) as caught:
        load_episodes(bad)
    assert "worse.npz" in str(caught.value) or told == "json|spec"


def member(array_header: bytes, data: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(array_header).to_bytes(2, "little") + array_header + data


def test_lying_headers_bombs_and_pickles_are_refused_before_allocation(
    tmp_path, monkeypatch
) -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"
    cases = {
        "lies": member((header % "999999999999").encode(), b"\0" * 16),
        "short": member((header % "1").encode(), b"\0" * 16),
        "object": member(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"x" * 8),
        "code": member(b"{'descr': __import__('os').system('false')}", b""),
        "noise": b"hello",
    }
    for name, content in cases.items():
        file = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("obs.npy", content)
        with pytest.raises(DataError, match=name):
            load_episodes(file)
    bomb = write_npz(tmp_path / "bomb.npz", **plain(obs=np.zeros((1 << 20, 2))))
    assert bomb.stat().st_size < 1 << 16
    monkeypatch.setattr(npz, "MAX_EPISODE_BYTES", 1 << 23)
    with pytest.raises(DataError, match="bytes"):
        load_episodes(bomb)


def test_every_truncation_and_flipped_byte_is_noticed(tmp_path) -> None:
    arrays = plain(rewards="leaving")
    good = npz_bytes(arrays)
    original = load_episodes(write_npz(tmp_path / "a.npz", **arrays))
    file, silent = tmp_path / "b.npz", 0
    for place in range(0, len(good), 7):
        for broken in (
            good[:place],
            good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :],
        ):
            file.write_bytes(broken)
            try:
                loaded = load_episodes(file)
            except DataError:
                continue
            silent += 1  # a byte of a zip date or the like: the rows must be the same
            assert_same(loaded.episodes, original.episodes)
    assert silent < len(good) / 7


# --- tables --------------------------------------------------------------------------------------

CSV = """episode,t,obs.x,obs.v,action,reward,cost,terminated
b,0,1.0,2.0,0,10,0,false
b,1,1.5,2.5,2,20,0.5,false
b,2,2.0,3.0,,,,true
a,10,5,6,1,1,0,0
a,30,7,8,,,,0
a,20,6,7,0,2,0,0
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_csv_table_by_its_prefixes(tmp_path) -> None:
    loaded = load_episodes(write(tmp_path / "log.csv", CSV))
    assert loaded.action_spec == ActionSpec.of(spaces.Discrete(3))
    first, second = loaded
    assert first.obs["obs"].tolist() == [[1, 2], [1.5, 2.5], [2, 3]]
    assert first.action.argmax(1)[:2].tolist() == [0, 2]
    assert first.reward.tolist() == [0, 10, 20]
    assert first.safety.tolist() == [0, 0, 0.5]
    assert (first.terminated, first.truncated) == (True, False)
    assert second.obs["obs"][:, 0].tolist() == [5, 6, 7]  # put in the order of t
    assert second.reward.tolist() == [0, 1, 2]
    assert (second.terminated, second.truncated) == (False, False)


def test_the_same_table_with_arriving_rewards(tmp_path) -> None:
    text = (
        "episode,t,obs.x,action.u,reward,terminated\n1,0,0,0.5,,0\n1,1,1,0.25,10,0\n1,2,2,,20,1\n"
    )
    loaded = load_episodes(write(tmp_path / "log.csv", text), rewards="arriving")
    assert loaded[0].reward.tolist() == [0, 10, 20]
    assert loaded[0].action[:, 0].tolist() == [0.5, 0.25, 0]
    with pytest.raises(DataError, match="arriving"):  # a reward where no action was done
        load_episodes(tmp_path / "log.csv", rewards="leaving")


def test_next_observations_give_the_last_row(tmp_path) -> None:
    text = (
        "episode,t,obs.x,next_obs.x,action.u,reward,terminated\n"
        "1,0,0,1,0.5,10,0\n"
        "1,1,1,2,0.25,20,1\n"
    )
    loaded = load_episodes(write(tmp_path / "log.csv", text))
    assert loaded[0].obs["obs"][:, 0].tolist() == [0, 1, 2]
    assert loaded[0].reward.tolist() == [0, 10, 20]
    assert loaded[0].terminated


def test_named_columns_of_several_keys(tmp_path) -> None:
    text = (
        "run,tick,px,py,heat,push,gain,risk,over\n"
        "7,0,1,2,3,0.5,1,0,0\n"
        "7,1,4,5,6,0.1,2,0.2,1\n"
        "7,2,7,8,9,,,,\n"
    )
    columns = TableColumns(
        episode="run",
        t="tick",
        obs={"place": ("px", "py"), "heat": ("heat",)},
        action=("push",),
        reward="gain",
        safety="risk",
        terminated="over",
    )
    episode = load_episodes(write(tmp_path / "log.csv", text), columns=columns)[0]
    assert episode.obs["place"].tolist() == [[1, 2], [4, 5], [7, 8]]
    assert episode.obs["heat"][:, 0].tolist() == [3, 6, 9]
    assert episode.safety.tolist() == [0, 0, np.float32(0.2)]
    assert episode.terminated


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("obs.x,obs.v", "p.x,p.v", "obs"),
        ("reward", "score", "reward"),
        ("obs.v", "obs.x", "header"),
        ("b,1,1.5", "b,1,oops", "oops|line 3"),
        ("b,1,1.5,2.5", "b,1,1.5", "line 3"),
        ("b,1,", "b,0,", "t of episode 'b'"),
        ("b,1,", "b,1.4,", "t of episode 'b'"),
        ("b,1,", "b,,", "t of episode 'b'"),
        ("b,1,", ",1,", "episode"),
        ("2.5", "nan", "episode 'b'"),
        ("0.5", "-0.5", "episode 'b'"),
        ("b,1,1.5,2.5,2", "b,1,1.5,2.5,", "action"),
        ("b,0,1.0,2.0,0,10,0,false", "b,0,1.0,2.0,0,10,0,true", "terminated"),
    ],
)
def test_a_bad_table_is_named_with_its_place(tmp_path, old, new, told) -> None:
    assert old in CSV
    with pytest.raises(DataError, match=told) as caught:
        load_episodes(write(tmp_path / "log.csv", CSV.replace(old, new, 1)))
    assert "log.csv" in str(caught.value)


def test_empty_and_unknown_files(tmp_path) -> None:
    for name, text in (("a.csv", ""), ("b.csv", "episode,t,obs.x,action,reward\n"), ("c.txt", "x")):
        with pytest.raises(DataError, match=name[0]):
            load_episodes(write(tmp_path / name, text))
    with pytest.raises(DataError, match="exists"):
        load_episodes(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"\.npz"):
        load_episodes(tmp_path / "empty")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        load_episodes(tmp_path / "b.csv")


def test_parquet_and_csv_of_one_table_agree(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [line.split(",") for line in CSV.strip().split("\n")]
    typed = {}
    for place, name in enumerate(rows[0]):
        column = [row[place] for row in rows[1:]]
        if name == "episode":
            typed[name] = pa.array(column)
        elif name == "terminated":
            typed[name] = pa.array([value in ("true", "1") for value in column])
        else:
            typed[name] = pa.array([float(value) if value else None for value in column])
    pq.write_table(pa.table(typed), tmp_path / "log.parquet")
    left = load_episodes(tmp_path / "log.parquet")
    right = load_episodes(write(tmp_path / "log.csv", CSV))
    assert_same(left.episodes, right.episodes)
    assert left.action_spec == right.action_spec


def test_lists_per_row_as_robot_data_sets_store_them(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "episode_index": [0, 0, 0],
            "frame_index": [0, 1, 2],
            "observation.state": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
            "action": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
            "next.reward": [1.0, 2.0, 3.0],
            "next.done": [False, False, True],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    columns = TableColumns(
        "episode_index",
        "frame_index",
        ("observation.state",),
        ("action",),
        reward="next.reward",
        terminated="next.done",
    )
    loaded = load_episodes(tmp_path / "log.parquet", columns=columns)
    assert loaded[0].obs["obs"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert loaded.action_spec.size == 2
    assert loaded[0].reward.tolist() == [0, 1, 2]
    assert (loaded[0].terminated, loaded[0].truncated) == (False, True)  # its last row is absent
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "log.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="torn"):
        load_episodes(tmp_path / "torn.parquet", columns=columns)


def test_an_absent_extra_is_named_with_its_install_line(tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name, extra in (("log.parquet", "tables"), ("log.hdf5", "minari")):
        with pytest.raises(MissingExtraError, match=rf'pip install "bb_wm\[{extra}\]"'):
            load_episodes(write(tmp_path / name, "x"))


# --- Minari --------------------------------------------------------------------------------------


def buffers(env, count: int):
    """Minari's own episode buffers and the Episodes they hold."""
    from minari.data_collector import EpisodeBuffer

    spec = ActionSpec.of(env.action_space)
    made, expected = [], []
    for index in range(count):
        obs, _ = env.reset(seed=index)
        env.action_space.seed(index)
        seen, done, rewards, ends, cuts, costs = [obs], [], [], [], [], [0.0]
        while not (ends and (ends[-1] or cuts[-1])):
            done.append(env.action_space.sample())
            obs, reward, end, cut, _ = env.step(done[-1])
            seen.append(obs)
            rewards.append(float(reward))
            ends.append(end)
            cuts.append(cut)
            costs.append(len(rewards) / 8)
        made.append(
            EpisodeBuffer(
                id=index,
                observations=np.asarray(seen),
                actions=np.asarray(done),
                rewards=rewards,
                terminations=ends,
                truncations=cuts,
                infos={"cost": np.asarray(costs)},
            )
        )
        idle = np.zeros((1, spec.size), np.float32)
        expected.append(
            Episode(
                {"obs": np.asarray(seen, np.float32)},
                np.concatenate([spec.flatten(np.asarray(done)), idle]),
                np.asarray([0.0, *rewards], np.float32),
                np.asarray(costs, np.float32),
                bool(ends[-1]),
                bool(cuts[-1] and not ends[-1]),
            )
        )
    return made, expected


@pytest.mark.parametrize("world", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_a_dataset_written_by_minari_itself(world, tmp_path, monkeypatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make(world, max_episode_steps=40)
    made, expected = buffers(env, 3)
    minari.create_dataset_from_buffers("test/log-v0", made, env=env, data_format="hdf5")
    loaded = load_episodes(tmp_path / "test" / "log-v0")
    assert_same(loaded.episodes, expected)
    assert loaded.obs_spec == ObsSpec.of(env.observation_space)
    assert loaded.action_spec == ActionSpec.of(env.action_space)
    file = tmp_path / "test" / "log-v0" / "data" / "main_data.hdf5"
    assert_same(load_episodes(file).episodes, expected)
    for name in ("observations", "actions", "rewards", "terminations"):
        torn = tmp_path / "torn.hdf5"
        torn.write_bytes(file.read_bytes())
        with h5py.File(torn, "a") as edit:
            del edit["episode_1"][name]
        with pytest.raises(DataError, match=rf"torn\.hdf5.*{name}"):
            load_episodes(torn)


def minari_like(path: Path, **change) -> Path:
    arrays = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminations": np.zeros(3, bool),
        "truncations": np.array([False, False, True]),
        **change,
    }
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        for name, value in arrays.items():
            if isinstance(value, h5py.ExternalLink | h5py.SoftLink):
                group[name] = value
            else:
                group.create_dataset(name, data=value)
    return path


def test_links_references_and_lies_in_hdf5_are_refused(tmp_path) -> None:
    other = minari_like(tmp_path / "other.hdf5")
    assert len(load_episodes(other)) == 1
    bad = {
        "external": {"rewards": h5py.ExternalLink(str(other), "episode_0/rewards")},
        "soft": {"rewards": h5py.SoftLink("/episode_0/actions")},
        "text": {"observations": np.array([b"a", b"b"], "S1")},
        "long": {"rewards": np.zeros(9)},
        "nan": {"observations": np.full((4, 2), np.nan)},
        "early": {"terminations": np.array([True, False, False])},
    }
    for name, change in bad.items():
        with pytest.raises(DataError, match=f"{name}.hdf5"):
            load_episodes(minari_like(tmp_path / f"{name}.hdf5", **change))
    huge = tmp_path / "huge.hdf5"
    minari_like(huge)
    with h5py.File(huge, "a") as file:
        del file["episode_0"]["observations"]
        file["episode_0"].create_dataset("observations", shape=(10**12, 2), chunks=(1000, 2))
    with pytest.raises(DataError, match="bytes"):
        load_episodes(huge)
    with h5py.File(tmp_path / "names.hdf5", "w") as file:
        file.create_group("something")
    with pytest.raises(DataError, match="something"):
        load_episodes(tmp_path / "names.hdf5")
    (tmp_path / "noise.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="noise"):
        load_episodes(tmp_path / "noise.hdf5")


def test_nested_spaces_of_minari_metadata(tmp_path) -> None:
    file = tmp_path / "main_data.hdf5"
    with h5py.File(file, "w") as edit:
        group = edit.create_group("episode_0")
        group.create_dataset("observations/pose/_index_0", data=np.ones((4, 3)))
        group.create_dataset("observations/pose/_index_1", data=np.array([0, 1, 2, 1]))
        group.create_dataset("observations/lamp", data=np.ones((4, 2), np.int8))
        group.create_dataset("actions/move", data=np.full((3, 2), 0.5))
        group.create_dataset("actions/click", data=np.array([0, 3, 1]))
        group.create_dataset("rewards", data=np.ones(3))
        group.create_dataset("terminations", data=np.array([False, False, True]))
        group.create_dataset("truncations", data=np.zeros(3, bool))
    box = {"type": "Box", "dtype": "float64", "shape": [3], "low": [-5] * 3, "high": [5] * 3}
    pose = {"type": "Tuple", "subspaces": [box, {"type": "Discrete", "n": 3, "start": 0}]}
    lamp = {"type": "MultiBinary", "n": 2}
    move = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
    told = {
        "observation_space": {"type": "Dict", "subspaces": {"pose": pose, "lamp": lamp}},
        "action_space": {
            "type": "Dict",
            "subspaces": {"move": move, "click": {"type": "Discrete", "n": 4, "start": 0}},
        },
    }
    text = json.dumps({name: json.dumps(value) for name, value in told.items()})
    (tmp_path / "metadata.json").write_text(text)
    episode = load_episodes(tmp_path)[0]
    assert sorted(episode.obs) == ["lamp", "pose/0", "pose/1"]
    assert episode.obs["pose/1"][:, 0].tolist() == [0, 1, 2, 1]
    assert episode.action.tolist()[1] == [0, 0, 0, 1, 0.5, 0.5]
    assert episode.terminated
    for broken in ("{", "[]", text.replace("Tuple", "Graph"), text.replace("float64", "object")):
        (tmp_path / "metadata.json").write_text(broken)
        with pytest.raises(DataError):
            load_episodes(tmp_path)


def test_settings_of_loading(tmp_path) -> None:
    file = write_npz(tmp_path / "a.npz", **plain())
    with pytest.raises(ConfigError, match="rewards"):
        load_episodes(file, rewards="both")  # type: ignore[arg-type]
    wider = load_episodes(file, action_spec=spaces.Discrete(7))
    assert wider[0].action.shape == (4, 7)
    with pytest.raises(DataError, match=r"a\.npz"):
        load_episodes(file, action_spec=spaces.Discrete(2))
    with pytest.raises(DataError, match=r"a\.npz"):
        load_episodes(file, obs_spec=5)
    assert io.BytesIO(npz_bytes(plain())).read(2) == b"PK"
