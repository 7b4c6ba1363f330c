"""The README's promises that a test can keep: its quick start runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

from bb_wm.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_quick_start_runs_as_printed_and_uses_the_interface_of_section_4(tmp_path):
    (code,) = blocks("python")
    for name in (
        "WorldModel(",
        ".update(",
        ".encode(",
        ".rollout(",
        "predict_reward(",
        "predict_safety(",
    ):
        assert name in code, name
    script = tmp_path / "quick_start.py"
    # Ten numbers of reward and of risk must come out, finite, risk never negative.
    script.write_text(
        code
        + "\nreward, risk = wm.predict_reward(right.latents), wm.predict_safety(right.latents)"
        + "\nassert reward.shape == risk.shape == (10,), reward.shape"
        + "\nassert torch.isfinite(reward).all() and torch.isfinite(risk).all()"
        + "\nassert (risk >= 0).all()"
        + "\nassert wm.updates == 20 and np.isfinite(loss)"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reward ahead")


def test_quick_start_is_short():
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_commands_of_the_readme_exist_and_all_commands_are_in_it():
    shown = re.findall(r"^bb-wm (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert sorted(shown) == sorted(COMMANDS)


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w[\w-]*)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["train", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_gate_is_called_advisory():
    assert "not a safety function in the sense of ISO 13849 / IEC 61508" in README
    assert "independent stop" in README
