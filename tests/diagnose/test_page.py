from __future__ import annotations

import html.parser
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from tests.diagnose.helpers import LinearModel, linear_episodes
from tests.diagnose.test_with_world_model import mixed_episodes

from bb_wm.diagnose import collect_traces, evaluate, plots, render_page, write_page
from bb_wm.diagnose import page as page_module
from bb_wm.errors import MissingExtraError, ResourceError

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


@pytest.fixture(scope="module")
def judged():
    model = LinearModel(matrix=0.9 * np.array([[0.9, 0.2], [-0.3, 0.8]]), spread=0.1)
    held = linear_episodes(6, 60, 1)
    evaluation = evaluate(model, held, training=linear_episodes(6, 60, 0), windows=60)
    return model, held, evaluation, collect_traces(model, held)


def test_traces_are_the_real_rows_and_what_was_imagined_after_them(judged):
    model, held, _, traces = judged
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


def test_the_page_is_whole_self_contained_and_says_the_verdict_first(judged, tmp_path):
    _, _, evaluation, traces = judged
    metrics = {"loss": (np.arange(50.0), np.linspace(5, 1, 50))}
    path = write_page(
        tmp_path / "page.html",
        evaluation,
        title="Linear <world> & co",
        traces=traces,
        metrics=metrics,
        config={"hidden": 200, "note": "</pre><script>alert(1)</script>"},
        provenance={"updates": 5},
    )
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = [tag for tag, _ in reader.attributes]
    assert "script" not in tags
    assert "link" not in tags
    outside = re.findall(r'(?:src|href)="(?!#)[^"]*"|url\((?!#)', text)
    assert outside == []
    assert all("w3.org" in url for url in re.findall(r"https?://[^\s\"']+", text))
    assert text.index(evaluation.verdict().split("'")[0]) < text.index("<table")
    assert "Linear &lt;world&gt; &amp; co" in text
    pictures = [attributes for tag, attributes in reader.attributes if tag == "svg"]
    assert len(pictures) == 1 + 3 + 1
    assert all(len(p["aria-label"]) > 20 for p in pictures)
    assert "prefers-color-scheme: dark" in text
    assert path.stat().st_size < 6 * 1024 * 1024
    for table in evaluation.tables():
        for row in table.rows:
            assert all(cell in "".join(reader.text) for cell in row)


def test_pictures_of_one_page_share_no_ids_and_take_the_pages_colours(judged):
    _, _, evaluation, traces = judged
    svgs = [plots.to_svg(plots.draw_window(traces, i), f"window {i}") for i in range(3)]
    svgs.append(plots.to_svg(plots.draw_errors(evaluation), "errors"))
    seen: set[str] = set()
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert not ids & seen
        seen |= ids
        for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg):
            assert (reference[0] or reference[1]) in ids
        assert "var(--ink)" in svg
        assert plots._INK not in svg
        assert root.get("width") is None


def test_the_same_evaluation_draws_the_same_page(judged):
    _, _, evaluation, traces = judged
    one, two = (render_page(evaluation, title="t", traces=traces) for _ in range(2))
    assert one == two


def test_a_page_without_pictures_needs_no_matplotlib(judged, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        plots.draw_errors(judged[2])
    assert 'pip install "bb_wm[plots]"' in str(caught.value)
    text = render_page(judged[2], title="t", traces=judged[3])
    assert "<svg" not in text
    assert "bb_wm[plots]" in text
    assert judged[2].verdict().split("'")[0] in text


def test_a_page_too_big_to_mail_is_refused_and_not_written(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(ResourceError):
        write_page(tmp_path / "page.html", judged[2], title="t")
    assert list(tmp_path.iterdir()) == []


def test_pngs_are_pictures_on_white(judged):
    raw = plots.to_png(plots.draw_window(judged[3], 0), dpi=50)
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")


def test_image_keys_are_shown_as_strips():
    from bb_wm.diagnose.traces import Traces

    pixels = np.zeros((1, 6, 8, 8, 1), np.uint8)
    empty = np.zeros((1, 6, 1))
    traces = Traces(
        ("reward",), (False,), 2, (0,), (0,), np.zeros((1, 8, 1)), {"mode": empty}, empty, empty,
        {"camera": (pixels, pixels + 9)},
    )  # fmt: skip
    svg = plots.to_svg(plots.draw_pictures(traces, "camera", 0), "strip")
    assert svg.count("<image") == 10
    assert "k=6" in svg


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
    traces = collect_traces(WorldModel(spaces, 1, KINDS[0]), held, windows=2)
    assert traces.labels == ("pick", "speed[0]", "speed[1]", "reward")
    assert traces.steps == (True, False, False, False)
    real, imagined = traces.pictures["image"]
    assert real.shape == imagined.shape == (2, traces.real.shape[1] - traces.context, 8, 8, 1)
    assert set(np.unique(traces.paths["mode"][..., 0])) <= {0.0, 1.0, 2.0, 3.0}


def test_metrics_are_read_up_to_a_torn_line(tmp_path):
    lines = [
        json.dumps({"kind": "train", "update": 50 * i, "loss": 3.0 / i, "kl": None, "rows": 9})
        for i in range(1, 4)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "train", "upd')
    curves = plots.read_metrics(tmp_path / "metrics.jsonl")
    assert list(curves) == ["loss"]
    assert curves["loss"][0].tolist() == [50, 100, 150]
    assert curves["loss"][1].tolist() == [3.0, 1.5, 1.0]
