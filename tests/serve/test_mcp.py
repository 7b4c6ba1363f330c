"""The proxy in front of real MCP servers: git on a real repository, and time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastmcp", reason='pip install "bb_wm[tools]"')
pytest.importorskip("mcp_server_git", reason="pip install mcp-server-git")
pytest.importorskip("mcp_server_time", reason="pip install mcp-server-time")

from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError
from tests.serve.conftest import steady

from bb_wm.cli.mcp import Arguments, make_guard, parse
from bb_wm.decide import Ledger
from bb_wm.decide.evidence import Fault
from bb_wm.errors import BBWMError, ConfigError
from bb_wm.serve import Featuriser, Guard, Judge, Recording, ToolCall
from bb_wm.serve.experience import tool_of
from bb_wm.serve.featurise import KEY
from bb_wm.serve.loading import Loading
from bb_wm.serve.mcp_proxy import guarded_proxy, transport_of

Make = Callable[..., Guard]
GIT = f"{sys.executable} -m mcp_server_git"
TIME = f"{sys.executable} -m mcp_server_time"
pytestmark = pytest.mark.timeout(300)  # real processes, on whatever machine


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A real repository with one commit, and staged work on top of it."""
    path = tmp_path / "repo"
    path.mkdir()
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.email", "t@example.org"],
        ["config", "user.name", "t"],
        ["commit", "-q", "--allow-empty", "-m", "start"],
    ):
        git(path, *words)
    (path / "plan.txt").write_text("work of a day\n")
    git(path, "add", "plan.txt")
    return path


def git(path: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=path, check=True, capture_output=True, text=True)
    return done.stdout


def staged(path: Path) -> str:
    return git(path, "diff", "--cached", "--name-only").strip()


def through(
    guard: Guard, server: str, body: Callable[[Any], Awaitable[None]], **client: Any
) -> None:
    """Run `body` with a client of the guarded server."""

    async def main() -> None:
        async with Client(guarded_proxy(guard, server), **client) as agent:
            await body(agent)

    asyncio.run(main())


def test_git_reset_is_held_and_the_staged_work_is_there(
    make_guard: Make, repo: Path, tmp_path: Path
) -> None:
    here = {"repo_path": str(repo)}

    async def body(agent: Any) -> None:
        tools = await agent.list_tools()
        assert len(tools) == 12
        for name, more in (
            ("git_status", {}),
            ("git_diff_staged", {}),
            ("git_log", {"max_count": 3}),
            ("git_branch", {"branch_type": "local"}),
        ):
            assert not (await agent.call_tool(name, {**here, **more})).is_error
        held = await agent.call_tool("git_reset", here, raise_on_error=False)
        assert held.is_error
        assert held.content[0].text.startswith("Held by bb-wm (")
        assert "git_reset was not run" in held.content[0].text
        assert staged(repo) == "plan.txt"
        with pytest.raises(ToolError, match="Held by bb-wm"):
            await agent.call_tool("git_reset", here)
        await agent.call_tool("git_commit", {**here, "message": "the work of a day"})

    guard = make_guard("enforce")
    through(guard, GIT, body)
    guard.close()
    assert git(repo, "show", "HEAD:plan.txt") == "work of a day\n"
    (episode,) = Recording(tmp_path / "calls").read()
    assert [bool(row[0]) for row in episode.action] == [True] * 4 + [False, False, True, False]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [row["verdict"] for row in ledger.rows()][::-1] == ["ACT"] * 4 + ["HOLD"] * 2 + [
            "ACT"
        ]


def test_shadow_lets_the_same_reset_through(make_guard: Make, repo: Path) -> None:
    async def body(agent: Any) -> None:
        await agent.call_tool("git_reset", {"repo_path": str(repo)})

    through(make_guard("shadow"), GIT, body)
    assert staged(repo) == ""


