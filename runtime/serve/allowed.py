"""Which addresses images may be fetched from: those of hosts that were listed, and nothing that only looks like one.

Enters: the list, and addresses in requests. Leaves: a `Target`, or a refusal; and whether an address that a name leads
to may be asked. Nothing here opens a connection or asks for a name.

An address is read by one strict form, not by a parser that forgives: what does not fit is refused, so that no two
readers can take it for two different hosts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pumice.errors import UsageError
from pumice.serve.refusals import RefusalError

_PORTS = {"http": 80, "https": 443}
_HOST = r"[a-z0-9._-]{1,253}|\[[0-9a-f:]{2,45}\]"
_PORT = r"[1-9][0-9]{0,4}"
_ADDRESS = re.compile(rf"(https?)://({_HOST})(?::({_PORT}))?([/?][!-\[\]-~]*)?", re.IGNORECASE)
"""Neither a user's name, nor a backslash, blanks, other letters than ASCII's, or an escape in the host."""
_ENTRY = re.compile(rf"({_HOST})(?::({_PORT}))?", re.IGNORECASE)
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A name's last word begins with a letter: numbers in other writings than an address's own are none."""
_LONGEST = 8192
"""Characters of an address."""
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
_TUNNELS = [ipaddress.ip_network(each) for each in ("2001::/32", "2002::/16")]
"""Addresses that have another inside, which may be of any network."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address that may be asked: `host` as it was listed, `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As it stands in an address and in `Host`."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def literal(self) -> str | None:
        """The number that the host is, if it is one."""
        plain = self.host.strip("[]")
        return plain if self.host.startswith("[") or _is_ipv4(plain) else None


class AllowedHosts:
    """The hosts of a list, each HOST, which stands for its scheme's port, or HOST:PORT.

    Raises:
        UsageError: an entry that is neither, or a number in another writing than its own.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._listed = {_entry(entry) for entry in entries}

    def __bool__(self) -> bool:
        return bool(self._listed)

    def target(self, address: str, param: str) -> Target:
        """The address, read.

        Raises:
            RefusalError: of another form, or of a host that is not listed.
        """
        match = _ADDRESS.fullmatch(address) if len(address) <= _LONGEST else None
        if match is None:
            raise _refused("the address is not of the form http(s)://HOST[:PORT]/PATH", param)
        scheme, host = match[1].lower(), match[2].lower()
        port = int(match[3] or _PORTS[scheme])
        if not self._lists(host, port, scheme):
            raise _refused("images are not fetched from this host: send the image itself", param)
        path = (match[4] or "/").partition("#")[0]
        return Target(scheme=scheme, host=host, port=port, path=path if path[0] == "/" else f"/{path}")

    def may_reach(self, number: str, target: Target) -> bool:
        """Whether a number that the target's host leads to may be asked: a public one, or one that is listed itself."""
        try:
            address = ipaddress.ip_address(number)
        except ValueError:  # one with a zone
            return False
        host = f"[{address}]" if address.version == 6 else str(address)
        return _is_public(address) or self._lists(host, target.port, target.scheme)

    def _lists(self, host: str, port: int, scheme: str) -> bool:
        return (host, port) in self._listed or (port == _PORTS[scheme] and (host, None) in self._listed)


def _entry(entry: str) -> tuple[str, int | None]:
    match = _ENTRY.fullmatch(entry)
    host = match[1].lower() if match else ""
    if match is None or not (_is_number(host) or _NAME.fullmatch(host)):
        raise UsageError(
            f"fetch_images has {entry[:100]!r}, expected HOST or HOST:PORT: a name, or a number as 192.168.1.5 or [::1]"
        )
    return host, int(match[2]) if match[2] else None


def _is_number(host: str) -> bool:
    """Whether it is an address in its own writing, and none of IPv4 in IPv6's clothes."""
    if not host.startswith("["):
        return _is_ipv4(host)
    try:
        address = ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return str(address) == host[1:-1] and address.ipv4_mapped is None


def _is_ipv4(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _PUBLIC_IPV6 or any(address in tunnel for tunnel in _TUNNELS)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _refused(message: str, param: str) -> RefusalError:
    return RefusalError(message, param=param, code="invalid_image_url")
