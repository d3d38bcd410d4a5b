"""The daemon's settings: what they are called, what they mean, and what they are by default.

`SETTINGS` describes each setting once. The command line makes a flag, a variable and a key of the
settings file out of every entry; a value comes from the first of these that has one:

    1. a flag            --memory-budget 4GiB
    2. the environment   FAUCETD_MEMORY_BUDGET=4GiB
    3. the settings file memory_budget = "4GiB"      (--config FILE or FAUCETD_CONFIG)
    4. the default

Settings of a warehouse are a table of the file: `project` of `[bigquery]` is `--bigquery-project`
and FAUCETD_BIGQUERY_PROJECT.

A value is never merged from two of them: `--allowed-roots /a` replaces the list in the file.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from faucet_client.address import Address, builtin_address, parse_address
from faucetd.endpoint import Endpoint, parse_endpoint
from faucetd.errors import ConfigError
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.machine import MemoryLimit, cpu_count, memory_limit
from faucetd.sizes import format_size, parse_size

LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")

VARIABLE_PREFIX = "FAUCETD_"
CONFIG_VARIABLE = "FAUCETD_CONFIG"
"""Names the settings file where `--config` does not."""

DEFAULT_BUDGET_PERCENT = 25
"""Trainers and warehouses' readers live on the same machine, so most of it is left to them."""

MAX_BUDGET_PERCENT = 80
"""Shared memory is charged to the daemon's cgroup, and its processes need room beside it."""

COMPRESSIONS = ("none", "lz4", "zstd")

MAX_STREAMS = 1_000
"""The service's own limit a read session (BigQuery's quotas page)."""

MAX_LABEL_CHARACTERS = 63

_PROJECT = r"[A-Za-z0-9][A-Za-z0-9:._-]*"
"""Loosely: local servers have short ones, and some old ones are domain.com:project."""

MAX_DEFAULT_WORKERS = 4
"""More workers than this pay off for few tables, and each takes memory of its own."""


@dataclass(frozen=True)
class Settings:
    """The settings of one daemon, complete and of the right types.

    Attributes:
        listen: The Unix socket that clients connect to.
        memory_budget: Bytes that prepared chunks may take in shared memory.
        workers: Processes that read the source and make chunks.
        allowed_roots: Folders and files under which clients may name files. They are as the person
            wrote them: whoever compares paths with them resolves symbolic links on both sides.
        allowed_uids: Users whose processes may connect.
        scratch_dir: Folder for what the daemon keeps on disk: results of views and queries.
        dealt_budget: Bytes of scratch_dir that rows dealt to chunks by hash may take; None for half
            of what is free there.
        spill_dir: Folder for copies of prepared chunks; None for no spill tier.
        spill_budget: Bytes that they may take; None for a share of what the disk has left.
        log_level: The least severe messages that are logged.
        metrics: Where Prometheus metrics are to be had; None for nowhere.
        bigquery: How to reach BigQuery.
    """

    listen: Address
    memory_budget: int
    workers: int
    allowed_roots: tuple[Path, ...]
    allowed_uids: frozenset[int]
    scratch_dir: Path
    dealt_budget: int | None
    spill_dir: Path | None
    spill_budget: int | None
    log_level: LogLevel
    metrics: Endpoint | None
    bigquery: BigQuerySettings


@dataclass(frozen=True)
class Setting:
    """One setting, for every place where it can be written.

    Attributes:
        name: What it is called everywhere: its attribute in `Settings`, or, of a table's setting,
            the table and its key in it.
        parse: Reads one value, as text or as TOML has it. Raises ValueError.
        default: Makes the default, which may depend on the machine.
        default_text: The default, for a person.
        metavar: What stands for a value in the help.
        help: What it does, for a person.
        separator: For a list, what stands between its values in the environment variable.
        bare: What its flag means without a value, as text; None where it needs one.
        table: The table of the settings file that it is in, or "" for none.
    """

    name: str
    parse: Callable[[object], object]
    default: Callable[[], Any]
    default_text: str
    metavar: str
    help: str
    separator: str | None = None
    bare: str | None = None
    table: str = ""

    @property
    def key(self) -> str:
        """Its key in the settings file, or in its table there."""
        return self.name.removeprefix(f"{self.table}_") if self.table else self.name

    @property
    def place(self) -> str:
        """Its place in the settings file, for a person."""
        return f"[{self.table}] {self.key}" if self.table else self.key

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return VARIABLE_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    def from_toml(self, value: object) -> object:
        """Reads the value that a settings file has.

        Raises:
            ValueError: it is not of the kind that this setting wants.
        """
        if self.separator is None:
            return self.parse(value)
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list: write [ … ], also around a single value")
        return tuple(self.parse(item) for item in value)


