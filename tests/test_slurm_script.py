"""Scripts of jobs: as recorded, and run by a real bash with words that mean to break out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slurm_examples import DATA, ID, KEY, SUBMISSIONS, runner, session

from timeshare.reservations.engines.slurm.commands import SETTINGS
from timeshare.reservations.engines.slurm.errors import Unreadable
from timeshare.reservations.engines.slurm.script import (
    MAX_COMMENT,
    Program,
    indices,
    job_name,
    output_path,
    parse_job_name,
    parse_submitted,
    readable,
    sbatch_argv,
    script,
)
from timeshare.reservations.errors import PublicError

SCRIPTS = DATA / "scripts"
STUB = f"""#!{sys.executable} -IS
import json, os, sys
told = {{
    "argv": [word.encode("utf-8", "surrogateescape").decode() for word in sys.argv[1:]],
    "env": {{k.decode(): v.decode() for k, v in os.environb.items()}},
    "stdin": sys.stdin.buffer.read().decode(),
    "cwd": os.getcwd(),
    "pid": os.getpid(),
}}
open(os.environ["TOLD"], "w").write(json.dumps(told))
"""
HOSTILE = st.one_of(
    st.sampled_from(
        [
            "",
            "-rf",
            "--",
            "$(id)",
            "`id`",
            "'",
            '"',
            "\\",
            "\\'",
            "$'x'",
            "a\nb",
            "\n#SBATCH --qos=root",
            "END",
            "é☃",
            "!!",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.text(st.sampled_from("$`'\"\\\n\r\t;&|<>(){}[]*?~#!-= aé"), max_size=40),
)
VARIABLES = st.dictionaries(st.from_regex(r"\AMY_[A-Z0-9_]{1,8}\Z"), HOSTILE, max_size=4)


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_the_script_and_the_words_are_those_recorded(name: str) -> None:
    assert script(SUBMISSIONS[name]) == (SCRIPTS / f"{name}.sh").read_text()
    assert "\n".join(sbatch_argv(SUBMISSIONS[name])) + "\n" == (SCRIPTS / f"{name}.argv").read_text()


def test_nothing_is_recorded_that_nobody_compares() -> None:
    assert {path.stem for path in SCRIPTS.iterdir()} == set(SUBMISSIONS)


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_bash_takes_every_script(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script(SUBMISSIONS[name]), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program called python that writes down what it was given."""
    folder = tmp_path_factory.mktemp("slurm")
    stub = folder / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    return folder


