"""The page in a real Chromium: no complaint, no network, and everything can be used and read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.diagnose.browser import Browser, find_chromium
from tests.diagnose.test_page import full  # noqa: F401
from tests.diagnose.test_with_world_model import mixed_episodes

from bb_wm.diagnose import Page, write_page

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.timeout(300)]
RIGHT, ENTER, HOME = ("ArrowRight", 39), ("Enter", 13), ("Home", 36)

CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (c) => [0, 1, 2].map((i) => c[i] / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  const worst = {};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    const box = node.getBoundingClientRect();
    if (!walk.currentNode.data.trim() || !box.width || node.closest('script, style, .skip'))
      continue;
    const style = getComputedStyle(node);
    const ink = light(rgba(node.closest('svg') ? style.fill : style.color));
    const paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const name = node.tagName + '.' + (node.getAttribute('class') ?? '');
    worst[name] = Math.min(worst[name] ?? 99, ratio);
  }
  return Object.entries(worst).sort((a, b) => a[1] - b[1]).slice(0, 3);
})()"""

CUT_OFF = """(() => {
  const wide = document.documentElement.clientWidth;
  const out = [];
  for (const node of document.querySelectorAll('body *')) {
    if (node.closest('.scroll, .strip, .skip, nav, pre, svg, script, style')) continue;
    const box = node.getBoundingClientRect();
    if (box.width && (box.right > wide + 1 || box.left < -1)) out.push(node.outerHTML.slice(0, 90));
  }
  for (const box of document.querySelectorAll('.scroll'))  // below a fold one may scroll
    if (!box.closest('details') && box.scrollWidth > box.clientWidth + 1)
      out.push('a table is cut: ' + box.textContent.slice(0, 60));
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const texts = [...svg.querySelectorAll('text')].map((t) => [t, t.getBoundingClientRect()]);
    texts.forEach(([text, box], i) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        out.push('outside its chart: ' + text.textContent);
      texts.slice(i + 1).forEach(([other, its]) => {
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (across > 1 && down > 3)
          out.push(`overlap: ${text.textContent} / ${other.textContent}`);
      });
    });
  }
  return out;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    find_chromium()
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def address(full, tmp_path_factory) -> str:  # noqa: F811
    folder = tmp_path_factory.mktemp("a page & more")
    return write_page(folder / "page.html", full).as_uri()


def test_it_opens_without_a_complaint_and_without_the_network(browser, address):
    browser.look(1280)
    browser.open(address)
    assert browser.run("document.documentElement.classList.contains('no-script')") is False
    assert browser.run("typeof window.alert") == "function"
    assert browser.complaints() == []
    assert browser.requests() == [address]
    for attempt in ("fetch('https://example.org/')", "fetch('/etc/passwd')"):
        assert browser.run(f"{attempt}.then(() => 'sent', () => 'refused')") == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_off_or_overlaps_and_all_text_can_be_read(browser, address, width, scheme):
    browser.look(width, scheme=scheme)
    browser.open(address)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(CUT_OFF) == []
    name, ratio = browser.run(CONTRAST)[0]
    assert ratio >= 4.5, name
    assert browser.run(CUT_OFF) == []  # now with everything unfolded


def test_the_slider_reveals_as_much_as_it_says_by_keyboard(browser, address):
    browser.look(390)
    browser.open(address)
    widths = "[...document.querySelectorAll('[data-reveal]')].map(e => +e.getAttribute('width'))"
    whole = browser.run(widths)
    browser.run("document.querySelector('#horizon').focus()")
    browser.press(*HOME)
    assert browser.run("document.querySelector('#horizon-value').textContent") == "1 of 15"
    one = browser.run(widths)
    browser.press(*RIGHT)
    browser.press(*RIGHT)
    assert browser.run("document.querySelector('#horizon').value") == "3"
    assert browser.run("document.querySelector('#horizon').ariaValueText") == "3 of 15 steps"
    assert "NRMSE at 3: mode " in browser.run("document.querySelector('#horizon-told').innerText")
    three = browser.run(widths)
    assert whole == pytest.approx([349.0] * 3, abs=0.1)  # to the panels' right edge and a bit
    lines = "[...document.querySelectorAll('.panel [data-cursor]')].map(e => +e.getAttribute('x1'))"
    assert browser.run(lines) == pytest.approx([w - 1 for w in three], abs=0.1)
    for a, b, c in zip(one, three, whole, strict=True):
        assert (b - a) / 2 == pytest.approx((c - a) / 14, rel=0.01)  # equal steps to the end
    assert browser.complaints() == []


def test_the_theme_follows_the_system_until_it_is_chosen(browser, address):
    paper = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        browser.look(1280, scheme=scheme)
        browser.open(address)
        seen[scheme] = browser.run(paper)
    assert seen["light"] != seen["dark"]
    browser.run("document.querySelector('#theme').focus()")
    said = []
    for _ in range(3):
        browser.run("document.querySelector('#theme').click()")
        said.append((browser.run("document.querySelector('#theme').textContent"),
                     browser.run(paper)))  # fmt: skip
    expected = [("light", seen["light"]), ("dark", seen["dark"]), ("auto", seen["dark"])]
    assert said == [(f"Theme: {name}", colour) for name, colour in expected]


def test_frames_follow_the_slider(browser, tmp_path):
    import gymnasium
    import numpy as np
    from tests.diagnose.test_with_world_model import KINDS

    from bb_wm.diagnose import collect_traces
    from bb_wm.rssm import WorldModel

    spaces = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "pick": gymnasium.spaces.Discrete(4),
            "speed": gymnasium.spaces.Box(-9, 9, (2,), np.float32),
        }
    )
    traces = collect_traces(WorldModel(spaces, 1, KINDS[0]), mixed_episodes(4, 0), windows=2)
    path = write_page(tmp_path / "page.html", Page(title="mixed", traces=traces))
    browser.look(390)
    browser.open(path.as_uri())
    assert browser.complaints() == []
    browser.run(
        "(() => { const s = document.querySelector('#horizon'); s.value = 4;"
        " s.dispatchEvent(new Event('input')); })()"
    )
    views = browser.run(
        "[...document.querySelectorAll('[data-frame]')].map(v => v.getAttribute('viewBox'))"
    )
    assert views == ["24 0 8 8"] * 4  # the fourth frame of 8 pixels, real and imagined, twice
    assert browser.run(CUT_OFF) == []


def test_a_page_that_is_served_renews_itself(browser, tmp_path):
    """The server of `bb-wm inspect` on a run folder that goes on being written."""
    import json

    from tests.diagnose.test_report import SMALL

    from bb_wm.cli.inspect import Watcher, serve
    from bb_wm.learn.run import Run
    from bb_wm.learn.settings import TrainSettings
    from bb_wm.rssm import WorldModel

    run = Run.create(
        tmp_path / "run",
        world={"name": "LineWorld"},
        config=WorldModel(2, 2, SMALL).describe(),
        settings=TrainSettings(updates=100),
    )

    def log(update: int) -> None:
        with open(run.metrics, "a") as stream:
            line = {"kind": "train", "update": update, "reconstruction": 5 - update / 50}
            stream.write(json.dumps(line) + "\n")

    server = serve(Watcher(run, every=0.2), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.look(1280)
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        assert browser.run("document.querySelector('#reconstruction')") is None
        log(10)
        log(20)
        browser.wait("document.querySelector('#reconstruction svg') !== null")
        browser.wait("document.querySelector('#status').textContent.includes('20 of 100')")
        browser.run("document.querySelector('#settings').open = true")
        log(100)
        browser.wait("document.querySelector('#status').textContent.startsWith('Trained: 100')")
        browser.wait("document.querySelector('#reconstruction svg').ariaLabel.includes('over 100')")
        assert browser.run("document.querySelector('#settings').open")  # stays as it was left
        assert browser.complaints() == []
        assert {Path(url).name for url in browser.requests()} <= {"", "state.json"} | {
            f"127.0.0.1:{server.server_port}"
        }
    finally:
        server.shutdown()
        server.server_close()
