"""Start here: `python3 launch.py`. The first start sets Werkbank up, every start hands over.

Only the standard library is needed. This file stays readable for Pythons as old as 2.7, so that
they can say what is missing; everything else is in `webui/setup/` and `webui/cli.py`.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "Werkbank needs Python 3.11 or newer, and this is Python %d.%d. "  # noqa: UP031
        "Install a newer Python beside it, then start again with it, for example: "
        "python3.11 launch.py" % sys.version_info[:2]
    )

if __name__ == "__main__":
    from webui.setup.start import start

    sys.exit(start(sys.argv[1:]))
