"""How the service says no: one exception, which REST and gRPC each render in their own way.

The texts are the service's own as far as they are public: clients match on some of them.
"""

from __future__ import annotations

from dataclasses import dataclass

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}


@dataclass
class ApiError(Exception):
    """A refusal.

    Args:
        code: gRPC's name of it.
        reason: BigQuery's REST reason, as in `invalidQuery`.
        message: For people, and for clients that match on texts.
        status: The HTTP status, if it is not the usual one of `code`.
    """

    code: str
    reason: str
    message: str
    status: int = 0

    def __post_init__(self) -> None:
        self.status = self.status or _STATUS[self.code]

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


def invalid_query(message: str) -> ApiError:
    """The statement is wrong, or more than this server knows."""
    return ApiError("INVALID_ARGUMENT", "invalidQuery", message)


def invalid(message: str) -> ApiError:
    """A request with an impossible value."""
    return ApiError("INVALID_ARGUMENT", "invalid", message)


def not_found(what: str) -> ApiError:
    """There is no such `what`, as in "Table p:d.t"."""
    return ApiError("NOT_FOUND", "notFound", f"Not found: {what}")


def access_denied(message: str) -> ApiError:
    """The principal may not do it."""
    return ApiError("PERMISSION_DENIED", "accessDenied", f"Access Denied: {message}")


def already_exists(what: str) -> ApiError:
    """There is such a `what` already."""
    return ApiError("ALREADY_EXISTS", "duplicate", f"Already Exists: {what}")


def unauthenticated(message: str) -> ApiError:
    """No token, or none that is valid now."""
    return ApiError("UNAUTHENTICATED", "authError", message)
