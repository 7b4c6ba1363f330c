"""Section 6 of the specification, line by line: where it is on a run's page and in TensorBoard."""

import shutil

import pytest
from tests.diagnose.test_lines import fill

from bb_wm.cli import main
from bb_wm.learn.run import Run

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.timeout(300)]

SECTION_SIX = {  # line: (places on the page, TensorBoard's group, curves and lines in it)
    "reconstruction loss curves": (
        ["reconstruction", "reconstruction-rows"],
        "1_reconstruction",
        {"reconstruction": {"."}, "heldout_reconstruction_error_by_rows_read": {"judged/model"}},
    ),
    "KL divergence (posterior vs prior)": (
        ["kl", "kl-rows", "kl-horizon", "kl-variables"],
        "2_kl",
        {
            "kl_raw": {"."},
            "heldout_kl_by_rows_read": {"judged/model"},
            "heldout_kl_by_rows_imagined": {"judged/model"},
        },
    ),
    "rollout error vs real trajectory": (
        ["rollout-error", "window-0", "trusted-rows"],
        "3_rollout_error",
        {
            "heldout_nrmse_10": {"."},
            "heldout_nrmse_by_rows_ahead": {"judged/mode", "judged/persistence"},
            "heldout_rollout_trusted_rows_share": {"judged/model"},
        },
    ),
    "EVSI estimates vs actual gains": (
        ["evsi"],
        "4_evsi",
        {
            "heldout_evsi_mean_over_pairs": {"judged/estimated", "judged/realised"},
            "heldout_evsi_mean_over_lots": {"judged/estimated", "judged/realised"},
        },
    ),
    "Delta V_s predictions vs true safety metrics": (
        ["delta-risk", "risk-reliability", "promotion"],
        "5_risk",
        {
            "safety": {"."},
            "heldout_risk_V_s_by_decile": {"judged/predicted", "judged/real"},
            "heldout_delta_risk_V_s_over_10_rows_by_decile": {"judged/predicted", "judged/real"},
            "heldout_promotion_delta_risk_V_s": {"promotions/bound", "promotions/limit"},
        },
    ),
}


@pytest.fixture(scope="module")
def shown(trained, tmp_path_factory):
    """The page of a run with decisions and a promotion, and tag -> TensorBoard's runs."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from bb_wm.diagnose.promotion import PromotionLog, digest_model
    from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion

    place = tmp_path_factory.mktemp("six")
    shutil.copytree(trained[0] / "runs", place / "runs")
    here = Run.open(place / "runs/LineWorld")
    told = Promotion(
        Outcome.BLOCK, (Check("delta_risk", "Delta V_s", 2.0, 0.0, Outcome.BLOCK),), {}, {}
    )
    named = {"path": "new", "digest": digest_model(here.load_model())}
    PromotionLog(place / "promotions").append(
        told, new=named, old={"path": "old", "digest": "1" * 64}, data=named
    )
    ledger = fill(place / "ledger.sqlite")
    words = ["--ledger", str(ledger), "--promotions", str(place / "promotions"), "--windows", "60"]
    for _ in range(2):  # a second time replaces what was drawn
        assert main(["report", str(here.folder), *words]) == 0
    tags: dict[str, set[str]] = {}
    for folder in {path.parent for path in here.tensorboard.rglob("events.*")}:
        read = accumulator.EventAccumulator(str(folder)).Reload()
        for tag in read.Tags()["scalars"]:
            tags.setdefault(tag, set()).add(str(folder.relative_to(here.tensorboard)))
            steps = [event.step for event in read.Scalars(tag)]
            assert steps == sorted(set(steps)), tag
    return here.page.read_text(), tags


@pytest.mark.parametrize("line", SECTION_SIX)
def test_every_line_has_its_place_on_the_page(line, shown):
    for place in SECTION_SIX[line][0]:
        at = shown[0].index(f' id="{place}"')
        assert "<svg" in shown[0][at : at + 1500], place


@pytest.mark.parametrize("line", SECTION_SIX)
def test_every_line_has_its_group_in_tensorboard(line, shown):
    _, group, curves = SECTION_SIX[line]
    for name, runs in curves.items():
        assert shown[1].get(f"{group}/{name}", set()) >= runs, name


def test_the_five_groups_stand_first_and_in_order(shown):
    groups = sorted({tag.split("/")[0] for tag in shown[1]})
    assert groups[:5] == [group for _, group, _ in SECTION_SIX.values()]
    assert "smells" in groups
