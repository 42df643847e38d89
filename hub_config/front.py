"""Web servers in front: the address that people open, and whose word is taken for who asks."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from ..reservations.deployment import Deployment

ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[\w.~/-]*)?", re.ASCII)
EXAMPLE = "https://hub.lab.example/gpu/"
THIS_MACHINE = ("127.0.0.1", "::1")


class FrontError(Exception):
    """What was said of the web server in front cannot be; the text says why and what would."""


def base_path(named: str) -> str:
    """Return a base URL with a slash at both ends."""
    inner = named.strip("/")
    return f"/{inner}/" if inner else "/"


def front_of(public_url: str, base_url: str | None) -> tuple[str, str]:
    """Return base URL and address of ``--public-url`` and ``--base-url``, each empty or None where it is not given.

    The address has the base URL at its end; it is empty without ``--public-url``. Raises FrontError.
    """
    if not public_url:
        return base_path(base_url or ""), ""
    parts = urlsplit(public_url) if ADDRESS.fullmatch(public_url) else None
    if parts is None or not _is_kept(parts):
        raise FrontError(
            f"--public-url is {public_url!r}: it must be what people open in the browser, with scheme and host, and a "
            f"path where there is one, such as {EXAMPLE}"
        )
    base = base_path(parts.path)
    if base_url is not None and base_path(base_url) != base:
        raise FrontError(
            f"--base-url is {base_path(base_url)} and --public-url ends in {base}: a web server hands paths on as they "
            "are, so both must be the same; --public-url alone is enough"
        )
    return base, f"{parts.scheme}://{parts.netloc}{base}"


def _is_kept(parts: SplitResult) -> bool:
    """Whether browsers and proxies keep an address as it is: they resolve ``..`` and may join slashes."""
    try:
        port = parts.port
    except ValueError:
        return False
    segments = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    return port != 0 and "//" not in parts.path and not {".", ".."} & set(segments)


def check_same_host(front: str, subdomain_host: str) -> None:
    """Raise FrontError where ``--public-url`` and ``--subdomains``, if both are given, name two addresses."""
    if front and subdomain_host and not front.startswith(f"{subdomain_host}/"):
        raise FrontError(
            f"--public-url is {front} and --subdomains {subdomain_host}: people's servers get hosts below that of the "
            "hub, so both must begin with the same scheme, host and port"
        )


def believed(named: str | None, ip: str) -> tuple[str, ...]:
    """Return the addresses of ``--web-server``; where it is not given, this machine's own if only that reaches ``ip``.

    Raises FrontError.
    """
    if named is None:
        return THIS_MACHINE if _is_loopback(ip) else ()
    found = [text.strip() for text in named.split(",") if text.strip()]
    try:
        return tuple(str(_plain(ipaddress.ip_address(text))) for text in found)
    except ValueError as error:
        raise FrontError(
            f"--web-server: {error}; give the addresses from which the web server in front connects, by commas, "
            "such as 10.0.0.7, or '' where there is none"
        ) from None


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address that came over a socket of IPv6, as the proxy compares it."""
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return ip == "localhost"


def secured(options: dict[str, bool], deployment: Deployment) -> dict[str, bool]:
    """Return options of a cookie, with ``secure`` where people come by https: a browser then sends it by nothing else.

    JupyterHub sets it by what a request says of itself, and for some cookies only.
    """
    return {**options, "secure": True} if deployment.encrypted else options