def _parse_listen(value: object) -> Address:
    try:
        return parse_address(_text(value))
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _parse_budget(value: object) -> int:
    nbytes = parse_size(value) if isinstance(value, str) else _whole_number(value)
    if nbytes < 1:
        raise ValueError("a budget must be at least one byte")
    return nbytes


def _parse_workers(value: object) -> int:
    workers = _whole_number(value)
    if workers < 1:
        raise ValueError(f"at least one worker is needed, not {workers}")
    return workers


def _parse_uid(value: object) -> int:
    uid = _whole_number(value)
    if uid < 0:
        raise ValueError(f"{uid} is not a user's number")
    return uid


def _parse_path(value: object) -> Path:
    text = _text(value)
    if not os.path.isabs(text):
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(os.path.normpath(text))


def _parse_metrics(value: object) -> Endpoint:
    return parse_endpoint(_text(value))


def _parse_log_level(value: object) -> LogLevel:
    if value not in LOG_LEVELS:
        raise ValueError(f"{value!r} is none of {', '.join(LOG_LEVELS)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text: write it in quotation marks")
    return value


def _whole_number(value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a whole number") from None
    # A bool is an int to Python, but not to whoever wrote `workers = true`.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _parse_credentials(value: object) -> str:
    text = _text(value)
    if text in ("default", "anonymous") or os.path.isabs(text):
        return text
    raise ValueError(
        f'{text!r} is neither "default" (application-default credentials), nor "anonymous", nor '
        "the absolute path of a key file"
    )


def _parse_compression(value: object) -> str:
    if value not in COMPRESSIONS:
        raise ValueError(f"{value!r} is none of {', '.join(COMPRESSIONS)}")
    return str(value)


def _parse_streams(value: object) -> int:
    streams = _whole_number(value)
    if not 1 <= streams <= MAX_STREAMS:
        raise ValueError(f"{streams} is not a number from 1 to {MAX_STREAMS:,}")
    return streams


def _parse_bytes(value: object) -> int:
    nbytes = parse_size(value) if isinstance(value, str) else _whole_number(value)
    if nbytes < 1:
        raise ValueError("at least one byte is needed")
    return nbytes


def _parse_label(value: object) -> tuple[str, str]:
    key, separator, label = _text(value).partition("=")
    if not (key and separator):
        raise ValueError(f"{value!r} is not a label: write it as key=value")
    # https://cloud.google.com/bigquery/docs/labels-intro#requirements
    if not (key[0].isalpha() and _serves_in_label(key) and _serves_in_label(label)):
        raise ValueError(
            f"{value!r} is no label of BigQuery's: key and value have at most "
            f"{MAX_LABEL_CHARACTERS} lower-case letters, digits, - and _, and a key begins with a "
            "letter"
        )
    return key, label


def _serves_in_label(text: str) -> bool:
    return len(text) <= MAX_LABEL_CHARACTERS and all(
        one in "-_" or (one.isalnum() and one == one.lower()) for one in text
    )


def _parse_project(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_PROJECT, text):
        raise ValueError(f"{text!r} is no project: write its id, such as my-project")
    return text


def _parse_result_dataset(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(rf"({_PROJECT}\.)?\w+", text, re.ASCII):
        raise ValueError(f"{text!r} is no dataset: write dataset, or project.dataset")
    return text


def _parse_api_endpoint(value: object) -> str:
    text = _text(value)
    try:
        url = urlsplit(text)
        serves = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # brackets or a port that are none
        serves = False
    if not serves or re.search(r"\s", text) or url.query or url.fragment:
        raise ValueError(
            f"{text!r} is not the URL of a server: write http://host:port or https://host"
        )
    if url.path.strip("/"):
        raise ValueError(
            f"{text!r} has the path {url.path!r}, which is appended by itself: write "
            f"{url.scheme}://{url.netloc}"
        )
    return text.rstrip("/")


def _parse_storage_endpoint(value: object) -> str:
    text = _text(value)
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):([0-9]{1,5})", text, re.ASCII)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise ValueError(
            f"{text!r} is not host:port: write it without http://, such as 127.0.0.1:9060"
        )
    return text


def _parse_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError(f"{value!r} is neither true nor false")


