"""One self-contained HTML page: verdict, tables, pictures, configuration and where it came from.

No network, no script; light or dark by the reader's preference; tables scroll on a phone.
"""

from __future__ import annotations

import html
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bb_wm import durable
from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.tables import Table
from bb_wm.errors import MissingExtraError, ResourceError

if TYPE_CHECKING:
    import numpy as np

    from bb_wm.diagnose.evaluation import Evaluation
    from bb_wm.diagnose.traces import Traces

MAX_PAGE_BYTES = 6 * 1024 * 1024

_STYLE = """
:root { --paper: #fdfdfc; --ink: #1f2328; --soft: #5b6470; --grid: #dfe2e6; --card: #ffffff;
  --edge: #d8dce2; --accent: #1f6fd0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e7e9ec; --soft: #9aa4b0; --grid: #2d333b; --card: #1b1f25;
    --edge: #30363f; --accent: #6aa8f7; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem 1rem 3rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header p.kicker { margin: 0; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.3rem, 4.2vw, 1.9rem); line-height: 1.25; margin: .2rem 0 1rem;
  max-width: 60rem; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.1rem 0 .3rem; }
p.note { color: var(--soft); max-width: 46rem; margin: .3rem 0 .8rem; font-size: .92rem; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr));
  gap: 0 1.6rem; align-items: start; }
.tables section { min-width: 0; }
.scroll { overflow-x: auto; max-width: 100%; border: 1px solid var(--edge); border-radius: 8px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--edge); }
tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0;
  background: var(--card); }
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
.tall { max-height: 26rem; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: var(--card); z-index: 1; }
.pair { display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.pair > * { min-width: 0; }
.pair h3 { margin-top: 0; }
.curves { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts th { white-space: normal; vertical-align: top; width: 11rem; }
tr.model th, tr.model td { color: var(--accent); font-weight: 600; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); align-items: start; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--edge); border-radius: 8px;
  background: var(--card); min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--edge); border-radius: 8px;
  background: var(--card); font-size: .82rem; line-height: 1.4; }
@media (max-width: 30rem) { table { font-size: .82rem; } th, td { padding: .34rem .4rem; }
  table.facts th { width: 8.2rem; } }
@media print { body { max-width: none; } figure, section { break-inside: avoid; } }
"""


def write_page(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    title: str,
    traces: Traces | None = None,
    metrics: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    config: Mapping[str, Any] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write the page, whole or not at all. ResourceError when it would exceed 6 MB."""
    text = render_page(
        evaluation,
        title=title,
        traces=traces,
        metrics=metrics,
        config=config,
        provenance=provenance,
    )
    raw = text.encode("utf-8")
    if len(raw) > MAX_PAGE_BYTES:
        raise ResourceError(
            "page",
            expected=f"at most {MAX_PAGE_BYTES} bytes",
            actual=len(raw),
            hint="show fewer windows or smaller images.",
        )
    target = Path(path)
    durable.write_file(target, raw)
    return target


def render_page(
    evaluation: Evaluation,
    *,
    title: str,
    traces: Traces | None = None,
    metrics: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    config: Mapping[str, Any] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> str:
    """The page's HTML; without the extra `plots` it has tables only and says so."""
    drawn = _can_draw()
    body = [
        f'<header><p class="kicker">{_text(title)}: held-out evaluation of a bb_wm world model</p>'
        f"<h1>{_text(evaluation.verdict())}</h1></header>",
        _numbers(evaluation),
        _errors(evaluation, drawn),
    ]
    if drawn and traces is not None and len(traces):
        body.append(_windows(traces))
    if drawn and metrics:
        body.append(_losses(metrics))
    if not drawn:
        body.append('<p class="note">Pictures need <code>pip install "bb_wm[plots]"</code>.</p>')
    if config:
        body.append(_configuration(config))
    body.append(_provenance(provenance or describe_software()))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}: bb_wm evaluation</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def describe_software() -> dict[str, object]:
    """Versions and kind of machine, without names of hosts, users or folders."""
    import numpy
    import torch

    import bb_wm

    return {
        "bb_wm": bb_wm.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch threads": torch.get_num_threads(),
    }


def _numbers(evaluation: Evaluation) -> str:
    models = {path.name for path in evaluation.paths if path.is_model}
    sections = "".join(
        f"<section><h3>{_text(table.title)}</h3>{_table(table, models)}</section>"
        for table in evaluation.tables()
    )
    note = (
        "<p class='note'><b>mode</b> imagines through the latent prior, taking its most probable "
        "value; <b>shortcut</b> predicts the next observation directly and reads it again. Both, "
        "and the baselines, see the same real rows and are given the same real actions.</p>"
    )
    return f'<h2>Numbers</h2>{note}<div class="tables">{sections}</div>'