@pytest.mark.parametrize("mode", ["record", "shadow"])
def test_the_named_look_up_is_made_before_a_reset_and_the_agent_notices_nothing(
    mode: str, run_folder: Path, repo: Path, tmp_path: Path
) -> None:
    here = {"repo_path": str(repo)}
    said: list[str] = []

    async def body(agent: Any) -> None:
        for name in ("git_status", "git_reset"):
            said.append((await agent.call_tool(name, here)).content[0].text)

    words = ["--server", GIT, "--mode", mode, "--out", str(tmp_path / "calls")]
    words += [] if mode == "record" else ["--run", str(run_folder)]
    words += ["--ledger", str(tmp_path / "calls.sqlite")]
    words += ["--look-up", f"git_diff_staged={json.dumps(here)}"]
    guard = make_guard(parse(words))
    through(guard, GIT, body)
    guard.close()
    assert guard.looked == 1
    assert said[0].startswith("Repository status:")
    assert said[1] == "All staged changes reset"
    assert staged(repo) == ""
    (episode,) = Recording(tmp_path / "calls").read()
    look = Featuriser().act(ToolCall("git_diff_staged", here))
    assert [tool_of(row) == tool_of(look) for row in episode.action] == [False, True, False, False]


def test_recording_another_server_changes_none_of_its_answers(tmp_path: Path) -> None:
    asked = {"source_timezone": "UTC", "time": "12:30", "target_timezone": "Asia/Tokyo"}
    answers: list[Any] = []

    async def body(agent: Any) -> None:
        answers.append([tool.name for tool in await agent.list_tools()])
        answers.append((await agent.call_tool("convert_time", asked)).content)
        wrong = await agent.call_tool(
            "convert_time", {**asked, "time": "soon"}, raise_on_error=False
        )
        answers.append((wrong.is_error, wrong.content))

    async def direct() -> None:
        async with Client(transport_of(TIME)) as agent:
            await body(agent)

    asyncio.run(direct())
    with Guard("record", recording=Recording(tmp_path / "calls")) as guard:
        through(guard, TIME, body)
    assert answers[3:] == answers[:3]
    (episode,) = Recording(tmp_path / "calls").read()
    assert len(episode) == 3
    assert episode.obs[KEY][2][3] == 1.0  # the second call was an error
    assert episode.safety.tolist() == [0, 0, 0]  # of a tool that declares itself read-only


@pytest.mark.parametrize("era", ["legacy", "auto"])
@pytest.mark.parametrize("yes", [True, False])
def test_a_person_is_asked_through_the_agents_client(
    era: str, yes: bool, make_guard: Make, repo: Path
) -> None:
    asked: list[str] = []

    async def answer(message: str, response_type: Any, params: Any, context: Any) -> Any:
        asked.append(message)
        return ElicitResult(action="accept", content={"value": yes})

    async def body(agent: Any) -> None:
        await agent.call_tool("git_status", {"repo_path": str(repo)})
        result = await agent.call_tool("git_reset", {"repo_path": str(repo)}, raise_on_error=False)
        assert result.is_error is not yes

    guard = make_guard("enforce", settings=steady(person=0.05))
    through(guard, GIT, body, mode=era, elicitation_handler=answer)
    assert len(asked) == 1
    assert "git_reset" in asked[0]
    assert staged(repo) == ("" if yes else "plan.txt")


def test_a_client_that_cannot_ask_gets_a_refusal(make_guard: Make, repo: Path) -> None:
    async def body(agent: Any) -> None:
        result = await agent.call_tool("git_reset", {"repo_path": str(repo)}, raise_on_error=False)
        assert result.is_error

    guard = make_guard("enforce", settings=steady(person=0.05))
    through(guard, GIT, body, mode="legacy")
    assert staged(repo) == "plan.txt"


# --- the command ----------------------------------------------------------------------------------