def _number_above(least: float, what: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is not a number")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number") from None
        if not least < number < math.inf:
            raise ValueError(f"{what} must be above {least:g}, not {value!r}")
        return number

    return parse


_parse_seconds = _number_above(0, "a time in seconds")
_parse_price = _number_above(0, "a price")


def default_memory_budget(limit: MemoryLimit) -> int:
    """The default memory budget, in bytes, where `limit` binds."""
    return limit.nbytes * DEFAULT_BUDGET_PERCENT // 100


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="listen",
        parse=_parse_listen,
        default=builtin_address,
        default_text="$XDG_RUNTIME_DIR/faucetd/faucetd.sock, else /tmp/faucetd-UID/faucetd.sock",
        metavar="ADDRESS",
        help="Unix socket to listen on, as unix:///folder/faucetd.sock.",
    ),
    Setting(
        name="memory_budget",
        parse=_parse_budget,
        default=lambda: default_memory_budget(memory_limit()),
        default_text=(
            f"{DEFAULT_BUDGET_PERCENT} % of the container's memory limit or of the machine's memory"
        ),
        metavar="SIZE",
        help=(
            "Shared memory for prepared chunks, such as 2GiB, 512MB or a number of bytes. At most "
            f"{MAX_BUDGET_PERCENT} % of the memory there is."
        ),
    ),
    Setting(
        name="workers",
        parse=_parse_workers,
        default=lambda: min(MAX_DEFAULT_WORKERS, cpu_count()),
        default_text=f"the number of processors, at most {MAX_DEFAULT_WORKERS}",
        metavar="NUMBER",
        help="Processes that read tables and make chunks.",
    ),
    Setting(
        name="allowed_roots",
        parse=_parse_path,
        default=tuple,
        default_text="none: every file is refused until a folder is named",
        metavar="PATH",
        help="Folder under which clients may open files. Repeat it for several.",
        separator=os.pathsep,
    ),
    Setting(
        name="allowed_uids",
        parse=_parse_uid,
        default=lambda: (os.getuid(),),
        default_text="the daemon's own user",
        metavar="UID",
        help="User whose processes may connect, by number. Repeat it for several.",
        separator=",",
    ),
    Setting(
        name="scratch_dir",
        parse=_parse_path,
        # Not under /tmp, which often is memory itself.
        default=lambda: Path(f"/var/tmp/faucetd-{os.getuid()}"),
        default_text="/var/tmp/faucetd-UID",
        metavar="PATH",
        help="Folder on disk for results of views and queries; made if it is missing.",
    ),
    Setting(
        name="dealt_budget",
        parse=_parse_bytes,
        default=lambda: None,
        default_text="half of what is free in scratch_dir when the daemon starts",
        metavar="SIZE",
        help='Disk in scratch_dir for the rows of files with chunking="hash", such as 100GiB.',
    ),
    Setting(
        name="spill_dir",
        parse=_parse_path,
        default=lambda: None,
        default_text="none: chunks that memory cannot hold are read from the source again",
        metavar="PATH",
        help=(
            "Folder on a fast local disk for copies of prepared chunks; made if it is missing, "
            "private to this daemon. They are used instead of the source, also after a restart."
        ),
    ),
    Setting(
        name="spill_budget",
        parse=_parse_budget,
        default=lambda: None,
        default_text="80 % of what the disk of spill_dir has left",
        metavar="SIZE",
        help="What the copies in spill_dir may take, such as 200GiB.",
    ),
    Setting(
        name="log_level",
        parse=_parse_log_level,
        default=lambda: "info",
        default_text="info",
        metavar="LEVEL",
        help=f"Least severe messages to log: {', '.join(LOG_LEVELS)}.",
    ),
    Setting(
        name="metrics",
        parse=_parse_metrics,
        default=lambda: None,
        default_text="nowhere",
        metavar="ADDRESS",
        help=(
            "Where Prometheus metrics are served by HTTP: a port of this machine alone, such as "
            "127.0.0.1:9464, or a Unix socket, as unix:///folder/metrics.sock."
        ),
    ),
)
"""Every setting, those of warehouses after the daemon's own."""


def _bigquery(
    key: str,
    parse: Callable[[object], object],
    metavar: str,
    text: str,
    default_text: str = "none",
    separator: str | None = None,
    bare: str | None = None,
) -> Setting:
    """A setting of `[bigquery]`; its default is the one of `BigQuerySettings`."""
    default = getattr(BigQuerySettings(), key)
    return Setting(
        name=f"bigquery_{key}",
        parse=parse,
        default=lambda: default,
        default_text=default_text,
        metavar=metavar,
        help=text,
        separator=separator,
        bare=bare,
        table="bigquery",
    )


