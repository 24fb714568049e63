"""Starts stages as processes without importing PyTorch anew for each: forks of one process that has it already.

Reads one JSON request a line: job, arguments, log (a file for both outputs), faults (names in `injections`, with their
arguments). Answers each with the process id, and after one more line with the exit status once it has ended.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

from tests.faults import injections

JOBS = ("synth_job", "qat_job")


def main() -> None:
    """Serve requests until standard input ends."""
    mains = {job: importlib.import_module(f"{job}.__main__") for job in JOBS}
    for job in JOBS:
        importlib.import_module(f"{job}.job")
    importlib.import_module("webdataset")
    print("ready", flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(mains[request["job"]].main, request)
        print(child, flush=True)
        sys.stdin.readline()  # until then the process keeps its number, ended or not, and can be killed safely
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(command: Any, request: dict[str, Any]) -> None:
    import typer

    code = 1
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        for name, arguments in request["faults"]:
            getattr(injections, name)(*arguments)
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(command)
        app(request["arguments"], standalone_mode=False)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
