"""An answer in OpenAI's error shape."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response


class ApiError(Exception):
    """`message` is two sentences; `code` is one of those that clients know."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error",
        code: str | None = None, retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def response(self) -> Response:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else None
        return JSONResponse(self.body, self.status, headers)