def run(place: Path, text: str, **environment: str) -> dict[str, Any]:
    """Runs a script as Slurm does: bash on a file, nothing to read, a folder of its own."""
    told, file = place / "told.json", place / "slurm_script"
    told.unlink(missing_ok=True)
    file.write_text(text, newline="")
    env = {"PATH": f"{place}/bin:{os.defpath}", "LANG": "C.UTF-8", "TOLD": str(told), **environment}
    process = subprocess.Popen(
        ["bash", str(file)],
        env=env,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")
    answer: dict[str, Any] = json.loads(told.read_text())
    assert answer["pid"] == process.pid  # it took the shell's place: signals for the batch shell arrive at it
    return answer


@settings(max_examples=80, deadline=None)
@given(words=st.lists(HOSTILE, max_size=4), variables=VARIABLES)
def test_hostile_words_and_variables_arrive_unchanged(place: Path, words: list[str], variables: dict[str, str]) -> None:
    program = Program(("python", *words), str(place), variables, KEY)
    told = run(place, script(session([], program=program)))
    assert told["argv"] == words
    assert {name: told["env"][name] for name in variables} == variables
    assert told["stdin"] == f"{KEY}\n"
    assert KEY not in json.dumps([told["argv"], told["env"]])


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(HOSTILE.filter(lambda text: not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text)), min_size=1))
def test_lines_to_read_arrive_unchanged(place: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    told = run(place, script(session([], program=Program(("python",), str(place), {}, text))))
    assert told["stdin"] == text


@settings(max_examples=40, deadline=None)
@given(name=HOSTILE.map(lambda text: text.replace("/", "")).filter(lambda text: text not in ("", ".", "..")))
def test_a_hostile_folder_is_entered(place: Path, name: str) -> None:
    folder = place / "folders" / name[:60]
    folder.mkdir(parents=True, exist_ok=True)
    told = run(place, script(session([], program=Program(("python",), str(folder)))))
    assert told["cwd"] == str(folder)
    assert told["stdin"] == ""


@settings(max_examples=60, deadline=None)
@given(variables=VARIABLES, words=st.lists(HOSTILE, max_size=3), comment=HOSTILE)
def test_no_line_of_a_script_is_a_directive_and_no_option_is_more_than_one_word(
    variables: dict[str, str], words: list[str], comment: str
) -> None:
    submission = session(["--gres=gpu:1"], program=Program(("python", *words), "/", variables, KEY), comment=comment)
    assert [line for line in script(submission).split("\n")[1:] if line.startswith("#")] == []
    assert "\r" not in script(submission)
    argv = sbatch_argv(submission)
    assert all(word.startswith("--") for word in argv[1:])
    shown = [word.removeprefix("--comment=") for word in argv if word.startswith("--comment=")]
    assert len(argv) == len(sbatch_argv(session(["--gres=gpu:1"]))) + len(shown)
    assert all(text.isprintable() and len(text) <= MAX_COMMENT for text in shown)


def test_each_task_of_an_array_gets_what_is_its_own(place: Path) -> None:
    tasks = {
        index: Program(("python", f"it's {index}"), str(place), {"BOTH": "1", "ONE": str(index)}, f"key {index}")
        for index in (0, 3, 11)
    }
    text = script(session([], program=tasks))
    for index in tasks:
        told = run(place, text, SLURM_ARRAY_TASK_ID=str(index))
        assert (told["argv"], told["stdin"]) == ([f"it's {index}"], f"key {index}\n")
        assert (told["env"]["BOTH"], told["env"]["ONE"]) == ("1", str(index))


def test_a_task_that_is_not_in_the_array_runs_nothing(tmp_path: Path) -> None:
    text = script(session([], program={0: Program(("touch", str(tmp_path / "ran")), "/")}))
    env = {"PATH": os.defpath, "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash"], input=text, text=True, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no task 1 in this array\n")
    assert not (tmp_path / "ran").exists()


def test_nothing_runs_elsewhere_when_its_folder_is_not_there(tmp_path: Path) -> None:
    text = script(session([], program=Program(("touch", str(tmp_path / "ran")), str(tmp_path / "gone"))))
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert "gone" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_restarts_by_slurm_count_on_from_the_generation(place: Path) -> None:
    program = Program(("python",), str(place), generation=3)
    text = script(session([], program=program))
    assert run(place, text)["env"]["TIMESHARE_GENERATION"] == "3"
    assert run(place, text, SLURM_RESTART_COUNT="2")["env"]["TIMESHARE_GENERATION"] == "5"


def test_settings_of_the_submission_do_not_reach_sruns_inside_the_job(place: Path) -> None:
    ours = {name: value for name, value in SETTINGS.items() if name.startswith("SLURM_")}
    leaked = {"SLURM_EXPORT_ENV": "NIL", "SLURM_GET_USER_ENV": "1", **ours}
    told = run(place, script(session([], program=Program(("python",), str(place)))), SLURM_JOB_ID="7", **leaked)
    assert {name for name in told["env"] if name.startswith("SLURM_")} == {"SLURM_JOB_ID"}


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"program": Program(("a\0b",), "/")}, ["argv", "NUL"]),
        ({"program": Program(("a",), "/\udc80")}, ["cwd", "UTF-8"]),
        ({"program": Program(("a",), "/", {"A": "\0"})}, ["A is", "NUL"]),
        ({"program": Program(("a",), "/", {"A;id": "1"})}, ["environment is 'A;id'"]),
        ({"program": Program(("a",), "/", {"UID": "0"})}, ["environment is 'UID'"]),
        ({"program": Program(("a",), "/", {}, "a\rb")}, ["stdin", "control characters"]),
        ({"folder": "/home/a\\b"}, ["folder is", "without '\\'"]),
        ({"folder": "/home/\0"}, ["folder is", "NUL"]),
    ],
)
def test_what_no_program_can_be_given_is_refused(changed: dict[str, object], names: list[str]) -> None:
    submission = session([], **changed)
    with pytest.raises(PublicError) as refused:
        print(script(submission), sbatch_argv(submission))
    assert [name for name in names if name not in refused.value.message] == []


