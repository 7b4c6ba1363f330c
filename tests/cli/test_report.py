"""`bb-wm report` and `bb-wm inspect` on a real run: what they write, serve, and refuse."""

import http.client
import json
import re
import shutil
import socket
import sys
import threading

import pytest
from tests.cli.conftest import start
from tests.cli.test_commands import snapshot

from bb_wm.cli import main
from bb_wm.cli.inspect import Watcher, serve
from bb_wm.diagnose import Report
from bb_wm.learn.run import Run

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.timeout(300)]


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run, in a folder one stands in."""
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/LineWorld"


def test_training_ends_with_report_card_and_page(trained):
    run = trained[0] / "runs/LineWorld"
    report = Report.load(run / "report.json")
    assert report.updates == 12
    assert json.loads((run / "evaluation.json").read_text()) == report.evaluation.to_json()
    card = (run / "checkpoints/README.md").read_text()
    assert card.startswith("---\nlibrary_name: bb_wm\n")
    assert "after 12 updates" in card
    page = (run / "page.html").read_text()
    for text in (card, page):
        assert report.evaluation.tables()[0].rows[0][1] in text
    assert "Can I trust it?" in page
    for smell in report.found:
        assert smell.sentence() in trained[2]


def test_the_band_is_as_wide_as_the_model_was_wrong(trained, run, capsys):
    from bb_wm.diagnose.calibration import Outlook

    page = (trained[0] / "runs/LineWorld/page.html").read_text()
    assert "samples as wide as it was wrong" in page
    Outlook.load(run / "outlook.json", Run.open(run).load_model())
    # A model that was trained on has no fitted width any more: what was learnt is shown.
    from bb_wm.cli.report import outlook_of

    other = Run.open(run).load_model()
    other.updates += 1
    assert outlook_of(Run.open(run), other) is None


def test_report_replays_shows_decisions_and_promotions_and_keeps_no_paths(run, capsys):
    from tests.cli.test_ledger import GATE, PUSH

    from bb_wm.decide import Ledger
    from bb_wm.diagnose.promotion import PromotionLog, digest_model
    from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion

    digest = digest_model(Run.open(run).load_model())
    told = Promotion(Outcome.BLOCK, (Check("x", "this check", 2.0, 0.0, Outcome.BLOCK),), {}, {})
    log = PromotionLog("promotions")
    named = {"path": "elsewhere", "digest": "1" * 64}
    log.append(told, new={"path": "mine", "digest": digest}, old=named, data=named)
    log.append(told, new={"path": "of others", "digest": "2" * 64}, old=named, data=named)
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.record(GATE.decide(PUSH))
    assert main(["report", "runs/LineWorld", "--replay", "--budget-ms", "1e9"]) == 0
    out = capsys.readouterr().out
    assert "Can I trust it?" in out
    report = Report.load(run / "report.json")
    assert report.measured.effort is not None
    assert report.measured.latency.budget_ms == 1e9
    assert report.measured.actions.probe is not None
    assert report.measured.asking.decisions == 1
    page = (run / "page.html").read_text()
    assert "mine over elsewhere" in page
    assert "of others" not in page
    assert "1 ACT" in page
    assert digest in page
    assert str(run.parent) not in page


def test_report_goes_where_it_is_sent_and_refuses_what_is_not_there(run, capsys, tmp_path):
    before = (run / "page.html").read_bytes()
    assert main(["report", "runs/LineWorld", "--out", "else where.html", "--windows", "9"]) == 0
    assert re.search(r"^Page: else where\.html$", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "else where.html").read_text().startswith("<!doctype html>")
    assert (run / "page.html").read_bytes() == before
    assert main(["report", "."]) == 3
    assert main(["report", "runs/LineWorld", "--windows", "0"]) == 2
    assert main(["report", "runs/LineWorld", "--ledger", "none.sqlite"]) == 2
    shutil.rmtree(run / "episodes-heldout")
    assert main(["report", "runs/LineWorld"]) == 1
    assert "held-out rows" in capsys.readouterr().err


def test_report_writes_a_recording_for_rerun_or_says_what_it_needs(run, capsys, monkeypatch):
    pytest.importorskip("rerun", reason="needs rerun-sdk, which dev installs")
    words = ["report", "runs/LineWorld", "--windows", "60", "--rerun", "look.rrd"]
    before = snapshot(run)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "rerun", None)
        assert main(words) == 2
    assert 'pip install "bb_wm[rerun]"' in capsys.readouterr().err
    assert snapshot(run) == before  # said before anything is done
    assert main(words) == 0
    assert "Look: rerun look.rrd" in capsys.readouterr().out
    with open("look.rrd", "rb") as stream:
        assert stream.read(3) == b"RRF"


@pytest.fixture
def server(run):
    watcher = Watcher(Run.open(run), every=1.0)
    found = serve(watcher, 0)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield watcher, found.server_port
    found.shutdown()
    found.server_close()


def ask(port, method="GET", path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_the_served_page_becomes_the_run_s_own_and_nothing_is_written(run, server):
    watcher, port = server
    before = snapshot(run)
    state = json.loads(ask(port, path="/state.json")[1])
    assert state["status"] == "Trained: 12 of 12 updates."
    code, body, headers = ask(port)
    assert code == 200
    assert headers["Cache-Control"] == "no-store"
    assert b"No verdict yet." in body
    assert b'id="reconstruction"' in body  # curves are there before a checkpoint was looked at
    assert watcher.judge()
    news = json.loads(ask(port, path="/state.json")[1])
    assert news["stamp"] != state["stamp"]
    body = ask(port)[1].decode()
    assert Report.load(run / "report.json").evaluation.tables()[0].rows[0][1] in body
    assert f'data-stamp="{news["stamp"]}"' in body
    assert ask(port)[1].decode() == body  # made once
    assert ask(port, "HEAD")[1] == b""
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "path",
    ["/run.json", "/../run.json", "/%2e%2e/run.json", "/..%2f..%2fetc/passwd", "//etc/passwd",
     "/page.html", "/state.json?x", "/state.json/", "/./", "/?/run.json"],
)  # fmt: skip
def test_the_server_knows_two_addresses_and_no_file(server, path):
    assert ask(server[1], path=path)[0] in (400, 404)


def test_the_server_refuses_other_hosts_and_ways_to_write(server):
    port = server[1]
    assert ask(port, Host=f"evil.example:{port}")[0] == 403
    assert ask(port, Host="")[0] == 403
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(port, method)[0] == 501
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b"400" in raw.recv(4096)
    assert ask(port)[0] == 200  # still there


def test_only_this_machine_is_listened_to(server):
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = {}
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))
                found[name] = socket.inet_ntoa(packed[20:24])
            except OSError:
                continue
    outside = [address for address in found.values() if not address.startswith("127.")]
    for address in outside:
        with pytest.raises(OSError):
            socket.create_connection((address, server[1]), timeout=5).close()


def test_a_torn_log_and_a_lost_checkpoint_do_not_end_the_watch(run, server, capsys):
    watcher, port = server
    with open(run / "metrics.jsonl", "ab") as stream:
        stream.write(b'{"kind": "train", "upda')
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert not watcher.judge()
    assert "Not judged" in capsys.readouterr().err
    code, body, _ = ask(port)
    assert code == 200
    assert b"No verdict yet." in body


def test_inspect_says_where_it_is_and_ends_when_told(run, tmp_path):
    process = start("inspect", "runs/LineWorld", "--port", "0", cwd=tmp_path)
    try:
        port = int(re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        assert ask(port)[0] == 200
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err


def test_a_port_that_is_taken_or_none_is_2(run, server, capsys):
    assert main(["inspect", "runs/LineWorld", "--port", str(server[1])]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["inspect", "runs/LineWorld", "--port", "99999"]) == 2
    assert main(["inspect", "runs/LineWorld", "--every", "0"]) == 2
    assert main(["inspect", "nothing"]) == 3
