"""Ends a process when its own stdin ends: python watchdog.py PID.

The page holds the other end. Where the page is killed the tunnel's program would live on; this
small process, which needs the standard library alone, sees the end of its stdin and ends it.
"""

import os
import signal
import sys

if __name__ == "__main__":
    for sig in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C is for the page; it tells us by our stdin
        signal.signal(sig, signal.SIG_IGN)
    sys.stdin.buffer.read()
    try:
        os.kill(int(sys.argv[1]), getattr(signal, "SIGKILL", signal.SIGTERM))
    except OSError:
        pass  # it has ended already
