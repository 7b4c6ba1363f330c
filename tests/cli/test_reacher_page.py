"""A Reacher run, from `bb-wm train` to its page in a real Chromium: small, silent, legible."""

import pytest
from tests.cli.conftest import SMALL, call
from tests.diagnose.test_page_browser import CONTRAST, CUT_OFF, browser  # noqa: F401

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page that training ends with."""
    pytest.importorskip("mujoco")
    place = tmp_path_factory.mktemp("reacher")
    code, _, err = call("train", "Reacher-v5", *SMALL, cwd=place)
    assert code == 0, err
    return place / "runs/Reacher-v5/page.html"


def test_it_is_small_and_opens_without_a_complaint_or_the_network(browser, page):  # noqa: F811
    assert page.stat().st_size < 6e6
    browser.look(1440)
    browser.open(page.as_uri())
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    for part in ("window-0", "rollout-error", "trusted-rows", "delta-risk", "smells"):
        assert browser.run(f"document.getElementById('{part}') !== null"), part


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_and_all_text_can_be_read(browser, page, width, scheme):  # noqa: F811
    browser.look(width, scheme=scheme)
    browser.open(page.as_uri())
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(CUT_OFF) == []
    name, ratio = browser.run(CONTRAST)[0]
    assert ratio >= 4.5, name
    assert browser.run(CUT_OFF) == []  # now with everything unfolded