SETTINGS += (
    _bigquery(
        "project",
        _parse_project,
        "PROJECT",
        "Project that BigQuery's jobs and read sessions are billed to.",
        "the credentials' own",
    ),
    _bigquery(
        "credentials",
        _parse_credentials,
        "CREDENTIALS",
        "Whose rights BigQuery is read with: default, anonymous (for local servers), or the "
        "absolute path of a key file.",
        "default: application-default credentials",
    ),
    _bigquery(
        "api_endpoint",
        _parse_api_endpoint,
        "URL",
        "BigQuery's REST API, as http://127.0.0.1:9050.",
        "Google's",
    ),
    _bigquery(
        "storage_endpoint",
        _parse_storage_endpoint,
        "HOST:PORT",
        "BigQuery's Storage Read API, as 127.0.0.1:9060.",
        "Google's",
    ),
    _bigquery(
        "storage_insecure",
        _parse_flag,
        "BOOLEAN",
        "Whether the storage endpoint speaks plain HTTP/2, as local servers do: true or false; the "
        "flag alone is true.",
        "false",
        bare="true",
    ),
    _bigquery(
        "max_streams",
        _parse_streams,
        "NUMBER",
        "Streams that a table is read in at most.",
        "four a worker",
    ),
    _bigquery(
        "compression",
        _parse_compression,
        "NAME",
        "Compression on the wire: none, lz4 or zstd. It pays where the network is slow.",
        "none",
    ),
    _bigquery(
        "max_bytes_billed",
        _parse_bytes,
        "SIZE",
        "What opening a dataset and a pass over it may each be billed for at most, such as 100GiB.",
        "no limit",
    ),
    _bigquery(
        "labels",
        _parse_label,
        "KEY=VALUE",
        "Label of every job. Repeat it for several.",
        separator=",",
    ),
    _bigquery(
        "result_dataset",
        _parse_result_dataset,
        "DATASET",
        "Dataset that results of queries are written to, as project.dataset; needed for "
        'chunking="hash".',
        "none: BigQuery's own temporary tables",
    ),
    _bigquery(
        "result_expiry_s",
        _parse_seconds,
        "SECONDS",
        "When tables in result_dataset expire.",
        "86400, a day",
    ),
    _bigquery(
        "stall_timeout_s",
        _parse_seconds,
        "SECONDS",
        "A stream that has sent nothing for so long is opened anew.",
        "60",
    ),
    _bigquery(
        "retry_deadline_s",
        _parse_seconds,
        "SECONDS",
        "A stream or request fails after so long without success; each row is one.",
        "600",
    ),
    _bigquery(
        "request_timeout_s",
        _parse_seconds,
        "SECONDS",
        "What one attempt of a short request may take.",
        "60",
    ),
    _bigquery("job_timeout_s", _parse_seconds, "SECONDS", "What a query may take.", "3600"),
    _bigquery(
        "query_price_per_tib",
        _parse_price,
        "PRICE",
        "Money for 2^40 bytes that a query is billed for, for the status.",
    ),
    _bigquery(
        "read_price_per_tib",
        _parse_price,
        "PRICE",
        "Money for 2^40 bytes read by the Storage Read API, for the status.",
    ),
    _bigquery(
        "snapshot_max_age_s",
        _parse_seconds,
        "SECONDS",
        "How long a later open of the same dataset gets the rows of the first.",
        "3600",
    ),
)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """The settings out of the parsed value of each, checked against this machine.

    Raises:
        ConfigError: the values do not go together, or not with this machine.
    """
    settings = Settings(
        listen=values["listen"],
        memory_budget=values["memory_budget"],
        workers=values["workers"],
        allowed_roots=tuple(values["allowed_roots"]),
        allowed_uids=frozenset(values["allowed_uids"]),
        scratch_dir=values["scratch_dir"],
        dealt_budget=values["dealt_budget"],
        spill_dir=values["spill_dir"],
        spill_budget=values["spill_budget"],
        log_level=values["log_level"],
        metrics=values["metrics"],
        bigquery=BigQuerySettings(
            **{
                setting.key: values[setting.name]
                for setting in SETTINGS
                if setting.table == "bigquery"
            }
        ),
    )
    check_budget(settings.memory_budget, memory_limit())
    if settings.spill_budget is not None and settings.spill_dir is None:
        raise ConfigError(
            f"spill_budget: {format_size(settings.spill_budget)} are allowed, but there is no "
            "folder for them: name one on a fast local disk by spill_dir"
        )
    for root in settings.allowed_roots:
        if not root.exists():
            raise ConfigError(f"allowed_roots: {root} does not exist; make it, or correct the path")
    check_credentials(settings.bigquery)
    if settings.metrics is not None and not settings.metrics.is_local:
        raise ConfigError(
            f"metrics: {settings.metrics.host} is no loopback address, and whoever reaches it "
            "could read the names of jobs and tables; use 127.0.0.1, [::1] or localhost, or a Unix "
            "socket, and have an agent on this machine pass them on"
        )
    return settings


