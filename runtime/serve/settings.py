"""What a server is told: flags, the environment and a file, in this order.

Enters: values by name. Leaves: frozen `Settings`, checked.

    pumice serve BUNDLE --port 8000        PUMICE_SERVE_PORT=8000        --config: port = 8000
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pumice.errors import UsageError
from pumice.serve.allowed import AllowedHosts

ENVIRONMENT = "PUMICE_SERVE_"
_MIB = 2**20


def _flag(help: str, *, least: float | None = None, metavar: str = "N") -> dict[str, Any]:
    """What a field is as a flag."""
    return {"help": help, "least": least, "metavar": metavar}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of a server. Sizes are bytes, times seconds."""

    bundle: Path
    """A bundle, or a folder of them."""
    others: tuple[Path, ...] = ()
    """More of the same."""
    host: str = field(default="127.0.0.1", metadata=_flag("address to listen on", metavar="HOST"))
    port: int = field(default=8080, metadata=_flag("TCP port; 0 takes a free one", least=0))
    uds: Path | None = field(default=None, metadata=_flag("listen on a unix socket instead", metavar="PATH"))
    fd: int | None = field(
        default=None, metadata=_flag("listen on an inherited socket instead (systemd: 3)", least=0)
    )
    api_key_file: Path | None = field(
        default=None,
        metadata=_flag(
            "file of keys, one a line, with a name before it if you like: NAME KEY", metavar="FILE"
        ),
    )
    api_key: str | None = None
    """By the environment alone, for `ps` shows flags."""
    no_key: bool = field(default=False, metadata=_flag("allow anybody, also off this machine"))
    no_page: bool = field(default=False, metadata=_flag("serve no page for browsers"))
    allow_host: tuple[str, ...] = field(
        default=(), metadata=_flag("another Host that requests may name", metavar="HOST")
    )
    allow_origin: tuple[str, ...] = field(
        default=(), metadata=_flag("an origin whose web pages may ask (CORS)", metavar="ORIGIN")
    )
    alias: tuple[str, ...] = field(
        default=(),
        metadata=_flag("another name of the model; of one of several: NAME=BUNDLE", metavar="NAME"),
    )
    memory: int | None = field(
        default=None,
        metadata=_flag(
            "memory for all models together, such as 6GiB (what is available)", least=1, metavar="SIZE"
        ),
    )
    idle_unload: float | None = field(
        default=None,
        metadata=_flag(
            "seconds without requests after which a model is unloaded (never)", least=0, metavar="S"
        ),
    )
    slots: int = field(default=8, metadata=_flag("answers at a time", least=1))
    context_length: int | None = field(
        default=None, metadata=_flag("tokens that a prompt and its answer may have (the model's)", least=2)
    )
    max_queue: int = field(default=64, metadata=_flag("requests that may wait", least=1))
    max_body: int = field(default=32 * _MIB, metadata=_flag("bytes of a request", least=1024))
    fetch_images: tuple[str, ...] = field(
        default=(),
        metadata=_flag("hosts whose images are fetched by their addresses", metavar="HOST[:PORT],…"),
    )
    max_images: int = field(default=8, metadata=_flag("images of a request", least=0))
    deadline: float = field(
        default=600.0, metadata=_flag("seconds that an answer may take", least=0.001, metavar="S")
    )
    drain: float = field(
        default=30.0, metadata=_flag("seconds for answers under way at SIGTERM", least=0, metavar="S")
    )
    keep_alive: float = field(
        default=10.0,
        metadata=_flag(
            "seconds of silence behind which a stream says that it lives", least=0.01, metavar="S"
        ),
    )
    device: str = field(default="auto", metadata=_flag("where to compute", metavar="DEVICE"))
    threads: int | None = field(
        default=None, metadata=_flag("threads to compute with (as many as CPUs)", least=1)
    )
    low_memory: bool = field(
        default=False, metadata=_flag("leave weights in their files: less memory, slower")
    )
    log_format: str = field(default="text", metadata=_flag("text or json", metavar="FORMAT"))

    @property
    def name(self) -> str:
        """The model's: its folder's."""
        named = self.bundle.name not in ("", "..")
        return self.bundle.name if named else self.bundle.resolve().name

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.uds is not None or self.fd is not None or is_loopback(self.host)

    @property
    def most_waiting_bytes(self) -> int:
        """Of requests that are being read or wait, together."""
        return max(8 * self.max_body, 256 * _MIB)


FLAGS: tuple[dataclasses.Field[Any], ...] = tuple(
    each for each in dataclasses.fields(Settings) if "help" in each.metadata
)


