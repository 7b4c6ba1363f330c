"""The page as text: whole, self-contained, escaped."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from tests.diagnose.helpers import LinearModel, linear_episodes
from tests.diagnose.test_with_world_model import mixed_episodes

from bb_wm.diagnose import Page, collect_traces, diagnose, plots, render_page, write_page
from bb_wm.diagnose.page import curves, render
from bb_wm.diagnose.page.frames import shown_frames
from bb_wm.diagnose.page.imagination import coverage
from bb_wm.diagnose.page.svg import Axis, Frame, labels
from bb_wm.diagnose.trusted import Trusted
from bb_wm.errors import MissingExtraError, ResourceError

TRUSTED = Trusted((0.25, 0.0, 0.25, *[0.0] * 12, 0.5), True, 0.2, 0.1, 0.05)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(html.parser.HTMLParser):
    """Collects tags, and refuses one that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def judged():
    model = LinearModel(matrix=0.9 * np.array([[0.9, 0.2], [-0.3, 0.8]]), spread=0.1)
    return model, linear_episodes(6, 60, 1), collect_traces(model, linear_episodes(6, 60, 1))


@pytest.fixture(scope="module")
def full() -> Page:
    """A page of a real, untrained model with everything on it, and hostile words wherever words
    come from outside."""
    from tests.diagnose.test_report import SMALL

    from bb_wm.decide.ledger_report import Alarm, GainCalibration, LedgerReport
    from bb_wm.rssm import WorldModel

    model, held = WorldModel(2, 2, SMALL), linear_episodes(10, 60, 1, noise=0.1)
    report = diagnose(model, held, windows=60, probe=False)
    report = dataclasses.replace(report, trusted=TRUSTED)
    nasty = "<img src=x onerror=alert(1)>"
    row = {
        "id": nasty, "verdict": "ASK", "choice": nasty, "gain": 1.0, "evsi": None,
        "realised_return": 2.0, "reason": nasty,
    }  # fmt: skip
    line = GainCalibration("paired", 40, 1.0, 0.8, 0.1, 0.9, 0.1, 0.0, 0.5)
    return Page(
        title=f"Linear & co {nasty}",
        report=report,
        traces=collect_traces(model, held),
        curves={
            "reconstruction": [(50.0, 3.0), (100.0, 2.0), (150.0, 1.5)],
            "kl_raw": [(50.0, 9.0), (100.0, 4.0)],
            "held-out nrmse_10": [(50.0, 0.9), (100.0, 0.5)],
            "loss": [(50.0, 9.0), (100.0, 1e-9)],
        },
        ledger=LedgerReport(
            "ledger", {"ACT": 3, nasty: 1}, 0, 2, (line,),
            (Alarm("hubris", 0.0, 0.03, 200, True, nasty),), (row,),
        ),
        promotions=[
            {
                "number": 1, "verdict": "BLOCK", "reason": nasty, "made_at": "2026", "checks": [
                    {"what": nasty, "value": 2.0, "limit": 0.0, "breach": "BLOCK", "passed": False}
                ], "new": {"path": nasty}, "old": {"path": "old"},
            }
        ],
        config={"note": "</pre><script>alert(1)</script>"},
        provenance={"world": {"name": nasty}, "updates": 5},
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(full) -> str:
    return render_page(full)


def test_the_page_is_whole_and_asks_nothing_of_any_network(full, text, tmp_path):
    reader = read(text)
    outside = re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)|@import|https?://', text)
    assert outside == []
    policy = next(a["content"] for t, a in reader.attributes if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in render.policy(live=True)
    path = write_page(tmp_path / "page.html", full)
    assert path.read_text() == text
    assert path.stat().st_size < 6 * 1024 * 1024


def test_words_from_outside_are_words_and_nothing_else(text):
    reader = read(text)
    assert "img" not in [tag for tag, _ in reader.attributes]
    scripts = [a for t, a in reader.attributes if t == "script"]
    assert scripts == [{"type": "application/json", "id": "page-data"}, {}]
    assert not [a for _, a in reader.attributes for name in a if name.startswith("on")]
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") >= 9
    assert "&lt;script&gt;alert(1)" in text


def test_the_slider_data_cannot_end_its_script(full):
    evil = "</script><script>alert(1)</script>"
    path = dataclasses.replace(full.report.evaluation.paths[0], name=evil)
    evaluation = dataclasses.replace(full.report.evaluation, paths=(path,))
    report = dataclasses.replace(full.report, evaluation=evaluation)
    text = render_page(dataclasses.replace(full, report=report))
    assert len([tag for tag, _ in read(text).attributes if tag == "script"]) == 2
    data = re.search(r'id="page-data">(.*?)</script>', text)[1]
    assert json.loads(data)["paths"][0]["name"] == evil


def test_verdicts_come_first_and_every_figure_is_there(full, text):
    words = "".join(read(text).text)
    order = ["Can I trust it?", "How far?", "How risky?", "How fast?", "Real against imagined",
             "How it learnt", "Is what it says true?", "Failure smells", "Was asking worth it?",
             "Promotion", "All figures", "Configuration and provenance"]  # fmt: skip
    at = [words.index(title) for title in order[:4]]
    at += [text.index(f">{title}</h2>") for title in order[4:]]
    assert at[:4] == sorted(at[:4])
    assert at[4:] == sorted(at[4:])
    for table in full.report.tables():
        for row in table.rows:
            assert all(cell.casefold() in words.casefold() for cell in row), row
    for smell in full.report.smells:
        assert smell.reason in words
        assert (smell.advice in words) == smell.found


def test_pictures_say_what_they_show_and_ids_are_used_once(text):
    reader = read(text)
    for tag, found in reader.attributes:
        if tag == "svg" and found.get("aria-hidden") != "true":
            assert len(found["aria-label"]) > 20
            assert found["role"] == "img"
    ids = [a["id"] for _, a in reader.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    for _, found in reader.attributes:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert found.get(name) is None or found[name] in ids
        if found.get("href", "").startswith("#"):
            assert found["href"][1:] in ids
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)  # each is well-formed by itself
        assert "nan" not in re.sub(r'aria-label="[^"]*"', "", svg)


def test_the_same_contents_make_the_same_page(full, text):
    assert render_page(full) == text


def test_a_page_can_be_made_before_anything_is_known(tmp_path):
    text = render_page(Page(title="new"), stamp='a"b', every=2.5)
    assert "No verdict yet." in text
    read(text)
    assert 'data-every="2500"' in text
    assert 'data-stamp="a&quot;b"' in text


def test_a_page_too_big_to_mail_is_refused_and_not_written(full, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(ResourceError):
        write_page(tmp_path / "page.html", full)
    assert list(tmp_path.iterdir()) == []


# --- pictures -------------------------------------------------------------------------------------


def test_traces_are_the_real_rows_and_what_was_imagined_after_them(judged):
    model, held, traces = judged
    assert traces.labels == ("obs[0]", "obs[1]", "reward")
    assert len(traces) == 3
    assert len(set(traces.episode)) == 3
    for i in range(3):
        rows = slice(traces.start[i], traces.start[i] + traces.real.shape[1])
        episode = held[traces.episode[i]]
        assert np.array_equal(traces.real[i, :, :2], episode.obs["obs"][rows])
        assert np.array_equal(traces.real[i, :, 2], episode.reward[rows])
        c = traces.context
        step = episode.obs["obs"][rows][c - 1] @ model.matrix.numpy().T
        step = step + episode.action[rows][c - 1] @ model.push.numpy().T
        assert traces.paths["mode"][i, 0, :2] == pytest.approx(step, abs=1e-6)
    inside = (traces.low <= traces.paths["mode"]) & (traces.paths["mode"] <= traces.high)
    assert inside[..., :2].mean() > 0.9  # the mode of a symmetric law lies within its 5-95 %
    width = (traces.high - traces.low)[:, 0, :2].mean()
    assert width == pytest.approx(0.1 * 2 * 1.645, rel=0.4)


def test_coverage_counts_what_lies_inside_up_to_each_step(judged):
    traces = judged[2]
    real = traces.real[:, traces.context :]
    spread = np.zeros_like(traces.low)
    exact = dataclasses.replace(traces, low=real - spread, high=real + spread)
    assert coverage(exact)[-1] == (real.size, real.size)
    half = dataclasses.replace(exact, low=np.where(np.arange(15)[:, None] < 5, real, real + 1))
    assert coverage(half)[4] == (45, 45)
    assert coverage(half)[-1] == (45, 135)
    none = dataclasses.replace(traces, low=traces.low * np.nan)
    assert coverage(none)[-1] == (0, 0)


def test_axes_have_round_ticks_inside_and_lines_break_at_gaps():
    assert Axis(-1.2, 3.4).ticks(4) == [-1, 0, 1, 2, 3]
    assert labels(Axis(0, 0.0007).ticks(3))[1] == "2e-4"
    assert labels([0.1, 0.2, 0.30000000000000004]) == ["0.1", "0.2", "0.3"]
    assert set(Axis(0.02, 1.5, log=True).ticks(4)) >= {0.1, 1.0}
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, size = rng.normal() * 10.0 ** rng.integers(-4, 5), 10.0 ** rng.uniform(-5, 6)
        axis = Axis(low, low + size)
        ticks = axis.ticks(3)
        assert 2 <= len(ticks) <= 8
        assert all(axis.low - 1e-9 * size <= t <= axis.high + 1e-9 * size for t in ticks)
    frame = Frame(Axis(0, 10), Axis(0, 1), top=0, height=100, left=0, right=0)
    assert frame.at(5, 0.25) == (180.0, 75.0)
    assert frame.line([(0, 0), (5, math.nan), (10, 1)], "real").count("M") == 2
    assert frame.band([(0, 0), (5, math.nan), (10, 0)], [(0, 1), (5, 1), (10, 1)]).count("Z") == 2


@pytest.mark.parametrize(("shape", "side"), [((6, 8, 8, 1), 8), ((6, 200, 120, 3), 66)])
def test_frames_are_real_pngs_of_bounded_size(shape, side):
    from PIL import Image

    from bb_wm.diagnose.traces import Traces

    pixels = np.random.default_rng(0).integers(0, 255, (1, *shape), np.uint8)
    empty = np.zeros((1, 6, 1))
    traces = Traces(
        ("reward",), (False,), 2, (0,), (0,), np.zeros((1, 8, 1)), {"mode": empty}, empty, empty,
        {"<camera>": (pixels, 255 - pixels)},
    )  # fmt: skip
    text = shown_frames(traces, 0)
    assert "&lt;camera&gt;" in text
    found = [base64.b64decode(raw) for raw in re.findall(r"base64,([^\"]+)", text)]
    pictures = [np.asarray(Image.open(io.BytesIO(raw))) for raw in found]
    assert len(pictures) == 2
    assert pictures[0].shape[0] == side
    if side == shape[1]:
        assert np.array_equal(pictures[0], np.concatenate(pixels[0, ..., 0], axis=1))
    if pictures[0].ndim == 3:  # averaged over blocks of 3 x 3
        block = pixels[0, 0, :3, :3].reshape(9, 3).mean(0)
        assert np.abs(pictures[0][0, 0] - block).max() <= 0.5


def test_the_page_needs_no_matplotlib_and_rollout_says_what_it_needs(judged, full, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        plots.draw_window(judged[2], 0)
    assert 'pip install "bb_wm[plots]"' in str(caught.value)
    assert "<svg" in render_page(full)


def test_pngs_are_pictures_on_white(judged):
    raw = plots.to_png(plots.draw_window(judged[2], 0), dpi=50)
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")


def test_traces_of_mixed_observations_blank_what_comes_after_the_end():
    import gymnasium
    from tests.diagnose.test_with_world_model import KINDS

    from bb_wm.rssm import WorldModel

    spaces = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "pick": gymnasium.spaces.Discrete(4),
            "speed": gymnasium.spaces.Box(-9, 9, (2,), np.float32),
        }
    )
    held = mixed_episodes(4, 0)
    model = WorldModel(spaces, 1, KINDS[0])
    traces = collect_traces(model, held, windows=2)
    assert traces.labels == ("pick", "speed[0]", "speed[1]", "reward")
    assert traces.steps == (True, False, False, False)
    real, imagined = traces.pictures["image"]
    assert real.shape == imagined.shape == (2, traces.real.shape[1] - traces.context, 8, 8, 1)
    assert set(np.unique(traces.paths["mode"][..., 0])) <= {0.0, 1.0, 2.0, 3.0}
    text = render_page(Page(title="mixed", traces=traces))
    assert text.count("<image") == 4
    read(text)


# --- curves ---------------------------------------------------------------------------------------


def test_metrics_are_read_up_to_a_torn_line(tmp_path):
    lines = [
        json.dumps({"kind": "train", "update": 50 * i, "loss": 3.0 / i, "kl": None, "rows": 9})
        for i in range(1, 4)
    ]
    lines.append(json.dumps({"kind": "evaluate", "update": 50, "nrmse_10": 0.5, "loss": 7.0}))
    lines.append(json.dumps({"kind": "evaluate", "update": 100, "nrmse_10": 0.25}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n[1]\n{"kind": "train", "upd')
    found = curves.read_curves(tmp_path / "metrics.jsonl")
    assert found == {
        "loss": [(50, 3.0), (100, 1.5), (150, 1.0)],
        "held-out nrmse_10": [(50, 0.5), (100, 0.25)],
    }


def test_long_curves_are_thinned_and_keep_their_end_and_their_mean():
    long = [(float(i), float(i % 7)) for i in range(10_001)]
    short = curves.thin(long)
    assert len(short) == curves.MOST_POINTS
    assert short[-1] == long[-1]
    assert np.mean([y for _, y in short[:-1]]) == pytest.approx(3.0, abs=0.05)
    assert curves.running_median([(0, 1.0), (1, 50.0), (2, 1.0), (3, 1.0)])[1][1] == 1.0


def test_the_model_card_says_only_what_was_measured(full):
    from bb_wm.diagnose.card import model_card

    card = model_card(full.report, name="a [link](x) <b>", about={"world": "W | <i>"})
    assert "a \\[link\\](x) \\<b\\>" in card
    assert "W \\| \\<i\\>" in card
    for row in full.report.evaluation.tables()[0].rows:
        assert "| " + " | ".join(row) + " |" in card
    assert "untested" in card  # no risk was seen, and it says so
    assert "Not known, reward hacking" in card
    for smell in full.report.found:
        assert smell.name in card
