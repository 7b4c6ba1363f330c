"""Exit codes, the readable block, quiet pipes."""

import os
import subprocess
import sys

import pytest

from bb_wm import errors
from bb_wm.cli import COMMANDS, main
from bb_wm.cli.shell import RunConflictError, exit_code, explain, guarded

FACTS = {"expected": "a positive int", "actual": "-1", "hint": "leave it out for 10."}


def bb_wm(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "bb_wm", *words], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.HorizonError, 2),
        (errors.InputTypeError, 2),
        (errors.DeviceError, 2),
        (errors.PathError, 2),
        (errors.MissingExtraError, 2),
        (errors.LockError, 3),
        (errors.CheckpointError, 3),
        (errors.VersionError, 3),
        (RunConflictError, 3),
        (errors.DataError, 1),
        (errors.AlignmentError, 1),
        (errors.BatchError, 1),
        (errors.SaveError, 1),
        (errors.ResourceError, 1),
    ],
)
def test_every_error_of_ours_has_its_exit_code_and_no_traceback(kind, code, capsys):
    def body():
        raise kind("rows", **FACTS)

    assert exit_code(kind("rows", **FACTS)) == code
    assert guarded(body, command="bb-wm train") == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    for word in ("bb-wm train", "rows", *FACTS.values()):
        assert word in shown.err


def test_the_block_is_one_fact_a_line_and_cannot_steer_a_terminal():
    error = errors.DataError("path", expected="a file", actual="a\x1b[2Jb\nc", hint="")
    block = explain(error, "bb-wm check")
    assert block.splitlines()[0] == "bb-wm check: Stored rows cannot be believed."
    assert [line.split()[0] for line in block.splitlines()[1:]] == ["field", "expected", "got"]
    assert "\x1b" not in block
    assert r"a\x1b[2Jb\nc" in block


def test_a_policy_error_says_its_step():
    error = errors.PolicyError("policy", expected="[4]", actual="None", step=3)
    assert "step      3" in explain(error, "bb-wm rollout")


def test_debug_shows_where(capsys):
    def body():
        raise errors.ConfigError("rows", **FACTS)

    assert guarded(body, command="bb-wm", debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_dressed_up():
    def body():
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError):
        guarded(body, command="bb-wm")


def test_interruption_is_130(capsys):
    def body():
        raise KeyboardInterrupt

    assert guarded(body, command="bb-wm train") == 130
    assert capsys.readouterr().err == "bb-wm train: interrupted.\n"


def test_help_names_every_command_on_standard_output():
    done = bb_wm("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command, what in COMMANDS.items():
        assert f"  {command:<10}{what}" in done.stdout


@pytest.mark.parametrize("words", [(), ("trian",), ("--nothing",), ("train",), ("train", "--rows")])
def test_wrong_usage_is_2_on_standard_error_only(words):
    done = bb_wm(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_a_near_miss_is_named(capsys):
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--help",), ("worlds",)])
def test_a_closed_pipe_is_quiet(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "bb_wm", *words], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("worlds",), ("worlds", "--help")])
def test_lost_output_is_a_line_and_not_success(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bb_wm", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize("words", ["--help", "worlds"])
def test_looking_needs_no_torch(words):
    code = (
        "import sys; from bb_wm.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "xx_YY"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_no_home_and_odd_locales(locale):
    clean = {k: v for k, v in os.environ.items() if k not in ("HOME", "LANG") and k[:3] != "LC_"}
    for words in (("--help",), ("worlds", "--help")):
        done = bb_wm(*words, env={**clean, **locale})
        assert done.returncode == 0, done.stderr
