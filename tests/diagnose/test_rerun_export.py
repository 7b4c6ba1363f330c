"""Episodes beside their imagination: right by an exact model, and read back from the .rrd file."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import LinearModel, linear_episodes
from tests.diagnose.test_page import full  # noqa: F401
from tests.diagnose.test_with_world_model import KINDS, mixed_episodes

from bb_wm.diagnose.rerun_export import see_episode, write_rerun
from bb_wm.errors import DataError, MissingExtraError


class Model(LinearModel):
    """The exact model with a risk head."""

    def predict_safety(self, latent) -> torch.Tensor:
        return latent.h[..., 0].abs()


HELD = linear_episodes(4, 40, 1)


def read_back(path):
    """{entity path: (rows, first component's values)} of what has rows, {path: values} of the
    rest, and the blueprints."""
    chunk = pytest.importorskip("rerun.chunk", reason="needs rerun-sdk, which dev installs")
    reader = chunk.RrdReader(path)
    rows, static = {}, {}
    for one in reader.stream():
        table = one.to_record_batch()
        names = [name for name in table.schema.names if ":" in name]
        for name in names:
            values = [cell[0].as_py() for cell in table[name] if len(cell)]
            if one.is_static:
                static[one.entity_path, name] = values[0]
            elif "Scalars" in name or "TextLog:text" in name or "Image:buffer" in name:
                before = rows.setdefault(one.entity_path, ([], []))
                before[0].extend(table["row"].to_pylist())
                before[1].extend(values)
    return rows, static, reader.blueprints()


def test_an_exact_model_lies_on_what_came():
    seen = see_episode(Model(risk=lambda x: x[..., 0].abs()), HELD, 2, reach=7)
    real = HELD[2].obs["obs"]
    assert set(seen.lines) == {"obs[0]", "obs[1]", "reward", "risk", "KL (nats)"}
    for d in (0, 1):
        lines = seen.lines[f"obs[{d}]"]
        assert np.array_equal(lines["real"], real[:, d])
        for name in ("mode", "shortcut", "low", "high"):
            assert np.isnan(lines[name][:10]).all()
            assert lines[name][10:] == pytest.approx(real[10:, d], abs=1e-4)
    assert seen.lines["reward"]["mode"][10:] == pytest.approx(HELD[2].reward[10:], abs=1e-4)
    risk = seen.lines["risk"]
    assert np.array_equal(risk["believed"], np.abs(real[:, 0]))
    assert risk["imagined"][10:] == pytest.approx(np.abs(real[10:, 0]), abs=1e-4)
    assert np.array_equal(risk["received"], HELD[2].safety)
    kl = seen.lines["KL (nats)"]["posterior from prior"]
    assert kl.tolist() == [200.0, *[0.25] * 39]


def test_after_every_k_rows_it_reads_again():
    wrong = Model(matrix=np.zeros((2, 2)), spread=0.5)  # knows no state, only what is done
    seen = see_episode(wrong, HELD, 0, reach=5).lines["obs[0]"]
    pushed = 0.5 * HELD[0].action[9:-1, 0]
    assert seen["mode"][10:] == pytest.approx(pushed, abs=1e-5)
    assert (seen["low"][10:] < seen["high"][10:]).all()
    slow = see_episode(Model(matrix=1.5 * np.eye(2)), HELD, 0, reach=5).lines["obs[1]"]
    error = np.abs(slow["mode"] - slow["real"])[10:]
    assert error.reshape(6, 5)[:, 0].max() < error.reshape(6, 5)[:, -1].max()


def test_the_file_reads_back(full, tmp_path):  # noqa: F811
    pytest.importorskip("rerun", reason="needs rerun-sdk, which dev installs")
    smell = dataclasses.replace(
        full.report.smells[0], status="found", severity="serious", episode=3, row=17
    )
    report = dataclasses.replace(full.report, smells=(smell,))
    path = write_rerun(tmp_path / "a.rrd", Model(), HELD, report=report, title="<run>", count=2)
    rows, static, blueprints = read_back(path)
    episodes = {place.split("/")[1] for place in rows}
    assert len(episodes) == 2
    assert r"episode\ 3" in episodes  # where the smell is
    for kind in ("real", "mode", "shortcut", "low", "high"):
        at, values = rows[rf"/episode\ 3/obs\[0\]/{kind}"]
        there = np.arange(0 if kind == "real" else 10, 40)
        assert at == there.tolist()
        assert values == pytest.approx(HELD[3].obs["obs"][there, 0], abs=1e-4)
    for place in ("risk/received", "risk/believed", "risk/imagined", "reward/mode"):
        assert rf"/episode\ 3/{place}" in rows
    assert rows[r"/episode\ 3/KL\ \(nats\)/posterior\ from\ prior"][0] == list(range(40))
    assert rows[r"/episode\ 3/smells"] == ([17], [smell.sentence()])
    about = static["/about", "TextDocument:text"]
    assert about.startswith("<run>")
    assert "Can I trust it? No." in about
    assert len(blueprints) == 1
    first = path.read_bytes()
    write_rerun(path, Model(), HELD, count=1)  # replaced, and a recording of its own
    assert first != path.read_bytes()


def test_images_go_along(tmp_path):
    pytest.importorskip("rerun", reason="needs rerun-sdk, which dev installs")
    import gymnasium

    from bb_wm.rssm import WorldModel

    spaces = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "pick": gymnasium.spaces.Discrete(4),
            "speed": gymnasium.spaces.Box(-9, 9, (2,), np.float32),
        }
    )
    held = mixed_episodes(4, 0)
    path = write_rerun(tmp_path / "a.rrd", WorldModel(spaces, 1, KINDS[0]), held, count=1)
    rows, _, _ = read_back(path)
    number = int(next(iter(rows)).split("/")[1].removeprefix(r"episode\ "))
    at, pixels = rows[rf"/episode\ {number}/image/real"]
    assert at == list(range(at[0], len(held[number])))
    for row, frame in zip(at, pixels, strict=True):
        assert bytes(frame) == held[number].obs["image"][row].tobytes()
    assert rows[rf"/episode\ {number}/image/imagined"][0] == at


def test_without_the_extra_the_install_line_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError) as caught:
        write_rerun(tmp_path / "a.rrd", Model(), HELD)
    assert 'pip install "bb_wm[rerun]"' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_an_episode_nothing_is_written(tmp_path):
    pytest.importorskip("rerun", reason="needs rerun-sdk, which dev installs")
    with pytest.raises(DataError):
        write_rerun(tmp_path / "a.rrd", Model(), linear_episodes(2, 1, 0))
    assert list(tmp_path.iterdir()) == []
