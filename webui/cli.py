"""The command line. Needs the standard library until one of its commands runs.

launch.py reads the command line with this file before anything is installed; afterwards the
environment's Python runs it as `python -m webui.cli`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PATH_OPTIONS = ("--home",)  # relative to where the user stands, not to the checkout


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of help, what it adds to its parser, what it does."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="H",
        help="the address to listen on (default: 127.0.0.1, this computer only)")  # fmt: skip
    add("--port", type=_port, metavar="P", help="the port (default: 7860, or the next free one)")
    _add_home(parser)
    add("--no-browser", action="store_true", help="do not open a browser")
    add("--share", choices=("chat",), help="show a chat to others at once, needs --model")
    add("--model", metavar="REF", help="the model to share, by its name, such as "
        "smollm2-135m-instruct")  # fmt: skip
    door = parser.add_mutually_exclusive_group()
    door.add_argument(
        "--token", metavar="T",
        help="the token to ask for (default: a random one). Other users of this computer can read "
        "a command line: the variable WERKBANK_TOKEN says the same unseen",
    )  # fmt: skip
    door.add_argument("--no-token", action="store_true", help="let everybody in who can connect")


def _run_serve(args: argparse.Namespace) -> int:
    # Nearly all that a start makes stays: looking through it for garbage took a sixth of the time.
    # `serve` turns it on again when the page answers.
    gc.disable()
    try:
        from webui.server import serve

        return serve(
            # Named, not imported: webui does not know its tabs, only the command line puts them in.
            tabs=lambda: importlib.import_module("tabs").TABS,
            host=args.host, port=args.port, home=args.home, browser=not args.no_browser,
            token=args.token or os.environ.get("WERKBANK_TOKEN"), no_token=args.no_token,
            share=args.model if args.share else None,
        )  # fmt: skip
    finally:
        gc.enable()


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pytest_args", nargs="*", metavar="ARG", help="goes to pytest as it is, options too"
    )


def _run_test(args: argparse.Namespace) -> int:
    from webui import suite
    from webui.setup import chromium, pins

    browser = chromium.provide()
    if not browser:
        print(
            f"!!! NO CHROMIUM, so the browser tests are skipped. To run them: {chromium.advice()}."
        )
    return suite.run(args.pytest_args, pins.ROOT, os.environ | {chromium.VARIABLE: browser})


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", nargs="?", type=Path, metavar="SPEC.json", help="what to train")
    parser.add_argument("--resume", type=_folder, metavar="JOB_FOLDER",
        help="go on with this job, from its last checkpoint")  # fmt: skip
    _add_home(parser)


def _run_train(args: argparse.Namespace) -> int:
    from webui.training import train

    return train(args.spec, args.resume, args.home)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("task", nargs="?", choices=("chat", "image", "speech"), help="one task (default: all)")
    add("--minutes", metavar="N", help="how long a page is open for its memory (default: 2)")
    add("--hour", action="store_true", help="the same as --minutes 60")
    add("--quick", action="store_true", help="once each, to see whether all of it runs")
    add("--json", dest="record", metavar="FILE", help="write the record of this run there too")
    _add_home(parser)


def _run_bench(args: argparse.Namespace) -> int:
    from benchmarks.run import main as bench

    if args.home is not None:
        os.environ["WERKBANK_HOME"] = str(args.home)
    words = [args.task] if args.task else []
    words += ["--hour"] * args.hour + ["--quick"] * args.quick
    for option, value in (("--minutes", args.minutes), ("--json", args.record)):
        words += [option, value] if value else []
    return int(bench(words))


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    _add_home(parser)


def _run_doctor(args: argparse.Namespace) -> int:
    from webui.doctor.report import report

    return report(home=args.home, as_json=args.json)


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=_folder, metavar="DIR",
        help="the folder of conversations, jobs and settings (default: WERKBANK_HOME)",
    )  # fmt: skip


COMMANDS = {
    "serve": Command("serve the page in this browser (the default)", _add_serve, _run_serve),
    "test": Command("run all tests, a real browser included", _add_test, _run_test),
    "train": Command("run one job in this terminal, until it is finished", _add_train, _run_train),
    "bench": Command("measure this computer and print a table", _add_bench, _run_bench),
    "doctor": Command("say what is installed, what is wrong, and which command mends it",
                      _add_doctor, _run_doctor),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="launch.py", allow_abbrev=False,
        description="Werkbank: one graphics card, every task, in one browser page. "
        "The first start sets up what is missing.",
        epilog="Without a command it serves. 'launch.py COMMAND --help' says more.",
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(
            commands.add_parser(
                name, help=command.help, description=command.help, allow_abbrev=False
            )
        )
    return top


def parse(argv: list[str]) -> argparse.Namespace:
    """The command and its options. Ends the process on --help (0) and on a wrong option (2)."""
    if argv[:1] == ["test"] and not {"-h", "--help"} & set(argv[1:2]):
        return argparse.Namespace(command="test", pytest_args=argv[1:])  # pytest's own options
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = ["serve", *argv]
    whole = parser()
    args = whole.parse_args(argv)
    if args.command == "serve" and bool(args.share) != bool(args.model):
        whole.error("--share and --model go together. Give both, or neither.")
    if args.command == "train" and not (args.spec or args.resume):
        whole.error("train needs a SPEC.json, or --resume with the folder of a job.")
    return args


def absolute_paths(argv: list[str], folder: Path) -> list[str]:
    """The same words with every path made absolute, since the command runs in the checkout."""
    words = list(argv)

    def absolute(value: str) -> str:
        return str(folder / Path(value).expanduser()) if value.strip() else value  # else refused

    if words[:1] == ["test"]:  # pytest's paths are the checkout's
        return words
    more = {"bench": ("--json",), "train": ("--resume",)}.get(words[0] if words else "", ())
    paths = (*PATH_OPTIONS, *more)
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in paths and equals:
            words[i] = f"{option}={absolute(value)}"
        elif i and (words[i - 1] in paths or (words[0] == "train" and word[:1] not in ("-", ""))):
            words[i] = absolute(word)
    return words


def _folder(text: str) -> Path:
    if not text.strip():  # an empty variable, as in --home "$X": not the current folder
        raise argparse.ArgumentTypeError(f"{text!r} is no folder. Name one, or leave it out.")
    return Path(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port. Use a number from 1 to 65535.")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    return COMMANDS[args.command].run(args)


if __name__ == "__main__":
    sys.exit(main())
