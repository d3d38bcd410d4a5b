"""How the server answers, faults aside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What `LocalBigQuery.configure` changes; sessions made before a change keep what they had.

    Args:
        message_rows: Rows of a ReadRows message; None goes by `message_bytes`.
        message_bytes: About how large a message is, before compression.
        deal: How rows are dealt to streams. "even": contiguous, equally long. "lopsided": the first
            has half of all rows, the second a quarter, and so on. "empty": as even, but the second
            stream has no rows (the only one, if there is one).
        max_streams: No session has more streams than this.
        default_streams: How many it has if the client does not say.
        compression: What Arrow buffers are compressed with whatever was asked: "none", "lz4",
            "zstd"; None does what was asked.
        session_life_s: After this long a session is expired.
        cache_bytes: How many bytes of encoded messages are kept for later reads.
        require_token: REST and gRPC answer 401 and UNAUTHENTICATED without a valid bearer token.
        token_life_s: How long the tokens live that are issued from now on.
        clock_skew_s: How far this server's clock is ahead, when it judges the time in a JWT.
        filter_pseudo_columns: Whether a session's row_restriction may name _PARTITIONTIME and
            _PARTITIONDATE.
        location: Of every dataset and job.
    """

    message_rows: int | None = None
    message_bytes: int = 2 << 20
    deal: str = "even"
    max_streams: int = 1_000
    default_streams: int = 4
    compression: str | None = None
    session_life_s: float = 6 * 3600
    cache_bytes: int = 1 << 30
    require_token: bool = False
    token_life_s: float = 3600
    clock_skew_s: float = 0
    filter_pseudo_columns: bool = True
    location: str = "US"

    def __post_init__(self) -> None:
        if self.deal not in ("even", "lopsided", "empty"):
            raise ValueError(f"rows cannot be dealt {self.deal!r}")
        if self.compression not in (None, "none", "lz4", "zstd"):
            raise ValueError(f"there is no compression called {self.compression!r}")
