"""`bb-wm report RUN`: everything known of a run's model on one page that opens anywhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.shell import near
from bb_wm.cli.words import parse_words
from bb_wm.errors import BBWMError, CheckpointError, DataError, MissingExtraError

if TYPE_CHECKING:
    from bb_wm.diagnose import Report
    from bb_wm.diagnose.calibration import Outlook
    from bb_wm.diagnose.effort import Simulator
    from bb_wm.diagnose.page import Page
    from bb_wm.learn.run import Run
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

EXAMPLES: Final = """
The page says first whether to trust the model, how far, how risky it is and how fast; below are
real rows against imagined ones, training, calibration, smells with what to do, decisions that were
recorded, promotions, and every figure. One file, no network. The same is kept as report.json.

Examples
  bb-wm report runs/Pendulum-v1
  bb-wm report runs/Pendulum-v1 --replay --budget-ms 20
  bb-wm report runs/Reacher-v5 --rerun reacher.rrd
  bb-wm report runs/ToolDesk --ledger decisions.sqlite --out /tmp/tooldesk.html
"""
REPORT: Final = "report.json"
LEDGER: Final = "ledger.sqlite"
PROMOTIONS: Final = "promotions"


@dataclass(frozen=True, slots=True)
class Arguments:
    """Diagnose a run's model on its held-out episodes; write report.json and page.html."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/Pendulum-v1."""
    checkpoint: runs.Which = "newest"
    """The newest, or the one with the smallest held-out error."""
    windows: int = 300
    """At most so many windows are cut from the held-out episodes."""
    replay: bool = False
    """Start the run's world and replay plans in it: without, reward hacking cannot be seen."""
    budget_ms: float | None = None
    """What one rollout of the longest horizon may take, in milliseconds."""
    ledger: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: RUN/ledger.sqlite)")] = ""
    """Decisions made with the model."""
    promotions: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: promotions)")] = ""
    """The record of promotions; verdicts on this very model are shown."""
    out: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: RUN/page.html)")] = ""
    """Where the page goes."""
    rerun: Annotated[str, tyro.conf.arg(metavar="FILE.rrd")] = ""
    """Also write held-out episodes beside their imagination for the Rerun viewer."""
    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Processor threads of the model; 0 leaves it to PyTorch."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm report`."""
    return parse_words(Arguments, words, command="bb-wm report", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Diagnose, write, and say what was found."""
    from bb_wm.diagnose.page.verdicts import cards, headline
    from bb_wm.diagnose.rerun_export import require_rerun, write_rerun

    runs.use_threads(arguments.threads)
    runs.check_count("--windows", arguments.windows)
    if arguments.rerun:
        require_rerun()
    here = runs.open_run(arguments.run)
    model = runs.load_model(here, arguments.checkpoint, device=arguments.device)
    heldout = runs.rows_of(here, model, heldout=True)
    if not heldout:
        raise DataError("held-out rows", expected="some", actual=f"none in {here.heldout}")
    report = examine(
        here,
        model,
        heldout,
        windows=arguments.windows,
        simulator=_simulator(here) if arguments.replay else None,
        budget_ms=arguments.budget_ms,
        ledger=arguments.ledger,
        probe=True,
    )
    report = trusting(here, model, report, heldout)
    place = publish(
        here,
        model,
        report,
        heldout,
        ledger=arguments.ledger,
        promotions=arguments.promotions,
        out=arguments.out,
    )
    print(headline(report))
    for card in cards(report):
        print(f"  {card.question:<16}{card.answer}: {card.reason}")
    for smell in report.found:
        print(f"\n{smell.sentence()}")
    print(f"\nPage: {place}")
    if arguments.rerun:
        written = write_rerun(arguments.rerun, model, heldout, report=report, title=here.name)
        print(f"Look: rerun {near(written)}")
    return 0


def examine(
    here: Run,
    model: WorldModel,
    heldout: Sequence[Episode],
    *,
    windows: int = 300,
    simulator: Simulator | None = None,
    budget_ms: float | None = None,
    ledger: str = "",
    probe: bool = False,
) -> Report:
    """The diagnosis of a run's model, its decisions included where they were recorded."""
    from bb_wm.diagnose import diagnose

    return diagnose(
        model,
        heldout,
        training=runs.rows_of(here, model, heldout=False),
        windows=windows,
        simulator=simulator,
        ledger=_ledger_of(here, ledger),
        budget_ms=budget_ms,
        probe=probe,
    )


def trusting(here: Run, model: WorldModel, report: Report, heldout: Sequence[Episode]) -> Report:
    """The report with how far the model may be imagined, fitted here and kept as trust.json; how
    wide what it foretells must be as outlook.json."""
    from bb_wm.diagnose.calibration import Outlook
    from bb_wm.diagnose.trusted import fit_trust

    trust, told = fit_trust(model, heldout)
    if trust is not None:
        trust.save(here.trust)
    with contextlib.suppress(DataError):  # too few held-out rows: the page shows what was learnt
        Outlook.fit(model, heldout).save(here.outlook)
    return replace(report, trusted=told)


def publish(
    here: Run,
    model: WorldModel,
    report: Report,
    heldout: Sequence[Episode],
    *,
    ledger: str = "",
    promotions: str = "",
    out: str = "",
) -> str:
    """Write evaluation.json, report.json, the model card, TensorBoard's lines and the page; the
    page's path."""
    from bb_wm.diagnose.card import write_card
    from bb_wm.diagnose.page import write_page

    here.write_evaluation(report.evaluation.to_json())
    report.save(here.folder / REPORT)
    page = compose(here, model, report, heldout, ledger=ledger, promotions=promotions)
    write_card(here.checkpoints, report, name=here.name, about=page.provenance)
    draw(here, report, _ledger_of(here, ledger))
    draw_promotions(here, page.promotions)
    return near(write_page(Path(os.path.abspath(out)) if out else here.page, page))


def draw(here: Run, report: Report, ledger: Path | None) -> None:
    """What was measured as TensorBoard's lines, where TensorBoard is installed."""
    from bb_wm.diagnose.lines import ledger_lines, report_lines
    from bb_wm.learn.tensorboard import draw_lines

    lines = report_lines(report) | ({} if ledger is None else ledger_lines(ledger))
    with contextlib.suppress(MissingExtraError):
        draw_lines(here.tensorboard / "judged", lines)


def draw_promotions(here: Run, entries: Sequence[Mapping[str, Any]]) -> None:
    """Delta V_s of recorded promotions beside its limit, where TensorBoard is installed."""
    from bb_wm.diagnose.lines import promotion_lines
    from bb_wm.learn.tensorboard import draw_lines

    with contextlib.suppress(MissingExtraError):
        draw_lines(here.tensorboard / "promotions", promotion_lines(entries))


def compose(
    here: Run,
    model: WorldModel,
    report: Report,
    heldout: Sequence[Episode],
    *,
    ledger: str = "",
    promotions: str = "",
) -> Page:
    """Everything the page of a run shows."""
    from bb_wm.decide.ledger_report import read_ledger
    from bb_wm.diagnose import collect_traces
    from bb_wm.diagnose.page import Page, describe_software
    from bb_wm.diagnose.promotion import digest_model

    decisions = _ledger_of(here, ledger)
    digest = digest_model(model)
    evaluation = report.evaluation
    return Page(
        title=here.name,
        report=report,
        traces=collect_traces(model, heldout, outlook=outlook_of(here, model)),
        curves=curves_of(here),
        ledger=None if decisions is None else read_ledger(decisions),
        promotions=promotions_of(digest, promotions),
        config=config_of(here),
        provenance={
            **begun(here),
            "updates": model.updates,
            "model (SHA-256)": digest,
            "held out": f"{evaluation.episodes} episodes, {evaluation.rows} rows",
            "judged with": describe_software(),
        },
    )


def outlook_of(here: Run, model: WorldModel) -> Outlook | None:
    """What an evaluation fitted for this very model, if there was one."""
    from bb_wm.diagnose.calibration import Outlook

    try:
        return Outlook.load(here.outlook, model)
    except CheckpointError:
        return None


def begun(here: Run) -> dict[str, object]:
    """What is known of a run before anything is learnt."""
    world = {
        name: Path(str(value)).name if name == "recorded" else value  # a page is passed on
        for name, value in here.world.items()
    }
    return {
        "world": world,
        "begun": here.created,
        "seed": here.settings.seed,
        "trained with": here.versions,
    }


def config_of(here: Run) -> dict[str, Any]:
    """The model's and the training's settings."""
    return {"model": here.config, "training": here.settings.to_json()}


def curves_of(here: Run) -> Mapping[str, list[tuple[float, float]]]:
    """The training curves so far."""
    from bb_wm.diagnose.page import read_curves

    return read_curves(here.metrics) if here.metrics.exists() else {}


def _ledger_of(here: Run, named: str) -> Path | None:
    """The ledger that was named, or the run's own where there is one."""
    own = here.folder / LEDGER
    return Path(named) if named else own if own.is_file() else None


def promotions_of(digest: str, named: str) -> list[Mapping[str, Any]]:
    """Verdicts on the model with that digest. A damaged record that was not named is passed over
    with a word about it; a named one raises."""
    from bb_wm.diagnose.promotion import PromotionLog

    folder = Path(named or PROMOTIONS)
    if not folder.is_dir() and not named:
        return []
    try:
        entries = PromotionLog(folder).entries()
    except BBWMError as error:
        if named:
            raise
        print(f"Promotions not shown: {error}", file=sys.stderr)
        return []
    return [
        entry.body
        for entry in entries
        if digest in (entry.body["new"].get("digest"), entry.body["old"].get("digest"))
    ]


def _simulator(here: Run) -> Simulator:
    """The maker of the run's world. Raises DataError where it learnt from recorded rows."""
    from bb_wm.worlds.catalogue import make_world

    name = here.world.get("name")
    if not name:
        raise DataError(
            "--replay", expected="a run of a world", actual=f"{here.name}, of recorded rows"
        )
    return make_world(str(name))[0]


def newest_report(here: Run) -> Report | None:
    """The run's report.json, where there is a readable one."""
    from bb_wm.diagnose import Report

    with contextlib.suppress(BBWMError):
        return Report.load(here.folder / REPORT)
    return None
