"""Errors as clients of the OpenAI protocol read them: `{"error": {message, type, code}}`."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

CLIENT_GONE = 499
"""Nobody waits for this answer any more. Not 409 or 429: the `openai` client repeats those."""


class ApiError(HTTPException):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        code: short name for programs.
        message: sentence for people.
        headers: more headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        return {"error": {"message": self.detail, "type": kind, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status_code, self.headers)
