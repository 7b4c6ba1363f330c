"""The result of an open-loop evaluation: numbers that survive JSON, and tables people can read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from bb_wm.diagnose.tables import Table
from bb_wm.errors import DataError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RiskScores:
    """How well one path foresees risk and the end, from imagination alone.

    `rmse[k-1]` of the risk of row k; `auroc[k-1]` of "risk within the next k rows" (NaN without
    both events and non-events); `brier` of the continuation over all predicted rows.
    """

    rmse: tuple[float, ...]
    auroc: tuple[float, ...]
    brier: float


@dataclass(frozen=True, slots=True)
class PathScores:
    """Errors of one way to predict: a path of the model or a baseline. Tuples run over k = 1..K.

    `nrmse` is over all vector dimensions that vary (NaN: not predicted); `by_dimension` the same
    for each of them at the headline horizon; `exact` and `image` per discrete and image key.
    """

    name: str
    is_model: bool
    nrmse: tuple[float, ...]
    reward_rmse: tuple[float, ...]
    reward_nrmse: tuple[float, ...]
    by_dimension: tuple[float, ...] = ()
    exact: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    image: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    risk: RiskScores | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Open-loop errors of a model on held-out windows, beside baselines on the same windows.

    `counts[k-1]` is how many windows have row k; `kl` the mean raw KL(posterior || prior) per
    context row in nats; `reconstruction` the NRMSE of decoding the posterior in its own row;
    `event_rate[k-1]` the share of windows with risk within k; `brier_reference` and `risk_spread`
    what always predicting the held-out mean scores for continuation and risk.
    """

    context: int
    horizons: tuple[int, ...]
    windows: int
    counts: tuple[int, ...]
    episodes: int
    rows: int
    seed: int
    note: str
    dimensions: tuple[str, ...]
    left_out: int
    paths: tuple[PathScores, ...]
    reconstruction: float
    kl: float
    event_rate: tuple[float, ...]
    risk_spread: float
    brier_reference: float
    seconds: float = field(default=0.0, compare=False)

    @property
    def headline(self) -> int:
        """The horizon the verdict speaks of: 10, or the longest there is."""
        return headline_horizon(self.horizons)

    def path(self, name: str) -> PathScores:
        """The path of that name; KeyError lists the names."""
        for path in self.paths:
            if path.name == name:
                return path
        raise KeyError(f"no path {name!r}; there are {[path.name for path in self.paths]}")

    def nrmse(self, name: str, k: int) -> float:
        """NRMSE of path `name` at horizon k."""
        return self.path(name).nrmse[k - 1]

    def verdict(self) -> str:
        """One sentence: the model's error against persistence and the linear model."""
        model = next((path for path in self.paths if path.is_model), None)
        if model is None:
            return "No model was evaluated, only the baselines."
        k = self.headline
        steps = f"At {k} step{'s' if k > 1 else ''}"
        error = model.nrmse[k - 1]
        if not math.isnan(error):
            return f"{steps} the model's error is {self._ratios(error, k)}(NRMSE {number(error)})."
        for key, rates in model.exact.items():
            return f"{steps} the model predicts {key!r} exactly in {rates[k - 1]:.1%} of rows."
        for key, errors in model.image.items():
            return f"{steps} the model's pixel error in {key!r} is {number(errors[k - 1])} (MSE)."
        return "The model predicts nothing that could be scored."

    def _ratios(self, error: float, k: int) -> str:
        parts = []
        for path in self.paths:
            if path.is_model or not math.isfinite(path.nrmse[k - 1]):
                continue
            what = "a linear model" if path.name.startswith("ridge") else path.name
            if path.nrmse[k - 1] > 0:
                parts.append(f"{number(error / path.nrmse[k - 1])} of {what}")
            else:
                parts.append(f"not 0, as {what}'s is")
        return " and ".join(parts) + " " if parts else f"{number(error)} of the data's own spread "

    def tables(self) -> list[Table]:
        """Every table of the evaluation, headline first."""
        return [
            table
            for table in (
                self._errors("Open-loop error (NRMSE; 0 perfect, 1 predicts the mean)", "nrmse"),
                self._keyed("exact", "exact match (share of rows; 1 perfect)"),
                self._keyed("image", "pixel error (MSE, pixels in 0..1; 0 perfect)"),
                self._errors("Reward error (NRMSE)", "reward_nrmse"),
                self._risk(),
                self._facts(),
            )
            if table is not None
        ]

    def table(self, form: str = "text") -> str:
        """All tables as "text" or "markdown", the verdict first."""
        if form not in ("text", "markdown"):
            raise DataError("form", expected='"text" or "markdown"', actual=form)
        parts = [
            table.markdown() if form == "markdown" else table.text() for table in self.tables()
        ]
        return "\n\n".join([self.verdict(), *parts])

    def rich(self) -> Any:
        """All tables as one rich renderable."""
        from rich.console import Group
        from rich.text import Text

        return Group(Text(self.verdict(), style="bold"), *(table.rich() for table in self.tables()))

    def _errors(self, title: str, attribute: str) -> Table | None:
        rows = []
        for path in self.paths:
            values = getattr(path, attribute)
            if not all(math.isnan(value) for value in values):
                rows.append((path.name, *(number(values[k - 1]) for k in self.horizons)))
        if not rows:
            return None
        return Table(title, ("", *(f"k={k}" for k in self.horizons)), tuple(rows))

    def _keyed(self, attribute: str, title: str) -> Table | None:
        rows = [
            (path.name, key, *(number(values[k - 1]) for k in self.horizons))
            for path in self.paths
            for key, values in getattr(path, attribute).items()
        ]
        if not rows:
            return None
        heading = f"Observations: {title}"
        return Table(heading, ("", "key", *(f"k={k}" for k in self.horizons)), tuple(rows))

    def _risk(self) -> Table | None:
        scored = [path for path in self.paths if path.risk is not None]
        if not scored:
            return None
        k = self.headline
        rows = []
        for path in scored:
            assert path.risk is not None
            ranking = number(path.risk.auroc[k - 1]) if path.risk.auroc else "-"
            cells = (number(path.risk.rmse[k - 1]), ranking, number(path.risk.brier))
            rows.append((path.name, *cells))
        rows.append(
            ("always the mean", number(self.risk_spread), "0.5", number(self.brier_reference))
        )
        header = ("", f"risk RMSE k={k}", f"AUROC within {k}", "Brier")
        title = "Risk (AUROC: risk within k rows) and continuation (Brier), from imagination"
        return Table(title, header, tuple(rows))

    def _facts(self) -> Table:
        counts = ", ".join(f"{self.counts[k - 1]} at k={k}" for k in self.horizons)
        rows = [
            ("windows", f"{self.windows} ({counts})"),
            ("context", f"{self.context} real rows, then open loop with the real actions"),
            ("held out", f"{self.episodes} episodes, {self.rows} rows"),
            (
                "dimensions scored",
                f"{len(self.dimensions)}, {self.left_out} constant ones left out",
            ),
        ]
        if not math.isnan(self.reconstruction):
            rows.append(("reconstruction NRMSE", number(self.reconstruction)))
        if not math.isnan(self.kl):
            rows.append(("raw KL(posterior || prior)", f"{number(self.kl)} nats per row"))
        if any(rate > 0 for rate in self.event_rate):
            k = self.headline
            rows.append((f"risk within {k}", f"in {self.event_rate[k - 1]:.1%} of the windows"))
        if self.note:
            rows.append(("note", self.note))
        return Table("How it was measured", ("", ""), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Plain data: NaN as null, infinity as the string "inf"."""
        data = {name.name: _plain(getattr(self, name.name)) for name in fields(self)}
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; DataError names what does not fit."""
        if data.get("format") != FORMAT:
            raise DataError(
                "evaluation format",
                expected=FORMAT,
                actual=data.get("format", "none"),
                hint="another version of bb_wm wrote it; `bb-wm evaluate RUN` measures anew.",
            )
        names = {name.name for name in fields(cls)}
        if set(data) - {"format"} != names:
            odd = sorted((set(data) - {"format"}) ^ names)
            raise DataError(
                "evaluation", expected=f"the fields {sorted(names)}", actual=f"odd: {odd}"
            )
        paths = tuple(_path(item) for item in data["paths"])
        single = {"reconstruction", "kl", "risk_spread", "brier_reference", "seconds"}
        values: dict[str, Any] = {name: data[name] for name in names - {"paths"} - single}
        for name in ("horizons", "counts", "dimensions"):
            values[name] = tuple(values[name])
        values["event_rate"] = _numbers(values["event_rate"])
        values |= {name: _number(data[name]) for name in single}
        return cls(paths=paths, **values)


def headline_horizon(horizons: tuple[int, ...]) -> int:
    """10 where it was asked, else the longest."""
    return 10 if 10 in horizons else horizons[-1]


def number(value: float) -> str:
    """Three significant digits, without exponents in the usual range; "-" for NaN."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}"
    return f"{value:.2e}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else "inf"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, PathScores | RiskScores):
        return {name.name: _plain(getattr(value, name.name)) for name in fields(value)}
    return value


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _path(data: Mapping[str, Any]) -> PathScores:
    risk = data["risk"]
    return PathScores(
        name=str(data["name"]),
        is_model=bool(data["is_model"]),
        nrmse=_numbers(data["nrmse"]),
        reward_rmse=_numbers(data["reward_rmse"]),
        reward_nrmse=_numbers(data["reward_nrmse"]),
        by_dimension=_numbers(data["by_dimension"]),
        exact={key: _numbers(values) for key, values in data["exact"].items()},
        image={key: _numbers(values) for key, values in data["image"].items()},
        risk=None
        if risk is None
        else RiskScores(_numbers(risk["rmse"]), _numbers(risk["auroc"]), _number(risk["brier"])),
    )
