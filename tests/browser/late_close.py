"""A way to the server on which the end of Gradio's event stream comes late, as on a busy line."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

LATE = 0.5  # seconds
CLOSE = b'data: {"msg":"close_stream"'


@contextlib.contextmanager
def late_close(port: int) -> Iterator[int]:
    """A TCP port that hands everything on to `port` here, the close of a stream late."""

    class Line(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=hand_on, args=(server, self.request))
                back.start()
                hand_on(self.request, server)
                back.join()

    class Proxy(socketserver.ThreadingTCPServer):
        block_on_close = False  # the page is closed later

    with Proxy(("127.0.0.1", 0), Line) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        yield proxy.server_address[1]
        proxy.shutdown()
        serving.join()


def hand_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            # The close may share a chunk with what comes before it, which is not late.
            before, close, after = data.partition(CLOSE)
            target.sendall(before)
            if close:
                time.sleep(LATE)
                target.sendall(close + after)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
