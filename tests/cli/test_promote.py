"""`bb-wm promote` on real models and real rows: verdict, exit code, record, refusals."""

import shutil

import gymnasium
import numpy as np
import pytest
import torch

from bb_wm.cli import main
from bb_wm.cli.promote import EXIT_CODES
from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore
from bb_wm.diagnose.promotion import Outcome, PromotionLog
from bb_wm.learn.checkpoint import save_checkpoint
from bb_wm.learn.run import Run
from bb_wm.learn.settings import TrainSettings
from bb_wm.model.cores import GRU
from bb_wm.rssm import WorldModel
from bb_wm.testing.worlds import LineWorld
from bb_wm.types import ActionSpec, Episode, ObsSpec

OBS, ACTION = ObsSpec.of(2), ActionSpec.of(gymnasium.spaces.Box(-1, 1, (1,), np.float32))
CONFIG = WorldModelConfig(core=GRU(8), hidden=8, head_hidden=8, features=8, budget=None)
QUICK = ["--horizon", "3", "--candidates", "8", "--states", "80", "--threads", "1"]


def line_episode(seed):
    world, draw = LineWorld(length=16), np.random.default_rng(seed)
    obs, _ = world.reset(seed=seed)
    rows = [(obs, 0.0, 0.0)]
    pushed = draw.uniform(-1, 1, (16, 1)).astype(np.float32)
    pushed[-1] = 0
    for push in pushed[:-1]:
        obs, reward, _, _, info = world.step(push)
        rows.append((obs, reward, info["cost"]))
    seen, reward, risk = (np.asarray(column, np.float32) for column in zip(*rows, strict=True))
    return Episode({"obs": seen}, pushed, reward, risk, terminated=False, truncated=True)


def store(folder, seeds):
    with EpisodeStore(folder, OBS, ACTION) as kept:
        kept.append([line_episode(seed) for seed in seeds])


def with_wishes(tensors):
    """The same weights, but the reward head has an opinion; a fresh one says 0 everywhere."""
    name = "averaged/reward.net.linear.weight"
    draw = torch.Generator().manual_seed(0)
    return {**tensors, name: torch.randn(tensors[name].shape, generator=draw)}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Two saved models, held-out rows, and a run that learnt from other rows."""
    place = tmp_path_factory.mktemp("house")
    WorldModel(OBS, ACTION, CONFIG).save(place / "old")
    other = WorldModel(OBS, ACTION, CONFIG.override(seed=1))
    other.load_state_tensors(with_wishes(other.state_tensors()))
    other.save(place / "other")
    store(place / "rows", range(80))
    model = WorldModel(OBS, ACTION, CONFIG)
    run = Run.create(
        place / "run",
        world={"name": "LineWorld"},
        config=model.describe(),
        settings=TrainSettings(),
    )
    tensors = {f"model:{name}": tensor for name, tensor in model.state_tensors().items()}
    save_checkpoint(run.checkpoints, 1, tensors, {})
    store(run.episodes, range(200, 204))
    store(run.heldout, range(300, 310))
    return place


@pytest.fixture
def there(house, monkeypatch):
    """In the house, with nothing recorded yet."""
    monkeypatch.chdir(house)
    shutil.rmtree(house / "promotions", ignore_errors=True)
    return house


def test_the_same_model_is_promoted_recorded_and_exits_with_0(there, capsys):
    assert main(["promote", "old", "--over", "old", "--on", "rows", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PROMOTE: ")
    assert "Percentile 95 of Delta V_s" in out
    (entry,) = PromotionLog("promotions").entries()
    assert entry.digest in out
    assert entry.body["verdict"] == "PROMOTE"
    assert entry.body["new"]["digest"] == entry.body["old"]["digest"]
    assert entry.body["settings"]["planner"]["horizon"] == 3
    assert entry.body["settings"]["utility"]["risk_weight"] == 1.0


def test_too_little_data_is_refused_and_exits_with_4(there, capsys):
    assert main(["promote", "other", "--over", "old", "--on", "run", *QUICK]) == 4
    assert capsys.readouterr().out.startswith("REFUSE: the data cannot tell")
    assert PromotionLog("promotions").entries()[0].body["verdict"] == "REFUSE"


def test_a_model_outside_the_trust_region_is_blocked_and_exits_with_1(there, capsys):
    words = ["promote", "other", "--over", "old", "--on", "rows", *QUICK, "--trust", "0"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert out.startswith("BLOCK: blocked; ")
    assert "KL(new || old)" in out


def test_verdicts_are_chained_and_the_same_words_give_the_same_numbers(there):
    for _ in range(2):
        main(["promote", "other", "--over", "run", "--on", "rows", *QUICK])
    first, second = PromotionLog("promotions").entries()
    assert second.body["previous"] == first.digest
    assert first.body["numbers"] == second.body["numbers"]
    assert first.body["old"]["digest"] != first.body["new"]["digest"]


def test_rows_that_a_model_learnt_from_are_refused(there, capsys):
    assert main(["promote", "old", "--over", "run", "--on", "run/episodes", *QUICK]) == 1
    err = capsys.readouterr().err
    assert "4 that run learnt from" in err
    assert not (there / "promotions").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["old", "--over", "old", "--on", "nowhere"], 2, "--on"),
        (["old", "--over", "nowhere", "--on", "rows"], 3, "nowhere"),
        (["old", "--over", "old", "--on", "rows", "--horizon", "99"], 2, "horizon"),
        (["old", "--over", "old", "--on", "rows", "--states", "0"], 2, "--states"),
        (["old", "--over", "old", "--on", "rows", "--risk-weight", "-1"], 2, "risk"),
        (["old", "--over", "old", "--on", "rows", "--trust", "nan"], 2, "trust"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_recorded(there, capsys, words, code, said):
    assert main(["promote", *words]) == code
    assert said in capsys.readouterr().err
    assert not (there / "promotions").exists()


def test_a_damaged_record_stops_before_the_work(there, capsys):
    assert main(["promote", "old", "--over", "old", "--on", "rows", *QUICK]) == 0
    (there / "promotions/000001.json").write_text("{}")
    assert main(["promote", "old", "--over", "old", "--on", "rows", *QUICK]) == 1
    assert "promotion 1" in capsys.readouterr().err


def test_every_outcome_has_a_code_of_its_own():
    assert set(EXIT_CODES) == {outcome.value for outcome in Outcome}
    assert EXIT_CODES["PROMOTE"] == 0
    assert len(set(EXIT_CODES.values())) == 3