def test_a_refusal_does_not_tell_the_key() -> None:
    with pytest.raises(PublicError) as refused:
        script(session([], program=Program(("a",), "/", {}, "secret\0")))
    assert "secret" not in refused.value.message


def test_the_time_limit_is_in_whole_minutes_rounded_up() -> None:
    def time(seconds: float) -> str:
        return next(word for word in sbatch_argv(session([], time_limit_s=seconds)) if word.startswith("--time="))

    assert [time(s) for s in (0, 1, 60, 60.5, 3600)] == ["--time=1", "--time=1", "--time=1", "--time=2", "--time=60"]


def test_a_signal_that_would_come_at_the_start_is_left_out_or_later() -> None:
    def signals(grace_s: float, time_limit_s: float) -> list[str]:
        argv = sbatch_argv(session([], grace_s=grace_s, time_limit_s=time_limit_s))
        return [word for word in argv if word.startswith("--signal")]

    assert signals(120, 3600) == ["--signal=B:INT@120"]
    assert signals(600, 300) == ["--signal=B:INT@240"]
    assert signals(30, 60) == []
    assert signals(0, 3600) == []


def test_sessions_are_not_started_again_by_slurm_and_jobs_may_be() -> None:
    assert "--no-requeue" in sbatch_argv(session([]))
    assert "--requeue" in sbatch_argv(session([], requeue=True))


def test_asking_when_it_would_start_is_the_same_submission() -> None:
    assert sbatch_argv(session([]), test_only=True) == [*sbatch_argv(session([])), "--test-only"]


def test_output_lies_where_the_service_looks_for_it() -> None:
    assert output_path(session([], folder="/home/100%")) == f"/home/100%/timeshare-{ID}.1.log"
    assert f"--output=/home/100%%/timeshare-{ID}.1.log" in sbatch_argv(session([], folder="/home/100%"))
    array = session([], program={4: runner(4)}, folder="/home/a")
    assert output_path(array, 4) == f"/home/a/timeshare-{ID}.1-4.log"
    assert f"--output=/home/a/timeshare-{ID}.1-%a.log" in sbatch_argv(array)


def test_a_job_is_known_by_its_name() -> None:
    assert parse_job_name(job_name(ID, 12)) == (ID, 12)
    for other in ("timeshare-", "timeshare-x", "timeshare-x.0", "timeshare-x.1\n", "x timeshare-x.1", ""):
        assert parse_job_name(other) is None
    with pytest.raises(ValueError, match="no name of a job"):
        job_name("a b", 1)


@given(st.sets(st.integers(0, 60)))
def test_indices_name_each_task_once(numbers: set[int]) -> None:
    named: list[int] = []
    for part in filter(None, indices(numbers).split(",")):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


def test_the_number_of_a_job_is_read_and_nothing_else_is_taken_for_one() -> None:
    assert (parse_submitted("41\n"), parse_submitted("41;testcl\n")) == (41, 41)
    for text in ("", "0", "Submitted batch job 41", "41\n42\n", "-1", "41;", "4 1", "sbatch: 41"):
        with pytest.raises(Unreadable):
            parse_submitted(text)


def test_a_name_for_people_is_one_line() -> None:
    assert readable(" a\n\tb\0\x1b[31m é\udc80 ") == "a b [31m é"
    assert len(readable("x" * 5000)) == MAX_COMMENT
