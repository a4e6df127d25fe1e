"""What was tried and what came of it: the table of docs/reliability.md, kept in step with the outcomes."""

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy import job as jobs
from understudy.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- outcomes -->", "<!-- end of outcomes -->"
HEADER = "| what | inputs | what came of it |\n|---|---:|---|\n"
collect_ignore_glob = ["workers/*"]  # scripts, run as processes of their own


@dataclass(frozen=True)
class Answer:
    """What a verb left."""

    status: int
    said: str

    @property
    def is_one_line(self):
        return bool(re.fullmatch(r"understudy: [^\n]+\n", self.said)) and "Traceback" not in self.said


@pytest.fixture
def cli(monkeypatch):
    """A function that runs a verb in this process as the command line does; a crash is status 1."""
    monkeypatch.setattr(jobs, "write_run_report", lambda folder: folder)  # pages have tests of their own

    def run(*arguments):
        said = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        try:
            with redirect_stderr(said), redirect_stdout(io.StringIO()):
                main()
        except SystemExit as end:
            return Answer(end.code or 0, said.getvalue())
        except BaseException as error:
            return Answer(1, f"Traceback: {error!r}")
        return Answer(0, said.getvalue())

    return run


@pytest.fixture(scope="session")
def table(request):
    """A function that takes a line of the table: it must stand in the page, or is written there on request."""
    lines = {}

    def outcome(what, inputs, result):
        line = f"| {what} | {inputs} | {result} |"
        print(line)
        lines[what] = line
        if not request.config.getoption("--write-reliability"):
            assert line in PAGE.read_text().splitlines(), (
                f"docs/reliability.md must say {line!r}; write it with: pytest tests/faults --write-reliability"
            )

    yield outcome
    if request.config.getoption("--write-reliability"):
        before, _, rest = PAGE.read_text().partition(BEGIN)
        old, _, after = rest.partition(END)
        kept = {line.split(" | ")[0][2:]: line for line in old.splitlines()[3:] if line.startswith("| ")}
        body = "\n".join((kept | lines).values())
        PAGE.write_text(f"{before}{BEGIN}\n{HEADER}{body}\n{END}{after}")
