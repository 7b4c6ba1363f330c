"""Whole held-out episodes, real beside imagined, as a recording for the Rerun viewer (rerun.io).

Every K rows the model reads the rows before and imagines the next K with the real actions alone, so
imagination runs beside all of an episode but its first rows. The timeline is `row`, the episode's.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from bb_wm import durable
from bb_wm.diagnose.calibration_curves import _padded
from bb_wm.diagnose.open_loop import (
    OpenLoopModel,
    _allowed,
    _numpy,
    imagine,
    imagine_samples,
)
from bb_wm.diagnose.traces import BAND, _columns, _labels, _pictures
from bb_wm.diagnose.windows import Windows, _gather, plan_windows
from bb_wm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Report
    from bb_wm.types import Episode

MODES: Final = ("mode", "shortcut")
_COLOURS: Final = {  # as on the page
    "real": (140, 146, 155), "received": (140, 146, 155), "mode": (31, 111, 208),
    "shortcut": (184, 90, 12), "low": (150, 190, 235), "high": (150, 190, 235),
    "believed": (26, 127, 82), "imagined": (31, 111, 208), "posterior from prior": (176, 58, 114),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """One episode of T rows beside its imagination.

    lines     quantity -> series -> values [T], NaN where there is none: dimensions of the
              observation and the reward (real, mode, shortcut; low and high span 90 % of sampled
              rollouts), risk (received, believed in its row, imagined) and raw KL(q || p) in nats
    pictures  image key -> first imagined row, real and imagined pixels [R, height, width, channels]
    """

    episode: int
    lines: Mapping[str, Mapping[str, np.ndarray]]
    pictures: Mapping[str, tuple[int, np.ndarray, np.ndarray]]


def see_episode(
    model: OpenLoopModel,
    episodes: Sequence[Episode],
    number: int,
    *,
    context: int = 10,
    reach: int = 15,
    dimensions: int = 12,
    samples: int = 16,
    rows: int = 1000,
    seed: int = 0,
) -> Seen:
    """The first `rows` rows of episode `number`, read and imagined. Raises DataError where the
    episode has not even two rows."""
    ahead = _allowed(model, range(1, reach + 1))
    plan = plan_windows([len(episodes[number])], context=context, horizons=ahead)
    context, reach = plan.context, plan.reach
    length = min(len(episodes[number]), rows)
    starts = [(number, s) for s in range(0, length - context, reach)]
    cut = _gather(episodes, starts, context, context + reach)
    spec, episode = model.obs_spec, episodes[number]
    labels, _ = _labels(spec, dimensions)
    whole = {key: np.asarray(value)[None, :length] for key, value in episode.obs.items()}
    lines: dict[str, dict[str, np.ndarray]] = {
        label: {"real": values}
        for label, values in zip(labels, _columns(spec, whole, dimensions, None)[0].T, strict=True)
    }
    lines["reward"] = {"real": np.asarray(episode.reward[:length], np.float64)}
    lines["risk"] = {"received": np.asarray(episode.safety[:length], np.float64)}
    pictures: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}
    for mode in MODES:
        imagined = imagine(model, cut, mode=mode, seed=seed)
        shown = _columns(spec, imagined.forecast.obs, dimensions, None)
        for d, label in enumerate(labels):
            lines[label][mode] = _laid(shown[..., d], cut, length)
        lines["reward"][mode] = _laid(imagined.forecast.reward, cut, length)
        if mode == MODES[0]:
            lines["risk"]["imagined"] = _laid(imagined.safety, cut, length)
            for key, pair in _pictures(spec, cut, imagined.forecast).items():
                joined = [one.reshape(-1, *one.shape[2:])[: length - context] for one in pair]
                pictures[key] = (context, joined[0], joined[1])
    if labels:
        sampled = imagine_samples(model, cut, count=samples, seed=seed)
        flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in sampled.items()}
        drawn = _columns(spec, flat, dimensions, None).reshape(len(cut), samples, reach, -1)
        for side, values in zip(("low", "high"), np.percentile(drawn, BAND, axis=1), strict=True):
            for d, label in enumerate(labels):
                lines[label][side] = _laid(values[..., d], cut, length)
    _believe(model, episode, length, lines)
    return Seen(number, lines, pictures)


def _laid(values: np.ndarray, cut: Windows, length: int) -> np.ndarray:
    """[W, K] of windows that follow each other as [T]; NaN before the first imagined row."""
    known = np.where(cut.target_valid, values, np.nan).reshape(-1).astype(np.float64)
    return np.concatenate([np.full(cut.context, np.nan), known])[:length]


def _believe(
    model: OpenLoopModel,
    episode: Episode,
    length: int,
    lines: dict[str, dict[str, np.ndarray]],
) -> None:
    """Adds what is believed in every row that is read: risk, and KL where the model can tell."""
    batch, _ = _padded(model, [episode])
    with torch.no_grad():
        risk = _numpy(model.predict_safety(model.filter(batch)))[0, :length]  # type: ignore[attr-defined]
        lines["risk"]["believed"] = risk.astype(np.float64)
        tell = getattr(model, "kl", None)
        if tell is not None:
            kl = _numpy(tell(batch))[0, :length].astype(np.float64)
            lines["KL (nats)"] = {"posterior from prior": kl.reshape(length, -1).sum(-1)}


def write_rerun(
    path: str | os.PathLike[str],
    model: OpenLoopModel,
    episodes: Sequence[Episode],
    *,
    report: Report | None = None,
    title: str = "bb_wm",
    count: int = 3,
    seed: int = 0,
) -> Path:
    """Write an .rrd file, whole or not at all, of `count` held-out episodes drawn by `seed`; those
    in which a smell of the report shows most come first, with the smell at its row.

    Raises MissingExtraError without the package, DataError without an episode of two rows,
    SaveError where the file cannot be written.
    """
    require_rerun()
    import rerun as rr

    smells = () if report is None else report.found
    chosen = _choose(episodes, [s.episode for s in smells if s.episode >= 0], count, seed)
    shown = [see_episode(model, episodes, number, seed=seed) for number in chosen]
    recording = rr.RecordingStream("bb_wm", recording_id=uuid.uuid4())
    stream = rr.binary_stream(recording)
    recording.log("about", rr.TextDocument(_about(title, report)), static=True)
    for seen in shown:
        _send(recording, seen)
    for smell in smells:
        if smell.episode in chosen:
            recording.set_time("row", sequence=smell.row)
            entry = rr.TextLog(smell.sentence(), level="WARN")
            recording.log([_name(smell.episode), "smells"], entry)
    recording.send_blueprint(_blueprint(shown))
    target = Path(path)
    durable.write_file(target, stream.read() or b"")
    recording.disconnect()
    return target


def require_rerun() -> None:
    """MissingExtraError with the install line where the Rerun SDK is absent."""
    try:
        import rerun  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "rerun",
            expected="the package rerun-sdk",
            actual="absent",
            hint='pip install "bb_wm[rerun]"',
        ) from error


def _choose(episodes: Sequence[Episode], wanted: Sequence[int], count: int, seed: int) -> list[int]:
    long = [n for n in range(len(episodes)) if len(episodes[n]) > 1]
    if not long:
        raise DataError("episodes", expected="one of at least 2 rows", actual=len(episodes))
    drawn = np.random.default_rng(seed).permutation(long).tolist()
    order = dict.fromkeys([*(n for n in wanted if n in long), *drawn])
    return [int(n) for n in list(order)[:count]]


def _send(recording: Any, seen: Seen) -> None:
    import rerun as rr

    name = _name(seen.episode)
    for label, series in seen.lines.items():
        for kind, values in series.items():
            there = np.flatnonzero(np.isfinite(values))
            place = rr.new_entity_path([name, label, kind])
            style = rr.SeriesLines(colors=[_COLOURS[kind]], names=[kind])
            recording.log(place, style, static=True)
            recording.send_columns(
                place,
                indexes=[rr.TimeColumn("row", sequence=there)],
                columns=rr.Scalars.columns(scalars=values[there]),
            )
    for key, (first, *both) in seen.pictures.items():
        for kind, frames in zip(("real", "imagined"), both, strict=True):
            for row, frame in enumerate(frames, start=first):
                recording.set_time("row", sequence=row)
                recording.log([name, key, kind], rr.Image(frame.squeeze()))


def _blueprint(shown: Sequence[Seen]) -> Any:
    """A tab per episode with a chart per quantity; the words first."""
    import rerun as rr
    import rerun.blueprint as rrb

    tabs = [
        rrb.Grid(
            *(
                rrb.TimeSeriesView(origin=rr.new_entity_path([_name(s.episode), label]), name=label)
                for label in s.lines
            ),
            *(
                rrb.Spatial2DView(
                    origin=rr.new_entity_path([_name(s.episode), key, kind]), name=f"{key}, {kind}"
                )
                for key in s.pictures
                for kind in ("real", "imagined")
            ),
            rrb.TextLogView(origin=rr.new_entity_path([_name(s.episode), "smells"]), name="smells"),
            name=_name(s.episode),
        )
        for s in shown
    ]
    about = rrb.TextDocumentView(origin="about", name="About")
    return rrb.Blueprint(
        rrb.Tabs(*tabs, about, active_tab=0), rrb.TimePanel(timeline="row"), auto_views=False
    )


def _name(episode: int) -> str:
    return f"episode {episode}"


def _about(title: str, report: Report | None) -> str:
    """Plain text: verdict, promise, smells, and how the lines are to be read."""
    told = [
        title,
        "Gray is real. Every few rows the model reads the rows before and imagines on with the "
        "real actions alone: blue (mode) through the latent, orange (shortcut) by predicting "
        "observations directly; light blue: 5 % and 95 % of sampled rollouts. Larger risk is "
        "worse; KL is what a row told beyond what was expected.",
    ]
    if report is not None:
        from bb_wm.diagnose.page.verdicts import cards, headline

        answers = (f"{card.question} {card.answer}. {card.reason}" for card in cards(report))
        told += [headline(report), *answers, *(smell.sentence() for smell in report.found)]
    return "\n\n".join(told)
