"""What the queue says about jobs, as recorded, and what no answer means."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.scheduler import Answer, job_states, parse_qstat, parse_squeue

# Slurm 22.05: 1 runs in a partition, 2 is an array whose parts 0 and 1 run as jobs 5 and 6, 3 is held, 4 has ended
SQUEUE = """\
4|4|4|COMPLETED
2_2|2|2|PENDING
2_3|2|2|PENDING
3|3|3|PENDING
2_0|5|2|RUNNING
2_1|6|2|RUNNING
1|1|1|RUNNING
"""
OPENPBS = """\
Job id            Name             User              Time Use S Queue
----------------  ---------------- ----------------  -------- - -----
9.Nile-extn       STDIN            root              00:00:00 R workq           
10[].Nile-extn    STDIN            root                     0 B workq           
10[3].Nile-extn   STDIN            root              00:00:00 X workq           
11.Nile-extn      foundry-dft      root                     0 H workq           
12.Nile-extn      foundry-dft      root              00:00:01 M workq           
8113472.aurora-p* foundry-gpu      user              00:10:00 S prod            
"""  # noqa: W291
TORQUE = """\
Job ID                    Name             User            Time Use S Queue
------------------------- ---------------- --------------- -------- - -----
4100326.master             Po2_Diss_CCSD    username        152:53:3 R long           
4100327.master             Po2_Diss_CCSD    username        00:00:00 C long           
4100328.master             Po2_Diss_CCSD    username               0 Q long           
"""  # noqa: W291


def program(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder before all others in PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_slurm_states():
    ids = ["1", "2", "2_0", "2_2", "2_9", "3", "4", "5", "77"]
    assert parse_squeue(Answer(0, SQUEUE, ""), ids) == {
        "1": "running",
        "2": "running",
        "2_0": "running",
        "2_2": "pending",
        "2_9": "gone",
        "3": "pending",
        "4": "gone",
        "5": "running",
        "77": "gone",
    }


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CONFIGURING", "pending"),
        ("REQUEUE_HOLD", "pending"),
        ("COMPLETING", "running"),
        ("SUSPENDED", "running"),
        ("PREEMPTED", "gone"),
        ("TIMEOUT", "gone"),
        ("NODE_FAIL", "gone"),
        ("SOMETHING_NEW", "unknown"),
    ],
)
def test_slurm_words(word, state):
    assert parse_squeue(Answer(0, f"8|8|8|{word}\n", ""), ["8"]) == {"8": state}


def test_an_array_is_gone_only_as_a_whole():
    ended = "2_0|2|2|COMPLETED\n2_1|3|2|FAILED\n"
    assert parse_squeue(Answer(0, ended, ""), ["2"]) == {"2": "gone"}
    assert parse_squeue(Answer(0, f"{ended}2_2|4|2|PENDING\n", ""), ["2"]) == {"2": "pending"}
    assert parse_squeue(Answer(0, f"{ended}2_2|4|2|WHATEVER\n", ""), ["2"]) == {"2": "unknown"}


def test_slurm_complains_about_one_unknown_job_only():
    answer = Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert parse_squeue(answer, ["777"]) == {"777": "gone"}
    assert parse_squeue(answer, ["777", "778"]) == {}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"),
        Answer(1, "", "slurm_load_jobs error: Socket timed out on send/recv operation\n"),
        Answer(0, "", "squeue: error: Lost connection\n"),
        Answer(1, SQUEUE, ""),
        Answer(0, "Maintenance today: the queue is closed\n", ""),
        Answer(127, "", "squeue: command not found\n"),
    ],
)
def test_slurm_without_an_answer(answer, caplog):
    assert parse_squeue(answer, ["777"]) == {}
    assert caplog.records[0].levelno == logging.WARNING


def test_pbs_states():
    errors = (
        "qstat: Unknown Job Id 7.Nile-extn\n"
        "qstat: 6.Nile-extn Job has finished, use -x or -H to obtain historical job information\n"
    )
    ids = [
        "6",
        "7.Nile-extn",
        "9",
        "9.Nile-extn",
        "10[].Nile-extn",
        "10[3].Nile-extn",
        "11",
        "12",
        "8113472.aurora-pbs",
    ]
    assert parse_qstat(Answer(35, OPENPBS, errors), [*ids, "13"]) == dict(
        zip(
            ids, ["gone", "gone", "running", "running", "running", "gone", "pending", "unknown", "running"], strict=True
        )
    )


def test_torque_states():
    errors = "qstat: Unknown Job Id Error 3884934.titan-moab.ccs.ornl.gov\n"
    ids = ["4100326.master", "4100327.master", "4100328", "3884934"]
    states = parse_qstat(Answer(153, TORQUE, errors), ids)
    assert list(states.values()) == ["running", "gone", "pending", "gone"]


@pytest.mark.parametrize("errors", ["qstat: cannot connect to server pbs (errno=111)\n", "", "Connection refused\n"])
def test_pbs_without_an_answer(errors, caplog):
    assert parse_qstat(Answer(1, "", errors), ["7", "8"]) == {}
    assert "qstat ended with 1" in caplog.text


def test_the_command_sees_every_job(programs, monkeypatch):
    """Neither the user's own filters nor his language reach it."""
    program(programs, "squeue", 'echo "$@" >> "$SEEN"; env | grep -E "SQUEUE|LC_ALL" >> "$SEEN"; echo "1|1|1|RUNNING"')
    monkeypatch.setenv("SEEN", str(programs / "seen"))
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert job_states(["1", "3", "1"], "slurm") == {"1": "running", "3": "gone"}
    assert (programs / "seen").read_text().splitlines() == [
        "--noheader --all --states=all --array --format=%i|%A|%F|%T --jobs=1,3",
        "LC_ALL=C",
    ]


