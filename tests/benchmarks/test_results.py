"""The benchmark's book-keeping: what is done stays done, and nobody does it twice."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from benchmarks.foundation import main
from benchmarks.results import Job, Results, work
from tests.diagnose.helpers import LinearModel, linear_episodes

from bb_wm.diagnose import evaluate
from benchmarks import report

SETTINGS = {"rows": 10, "updates": 2, "batch_size": 16, "length": 64}
JOBS = [Job("worlds", "A-v1", "default", seed) for seed in (0, 1, 2)]


def test_a_benchmark_goes_on_where_it_stopped(tmp_path):
    results = Results(tmp_path)
    done: list[int] = []

    def run(job: Job) -> dict[str, float]:
        if job.seed == 1 and len(done) < 2:
            done.append(-1)
            raise KeyboardInterrupt
        done.append(job.seed)
        return {"value": job.seed}

    with pytest.raises(KeyboardInterrupt):
        work(JOBS, results, SETTINGS, run)
    assert done == [0, -1]
    assert work(JOBS, results, SETTINGS, run) == 0
    assert done == [0, -1, 1, 2]
    assert work(JOBS, results, SETTINGS, run) == 0
    assert done == [0, -1, 1, 2]


def test_other_settings_and_torn_files_are_measured_anew(tmp_path):
    results = Results(tmp_path)
    count: list[int] = []

    def run(job: Job) -> dict[str, float]:
        count.append(job.seed)
        return {}

    work(JOBS[:1], results, SETTINGS, run)
    work(JOBS[:1], results, SETTINGS | {"updates": 3}, run)
    assert len(count) == 2
    results.path(JOBS[0]).write_text('{"part": "wor')
    work(JOBS[:1], results, SETTINGS | {"updates": 3}, run)
    assert len(count) == 3


def test_a_failed_job_is_told_and_the_others_go_on(tmp_path, capsys):
    results = Results(tmp_path)

    def run(job: Job) -> dict[str, float]:
        if job.seed == 1:
            raise ValueError("a world that is not there")
        return {}

    assert work(JOBS, results, SETTINGS, run) == 1
    assert [results.done(job, SETTINGS) for job in JOBS] == [True, False, True]
    assert "FAILED, ValueError: a world that is not there" in capsys.readouterr().out


def test_a_job_of_a_living_process_is_left_alone_and_freed_by_its_death(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from benchmarks.results import Job, Results
        with Results(Path({str(tmp_path)!r})).claim(Job("worlds", "A-v1", "default", 0)) as ours:
            print(ours, flush=True)
            time.sleep(60)
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        with Results(tmp_path).claim(JOBS[0]) as ours:
            assert not ours
        with Results(tmp_path).claim(JOBS[1]) as ours:
            assert ours
    finally:
        other.kill()
        other.wait()
    with Results(tmp_path).claim(JOBS[0]) as ours:
        assert ours


def test_the_report_says_mean_and_range_of_the_seeds_and_whether_bars_are_met(tmp_path):
    results = Results(tmp_path / "out")
    errors = []
    for seed, job in enumerate(JOBS):
        evaluation = evaluate(
            LinearModel(matrix=(0.9 - 0.02 * seed) * LinearModel().matrix.numpy()),
            linear_episodes(5, 60, seed),
            training=linear_episodes(5, 60, 9),
        )
        errors.append(evaluation.nrmse("mode", 10))
        results.write(
            job,
            SETTINGS,
            {"evaluation": evaluation.to_json(), "train_seconds": 1.0, "parameters": 4},
        )
    page = tmp_path / "docs" / "benchmarks.md"
    assert main(["report", "--out", str(tmp_path / "out"), "--page", str(page)]) == 0
    text = page.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| A-v1 | default"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    mean = sum(errors) / 3
    assert cells[2] == report._spread(errors)
    assert float(cells[2].split(" ")[0]) == pytest.approx(mean, rel=0.01)
    assert cells[-1] == "missed"  # the linear baseline is exact here, so nothing is below it


def test_a_report_may_keep_what_it_has_no_results_of() -> None:
    old = "# Title\n\nold words\n\n## One\n\n1\n\n### Part\n\na\n\n## Two\n\n2\n"
    new = "# Title\n\nnew words\n\n## Two\n\n22\n\n## Three\n\n3"
    expected = (
        "# Title\n\nnew words\n\n## Three\n\n3\n\n## One\n\n1\n\n### Part\n\na\n\n## Two\n\n22"
    )
    assert report._merged(old, new).strip() == expected


def test_a_report_of_nothing_writes_nothing(tmp_path):
    page = tmp_path / "benchmarks.md"
    assert main(["report", "--out", str(tmp_path / "out"), "--page", str(page)]) == 1
    assert not page.exists()
