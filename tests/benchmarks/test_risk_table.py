"""The tables of calibrated risk: means over seeds, no row for what was not measured."""

from __future__ import annotations

from benchmarks.risk_worlds import Settings

from benchmarks import risk_table


def _result(seed: int, auroc: float, *, exact: bool) -> dict:
    told = {"events": 3, "decisions": 10, "auroc": auroc, "ece_raw": 0.5, "ece": 0.25}
    told |= {"recall": None}
    law = {"exact": {"auroc": 0.5, "ece_raw": 0.0, "ece": 0.0, "recall": 1.0}} if exact else {}
    bound = {"draws_kept": 190, "draws": 200, "miss_rate": 0.01, "margin": None}
    return {
        "part": risk_table.PART,
        "world": "Chain" if exact else "Leg",
        "seed": seed,
        "settings": Settings().to_json(),
        "software": {"commit": "abc"},
        "forecasts": {str(k): {**told, **law} for k in (1, 5, 10)},
        "bounds": {"random plans": bound},
        "strangeness": {"rows": 9, "held": 0.01, "frozen": {"auroc": auroc, "held": 1.0}}
        | ({} if exact else {"gravity x2": {"auroc": 0.75, "held": 0.0}}),
    }


def test_means_over_seeds_with_the_extremes():
    found = [
        _result(0, 0.5, exact=True),
        _result(1, 0.7, exact=True),
        _result(0, 0.9, exact=False),
    ]
    forecasts, bounds, strange = risk_table.tables(found)
    assert forecasts.rows[0][:4] == ("Chain", "1", "6/20", "0.600 [0.500, 0.700]")
    assert forecasts.rows[0][6] == "-"  # no recall where nothing happened
    assert forecasts.rows[1][0] == "Chain, known law"
    assert len(forecasts.rows) == 9
    assert bounds.rows[0] == ("Chain", "random plans", "0.950 [0.950, 0.950]", *bounds.rows[0][3:])
    assert bounds.rows[0][4] == "-"
    assert {row[0]: row[1:] for row in strange.rows}["gravity x2"] == ("-", "0.750")
    page = risk_table.page(found)
    assert "seeds 0, 1" in page
    assert page.count("**") == 6
