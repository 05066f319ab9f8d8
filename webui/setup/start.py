"""launch.py's work: read the command line, set up where needed, hand over to webui.cli."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from webui import cli
from webui.setup.handover import become
from webui.setup.install import ensure
from webui.setup.pins import ROOT
from webui.setup.pip_run import repeat_command
from webui.setup.talk import SetupFailed, Talk


def start(argv: list[str], root: Path = ROOT) -> int:
    """Run one command of Werkbank. Returns an exit code only where set-up failed, and on
    Windows; elsewhere this process becomes the command."""
    for stream in (sys.stdout, sys.stderr):  # an old console cannot show every file name
        _forgiving(stream)
    arguments = cli.absolute_paths(argv, Path.cwd())
    args = cli.parse(arguments)  # a wrong option is refused before minutes of set-up
    as_json = bool(getattr(args, "json", False))
    talk = Talk(sys.stderr if as_json else sys.stdout)
    try:
        python = ensure(root, test=args.command == "test", talk=talk)
    except KeyboardInterrupt:
        talk.line()
        talk.line(f"Set-up was stopped. Continue it with: {repeat_command()}", "yellow")
        return 130
    except (SetupFailed, OSError) as error:
        failure = error if isinstance(error, SetupFailed) else _system_failure(error)
        talk.line(failure.message, "red")
        talk.line(failure.hint)
        return _doctor_alone(args, failure) if args.command == "doctor" else 1
    return become([python, "-m", "webui.cli", *arguments], root)


def _forgiving(stream: Any) -> None:
    if hasattr(stream, "reconfigure"):  # not where a test or a window system replaced it
        stream.reconfigure(errors="replace")


def _system_failure(error: OSError) -> SetupFailed:
    """What the operating system refused, in two sentences."""
    what = error.strerror or type(error).__name__
    where = f" ({error.filename})" if error.filename else ""
    return SetupFailed(
        f"Set-up was stopped by the system: {what}{where}.",
        f"Mend that, then continue with: {repeat_command()}",
    )


def _doctor_alone(args: Any, failure: SetupFailed) -> int:
    """The doctor without an environment: it needs the standard library alone."""
    from webui.doctor.report import report

    print()
    report(home=args.home, as_json=args.json, setup_failure=failure)
    return 1