def check_credentials(settings: BigQuerySettings) -> None:
    """Refuses a key file that is not there.

    Raises:
        ConfigError: with its path.
    """
    path = settings.credentials
    if os.path.isabs(path) and not os.path.isfile(path):
        raise ConfigError(
            f"[bigquery] credentials: there is no file {path}, or this user may not look for it; "
            "correct the path"
        )


def check_budget(memory_budget: int, limit: MemoryLimit) -> None:
    """Refuses a budget, in bytes, that would get the daemon killed.

    Raises:
        ConfigError: it is above the share of `limit` that shared memory may take.
    """
    most = limit.nbytes * MAX_BUDGET_PERCENT // 100
    if memory_budget > most:
        raise ConfigError(
            f"memory_budget: {format_size(memory_budget)} ({memory_budget} bytes) is above "
            f"{MAX_BUDGET_PERCENT} % of {limit.origin}: {MAX_BUDGET_PERCENT} % of "
            f"{format_size(limit.nbytes)} is {format_size(most)} ({most} bytes). Shared memory "
            "counts towards that limit, so the daemon would be killed; lower the budget or raise "
            "the limit"
        )


def read_settings_file(path: Path) -> dict[str, object]:
    """The settings that a TOML file has, parsed, by name.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a wrong value.
    """
    try:
        # A FIFO or a device would be read without an end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"the settings file {path} is not a regular file")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not TOML: {error}") from None
    tables = {setting.table for setting in SETTINGS}
    values: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, dict) and key in tables:
            values |= _read_table(path, key, value)
        elif isinstance(value, dict):
            raise ConfigError(
                f"{path}: there is no table [{key}]; {_suggestion(key, tables - {''})}"
            )
        else:
            values |= _read_table(path, "", {key: value})
    return values


def _read_table(path: Path, table: str, written: Mapping[str, object]) -> dict[str, object]:
    """The settings of one table of the file, or of what is above all tables."""
    known = {setting.key: setting for setting in SETTINGS if setting.table == table}
    values = {}
    for key, value in written.items():
        where = f"{path}: [{table}]" if table else f"{path}:"
        if key not in known:
            remedy = _elsewhere(key, table) or _suggestion(key, known)
            raise ConfigError(f"{where} there is no setting {key!r}; {remedy}")
        try:
            values[known[key].name] = known[key].from_toml(value)
        except ValueError as error:
            raise ConfigError(f"{where} {key}: {error}") from None
    return values


def _elsewhere(key: str, table: str) -> str | None:
    """Where a key belongs that was written into `table`, by its whole name or its own."""
    for setting in SETTINGS:
        if key == setting.name or (key == setting.key and table != setting.table):
            place = f"in the table [{setting.table}]" if setting.table else "above all tables"
            return f"write it as {setting.key} {place}"
    return None


def unknown_variables(environ: Iterable[str]) -> list[str]:
    """A warning for each environment variable that looks like a setting and is none.

    They are no errors: the variable of a newer or older version must not keep a daemon down.
    """
    # Compared without the prefix, which would make any two of them look alike.
    known = [setting.name for setting in SETTINGS] + ["config"]
    names = {name: name.removeprefix(VARIABLE_PREFIX).lower() for name in sorted(environ)}
    return [
        f"the environment variable {name} is not a setting; "
        + _suggestion(key, known, lambda found: VARIABLE_PREFIX + found.upper())
        for name, key in names.items()
        if name.startswith(VARIABLE_PREFIX) and key not in known
    ]


def _suggestion(
    name: str, known: Collection[str], written: Callable[[str], str] = lambda found: found
) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {written(near[0])}?"
    return f"there are {', '.join(written(one) for one in sorted(known))}"