def _can_draw() -> bool:
    from bb_wm.diagnose import plots

    try:
        plots.require_matplotlib()
    except MissingExtraError:
        return False
    return True


def _errors(evaluation: Evaluation, drawn: bool) -> str:
    scored = [p for p in evaluation.paths if any(math.isfinite(v) for v in p.nrmse)]
    if not drawn or not scored or len(evaluation.counts) < 2:
        return _dimensions(evaluation)
    from bb_wm.diagnose import plots

    k = evaluation.headline
    told = ", ".join(f"{p.name} {number(p.nrmse[k - 1])}" for p in scored)
    alt = f"Line chart of NRMSE against the number of steps without seeing. At {k}: {told}."
    svg = plots.to_svg(plots.draw_errors(evaluation), alt)
    picture = _figure(svg, f"At k={k}: {told}. Lower is better.")
    pair = f'<div class="pair">{picture}{_dimensions(evaluation)}</div>'
    return f"<h2>Error by horizon</h2>{pair}"


def _dimensions(evaluation: Evaluation) -> str:
    """NRMSE of every dimension at the headline horizon, worst of the model first."""
    paths = [path for path in evaluation.paths if path.by_dimension]
    if not paths or len(evaluation.dimensions) < 2:
        return ""
    order = sorted(range(len(evaluation.dimensions)), key=lambda d: -paths[0].by_dimension[d])
    rows = tuple(
        (evaluation.dimensions[d], *(number(path.by_dimension[d]) for path in paths)) for d in order
    )
    table = Table("", ("dimension", *(path.name for path in paths)), rows)
    title = f"NRMSE of each dimension at k={evaluation.headline}, worst first"
    return f"<section><h3>{_text(title)}</h3>{_table(table, set(), tall=True)}</section>"


def _windows(traces: Traces) -> str:
    from bb_wm.diagnose import plots

    figures = []
    for i in range(len(traces)):
        where = f"held-out episode {traces.episode[i]}, rows from {traces.start[i]}"
        alt = (
            f"Real and imagined values of {', '.join(traces.labels)} over "
            f"{traces.real.shape[1]} rows of {where}; the first {traces.context} rows were seen."
        )
        figures.append(_figure(plots.to_svg(plots.draw_window(traces, i), alt), where))
        for key in traces.pictures:
            alt = f"Pixels of {key}, real above imagined, {where}."
            svg = plots.to_svg(plots.draw_pictures(traces, key, i), alt)
            figures.append(_figure(svg, f"{key}: {where}"))
    return (
        "<h2>Real versus imagined</h2><p class='note'>The shaded rows were seen; after them the "
        "model is given only the actions. The band spans 5 to 95 % of 16 sampled rollouts."
        f'</p><div class="pictures">{"".join(figures)}</div>'
    )


def _losses(metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    from bb_wm.diagnose import plots

    figures = []
    for name, (x, y) in metrics.items():
        ends = f"from {number(float(y[0]))} to {number(float(y[-1]))}"
        alt = f"{name} over {x[-1]:.0f} updates, {ends}."
        figures.append(f"<figure>{plots.to_svg(plots.draw_curve(name, x, y), alt)}</figure>")
    return (
        "<h2>Training</h2><p class='note'>Thin: each value in the log. Thick: their running "
        f'median.</p><div class="curves">{"".join(figures)}</div>'
    )


def _configuration(config: Mapping[str, Any]) -> str:
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    return (
        "<h2>Configuration</h2><details><summary>All settings</summary>"
        f"<pre tabindex='0'>{_text(text)}</pre></details>"
    )


def _provenance(facts: Mapping[str, object]) -> str:
    rows = tuple((str(name), _plainly(value)) for name, value in facts.items())
    return f"<h2>Provenance</h2>{_table(Table('', ('', ''), rows), set())}"


def _plainly(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plainly(one)}" for name, one in value.items())
    return str(value)


def _table(table: Table, highlighted: set[str], *, tall: bool = False) -> str:
    head = ""
    if table.has_header:
        cells = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.header)
        head = f"<thead><tr>{cells}</tr></thead>"
    body = "".join(_row(row, row[0] in highlighted) for row in table.rows)
    kind = "" if table.has_header else ' class="facts"'
    label = f' aria-label="{_text(table.title)}"' if table.title else ' aria-label="table"'
    return (
        f'<div class="scroll{" tall" if tall else ""}" role="region" tabindex="0"{label}>'
        f"<table{kind}>{head}<tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str], highlighted: bool) -> str:
    rest = "".join(f"<td>{_text(cell)}</td>" for cell in cells[1:])
    kind = ' class="model"' if highlighted else ""
    return f'<tr{kind}><th scope="row">{_text(cells[0])}</th>{rest}</tr>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