def test_the_command_enforces_and_a_killed_proxy_lets_nothing_through(
    run_folder: Path, repo: Path, tmp_path: Path
) -> None:
    """`bb-wm mcp` as an agent starts it; then SIGKILL while it is about to make the call."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def harm(call):\n"
        "    if call.name == 'git_reset':\n"
        f"        pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "        time.sleep(600)\n"
        "    return lambda answer: 0.0\n"
    )
    command = ["-m", "bb_wm", "mcp", "--server", GIT, "--out", str(tmp_path / "calls")]
    enforce = [*command, "--mode", "enforce", "--run", str(run_folder), "--deadline", "30"]
    shadow = [*command, "--mode", "shadow", "--run", str(run_folder), "--harm", "slow:harm"]
    here = {"repo_path": str(repo)}

    async def main() -> None:
        async with Client(agent_of(enforce, tmp_path), mode="legacy") as agent:
            assert not (await agent.call_tool("git_status", here)).is_error
            held = await agent.call_tool("git_reset", here, raise_on_error=False)
            assert held.content[0].text.startswith("Held by bb-wm")
        with pytest.raises(Exception, match=""):
            await killed(shadow)

    async def killed(words: list[str]) -> None:
        async with Client(agent_of(words, tmp_path), mode="legacy") as agent:
            call = asyncio.create_task(agent.call_tool("git_reset", here))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.05)
            for child, line in children_of(os.getpid()):
                if "bb_wm mcp" in line:
                    os.kill(child, signal.SIGKILL)
            await call

    asyncio.run(main())
    assert staged(repo) == "plan.txt"
    assert len(Recording(tmp_path / "calls").read()) == 1


# A handshake waits for a slow start; a client that probes first may give up on a busy machine.
def agent_of(words: list[str], cwd: Path) -> StdioTransport:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return StdioTransport(sys.executable, words, cwd=str(cwd), env=environment, keep_alive=False)


def children_of(parent: int) -> list[tuple[int, str]]:
    """(pid, command line) of the processes that `parent` started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if int(stat[1]) == parent:
            found.append((int(entry.name), words))
    return found


def test_a_damaged_model_holds_everything_in_enforce_and_nothing_in_shadow(
    run_folder: Path, repo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "git"
    shutil.copytree(run_folder, broken)
    for file in broken.glob("checkpoints/*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    words = {"server": GIT, "run": str(broken), "out": str(tmp_path / "calls")}
    here = {"repo_path": str(repo)}

    async def body(agent: Any) -> None:
        looked = await agent.call_tool("git_status", here, raise_on_error=False)
        reset = await agent.call_tool("git_reset", here, raise_on_error=False)
        assert (looked.is_error, reset.is_error) == (mode == "enforce",) * 2

    for mode in ("enforce", "shadow"):
        guard = make_guard(Arguments(mode=mode, **words))
        through(guard, GIT, body)
        assert isinstance(guard.judge, Fault)
        assert guard.judge.error == "CheckpointError"
        assert staged(repo) == ("plan.txt" if mode == "enforce" else "")
        guard.close()


def test_the_tools_are_listed_while_the_model_is_loaded(
    make_guard: Make, judge: Judge, repo: Path
) -> None:
    come = threading.Event()

    def load() -> Judge:
        come.wait(60)
        return judge

    async def body(agent: Any) -> None:
        assert len(await agent.list_tools()) == 12  # nobody has waited for the model
        assert isinstance(guard.judge, Fault)
        call = asyncio.create_task(agent.call_tool("git_status", {"repo_path": str(repo)}))
        await asyncio.sleep(0.2)
        assert not call.done()
        assert len(await agent.list_tools()) == 12  # nor has anything else to
        come.set()
        assert not (await call).is_error

    guard = make_guard("enforce", judge=Loading(load))
    through(guard, GIT, body)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--mode", "enforce"], "--run"),
        (["--mode", "shadow", "--run", "nowhere"], "run"),
        (["--look-up", "git_status={not json"], "--look-up"),
        (["--harm", "no_such_module:f"], "--harm"),
        (["--limit", "nan"], "Gate.limit"),
        (["--look-first", "2"], "GuardSettings.look_first"),
    ],
)
def test_what_the_command_cannot_use(words: list[str], field: str) -> None:
    with pytest.raises(BBWMError) as caught:
        make_guard(parse(["--server", GIT, *words]))
    assert caught.value.field == field


def test_a_server_that_is_no_command_is_refused() -> None:
    for word in ("", "unclosed 'quote"):
        with pytest.raises(ConfigError):
            transport_of(word)
    assert transport_of("https://example.org/mcp") == "https://example.org/mcp"


def test_a_server_that_is_not_there_is_named_before_anything_is_started() -> None:
    with pytest.raises(ConfigError, match=r"no-such-server.*PATH"):
        transport_of("no-such-server --repository .")