def test_many_jobs_are_asked_for_in_parts(programs, monkeypatch):
    program(programs, "qstat", 'echo "$#" >> "$SEEN"; for i in "$@"; do echo "$i.x N U 0 Q batch"; done')
    monkeypatch.setenv("SEEN", str(programs / "seen"))
    states = job_states([str(number) for number in range(450)], "pbs")
    assert set(states.values()) == {"pending"}
    assert len(states) == 450
    assert (programs / "seen").read_text().split() == ["200", "200", "50"]


def test_one_part_without_an_answer_leaves_the_others(programs):
    program(programs, "squeue", 'case "$*" in *=0,*) exit 1;; *) echo "300|300|300|PENDING";; esac')
    states = job_states([str(number) for number in range(301)], "slurm")
    assert (states["0"], states["199"], states["200"], states["300"]) == ("unknown", "unknown", "gone", "pending")


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_no_program(scheduler, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_states(["1"], scheduler) == {"1": "unknown"}
    assert "cannot be run" in caplog.text


def test_a_silent_scheduler(programs, caplog):
    """A wrapper's child that holds the pipe open is ended too."""
    program(programs, "squeue", f"(sleep 60; touch {programs}/lived) & sleep 60")
    start = time.monotonic()
    assert job_states(["1", "2"], "slurm", timeout=0.3) == {"1": "unknown", "2": "unknown"}
    assert time.monotonic() - start < 5
    assert "has not answered in 0.3 s" in caplog.text


def test_a_wrapper_that_ends_before_its_child(programs):
    program(programs, "squeue", "sleep 60 & exit 0")
    start = time.monotonic()
    assert job_states(["1"], "slurm", timeout=0.3) == {"1": "unknown"}
    assert time.monotonic() - start < 5


def test_what_is_no_id_is_not_asked_for(programs, caplog):
    program(programs, "squeue", 'case "$*" in *rm*,*|*--jobs=-*) exit 9;; esac')
    assert job_states(["", "-1", "5;rm", "5"], "slurm") == {
        "": "unknown",
        "-1": "unknown",
        "5;rm": "unknown",
        "5": "gone",
    }
    assert "No ids of slurm" in caplog.text
    assert job_states([], "slurm") == {}


def test_unknown_scheduler():
    with pytest.raises(ConfigurationError, match="Did you mean 'slurm'"):
        job_states(["1"], "slrum")