def gather(
    given: Mapping[str, Any], environment: Mapping[str, str], config: str | Path | None = None
) -> Settings:
    """Settings of what was `given` as flags, else of the environment, else of a TOML file.

    Raises:
        UsageError: an unknown name, a value of another type or outside its interval, or no bundle.
    """
    config = config or environment.get(f"{ENVIRONMENT}CONFIG")
    values: dict[str, Any] = {} if config is None else _file(Path(config))
    values |= _environment(environment)
    values |= {
        name: value for name, value in given.items() if not (value is None or value is False or value == [])
    }
    bundles = values.get("bundle")
    if not bundles:
        raise UsageError("there is no bundle to serve: pumice serve BUNDLE, or bundle = '…' in --config")
    if isinstance(bundles, list):
        values |= {"bundle": bundles[0], "others": bundles[1:]}
    settings = Settings(**{name: _read(name, value) for name, value in values.items()})
    _check(settings)
    return settings


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the settings in {str(path)!r} cannot be read: {reason}") from None
    plain = {name.replace("-", "_"): value for name, value in values.items()}
    if "api_key" in plain:
        raise UsageError(
            "a key does not stand in --config: put it into a file, and name that by api-key-file"
        )
    known = {each.name for each in dataclasses.fields(Settings)} - {"others"}
    if unknown := sorted(set(plain) - known):
        raise UsageError(f"{str(path)!r} has the unknown setting {unknown[0]!r}: pumice serve --help")
    return plain


def _environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = (each.name for each in dataclasses.fields(Settings) if each.name != "others")
    names = {f"{ENVIRONMENT}{name.upper()}": name for name in known}
    return {names[key]: text for key, text in environment.items() if key in names and text}


_PATHS = {"bundle", "uds", "api_key_file"}


def _read(name: str, value: Any) -> Any:
    """A value in its field's type; texts of the environment are read."""
    kind = next(each for each in dataclasses.fields(Settings) if each.name == name).type
    if name in _PATHS:
        return Path(_typed(name, value, str))
    if name == "others":
        return tuple(Path(_typed("bundle", one, str)) for one in value)
    if name == "memory":
        return _bytes(name, value)
    if name == "idle_unload":
        return None if value == "never" else _number(name, value, float)
    if kind == "tuple[str, ...]":
        several = value.split(",") if isinstance(value, str) else value
        if name == "fetch_images":  # a flag's value is a list, too
            several = [one for each in _typed(name, several, (list, tuple)) for one in str(each).split(",")]
        return tuple(_typed(name, one, str).strip() for one in _typed(name, several, (list, tuple)))
    if kind == "bool":
        return value if isinstance(value, bool) else _one_of(name, value, _FLAG_TEXTS)
    if "int" in str(kind):
        return _number(name, value, int)
    return _number(name, value, float) if kind == "float" else _typed(name, value, str)


_FLAG_TEXTS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}


def _one_of(name: str, value: Any, texts: Mapping[str, bool]) -> bool:
    found = texts.get(str(value).lower())
    if found is None:
        raise UsageError(f"{name} is {value!r}, expected true or false")
    return found


def _number(name: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} is {value!r}, expected {what}") from None


_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def _bytes(name: str, value: Any) -> int:
    """`6442450944`, `6GiB`, `6G` or `1.5 GB`, of which all are powers of two."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?(?:([kmgt]?)(?:i?b)?)", str(value).strip().lower())
    if match is None or isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}, expected a number of bytes, such as 6GiB")
    return int(float(match[1]) * 2 ** _UNITS[match[2]])


def _typed(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{name} is {value!r}, expected {'text' if kind is str else 'a list of texts'}")
    return value


def _check(settings: Settings) -> None:
    AllowedHosts(settings.fetch_images)
    for each in FLAGS:
        value, least = getattr(settings, each.name), each.metadata["least"]
        if least is not None and value is not None and not least <= value < float("inf"):
            raise UsageError(f"{each.name} is {value}, expected {least:g} or more")
    if settings.port > 65_535:
        raise UsageError(f"port is {settings.port}, expected 0 to 65,535")
    if settings.log_format not in ("text", "json"):
        raise UsageError(f"log_format is {settings.log_format!r}, expected text or json")
    if settings.uds is not None and settings.fd is not None:
        raise UsageError("got both uds and fd, expected one of them: leave one out")
    if not settings.is_local and not settings.no_key and not (settings.api_key_file or settings.api_key):
        raise UsageError(
            f"{settings.host} can be reached from other machines, and there is no key: name a file of keys "
            "by --api-key-file, or allow anybody by --no-key"
        )
