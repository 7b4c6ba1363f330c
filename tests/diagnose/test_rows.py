"""describe_rows by hand: counts, ranges and what is said about them."""

from dataclasses import replace

import numpy as np
import pytest

from bb_wm.diagnose.rows import describe_action, describe_obs, describe_rows
from bb_wm.errors import DataError
from bb_wm.types import ActionSpec, Episode, ObsSpec


def episode(rows=20, *, terminated=False, truncated=True, reward=1.0, risk=0.0):
    seen = np.stack([np.arange(rows), np.full(rows, 7.0)], 1).astype(np.float32)
    ones = np.full(rows, reward, np.float32)
    ones[0] = 0
    risky = np.full(rows, risk, np.float32)
    risky[0] = 0
    return Episode(
        {"obs": seen}, np.zeros((rows, 1), np.float32), ones, risky, terminated, truncated
    )


def test_counts_and_ranges():
    made = [
        episode(20, terminated=True, truncated=False, reward=2.0),
        episode(30, reward=-1.0, risk=0.5),
        episode(40, truncated=False),
    ]
    report = describe_rows(made)
    assert (report.episodes, report.rows, report.lengths) == (3, 90, (20, 30, 40))
    assert (report.terminated, report.truncated, report.abandoned) == (1, 1, 1)
    assert report.reward == pytest.approx((-1.0, (19 * 2 - 29 + 39) / 87, 2.0))
    assert report.risk == pytest.approx((0.0, 29 * 0.5 / 87, 0.5))
    assert report.risky_rows == 29
    assert report.constant == ("obs[1]",)
    assert report.findings == ("1 episodes were abandoned; their rows are used.",)


def test_an_episode_that_is_both_terminated_and_truncated_is_counted_once():
    both = episode(terminated=True, truncated=True)
    report = describe_rows([both, both])
    assert (report.terminated, report.truncated, report.abandoned) == (2, 0, 0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([episode(risk=1.0)], "One episode only"),
        ([episode(5, risk=1.0)] * 9, "fewer than 12 rows"),
        ([episode(risk=1.0)] * 3, "reward is always 1.00"),
        ([episode(reward=1.0), episode(reward=2.0)], "risk is always 0"),
        ([episode(4, risk=1.0)] * 2, "Only 6 rows carry risk"),
    ],
)
def test_findings(made, said):
    assert any(said in finding for finding in describe_rows(made).findings)


def test_healthy_rows_have_no_findings():
    made = [episode(reward=1.0, risk=0.5), episode(reward=2.0, risk=0.0), episode(risk=0.1)]
    assert describe_rows(made).findings == ()


def test_no_episode_is_an_error():
    with pytest.raises(DataError) as caught:
        describe_rows([])
    assert caught.value.field == "episodes"


def test_the_table_names_spaces_and_share_of_risk():
    made = [episode(11, risk=0.5), replace(episode(11), truncated=False)]
    text = describe_rows(made).table(ObsSpec.of(2), ActionSpec.of(1)).text()
    assert "obs vector [2]" in text
    assert "action 1 numbers" in text
    assert "above 0 in 10 rows (45.5%)" in text


def test_spaces_in_words():
    from gymnasium import spaces

    shapes = ObsSpec.of({"pixels": (8, 8, 3), "arm": 4})
    assert describe_obs(shapes) == "arm vector [4], pixels image [8, 8, 3]"
    assert describe_action(ActionSpec.of(spaces.Discrete(3))) == "action 3 choices"
