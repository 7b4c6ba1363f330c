"""The pages of the robot and factory domains do what they print."""

import re
import runpy
from pathlib import Path

import pytest

from bb_wm.cli import COMMANDS, main
from bb_wm.worlds.catalogue import find_world

DOCS = Path(__file__).parents[2] / "docs"
SMALL = [
    *("--preset", "tiny", "--rows", "600", "--heldout-rows", "300", "--updates", "4"),
    *("--batch-size", "8", "--length", "16"),
]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def printed(code: str, folder: Path, capsys) -> str:
    """What a page's code prints, run in `folder`."""
    (folder / "page.py").write_text(code)
    capsys.readouterr()
    runpy.run_path(str(folder / "page.py"))
    return capsys.readouterr().out


@pytest.mark.parametrize("page", ["robot.md", "factory.md"])
def test_commands_and_worlds_of_the_pages_exist(page) -> None:
    shown = re.findall(r"^bb-wm (\w+) ?(\S*)", "\n".join(blocks(page, "sh")), re.MULTILINE)
    assert shown
    for command, name in shown:
        assert command in COMMANDS
        if name and not name.startswith("--"):
            assert find_world(name.removeprefix("runs/")).domain in ("robot", "factory")
    text = (DOCS / page).read_text()
    assert "ISO 13849 / IEC 61508" in text
    assert "independent stop" in text


@pytest.mark.timeout(300)
def test_the_robot_page_runs_as_printed(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("mujoco", reason='needs: pip install "bb_wm[mujoco]"')
    monkeypatch.chdir(tmp_path)
    risk, recording, life = blocks("robot.md", "python")
    assert "joint speed" in printed(risk, tmp_path, capsys)
    assert "3 episodes in logs/arm" in printed(recording, tmp_path, capsys)
    assert main(["check", "logs/arm", "--fallback", "0", "0"]) == 0
    assert "bb-wm train logs/arm" in capsys.readouterr().out
    assert main(["train", "Swimmer-v5", *SMALL]) == 0
    said = printed(life, tmp_path, capsys)
    assert "fallback Hold" in said  # two episodes are too few for a bound
    assert "bound" in said


@pytest.mark.xdist_group("factory")
@pytest.mark.timeout(300)
def test_the_factory_page_runs_as_printed(tmp_path, capsys) -> None:
    pytest.importorskip("pcgym", reason='needs: pip install "bb_wm[factory]"')
    (code,) = blocks("factory.md", "python")
    said = printed(code, tmp_path, capsys)
    temperature = float(re.search(r"'temperature': ([\d.]+)", said)[1])
    assert temperature > 360  # ignited
