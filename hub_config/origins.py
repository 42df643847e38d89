"""What keeps pages of people's servers away from the hub's, and from each other's: origins, and what helps without.

A browser keeps apart what comes from different hosts. With ``--subdomains`` each person's server has a host of its own.
Without, everything has the hub's, and a script in a page that one person's server sends acts for whoever opens it.
``keep_scripts_out`` then holds the hub's own pages and API against such a script; docs/security.md says how far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

HEADERS = {
    # A window that a page of somebody's server opens on the hub is not in that page's hands, even of the same origin.
    # Chrome 131 and Safari 18.4 know it, Firefox does not.
    # https://html.spec.whatwg.org/multipage/browsers.html#cross-origin-opener-policies
    "Cross-Origin-Opener-Policy": "noopener-allow-popups",
    "X-Content-Type-Options": "nosniff",
}
XSRF_COOKIE = {"httponly": True}
"""Its path does not keep it from scripts: history.pushState gives their page any path."""
READABLE = ("document", "report")
"""Sec-Fetch-Dest of what hub pages are sent to: a window, and the browser's own reports. No script can choose it."""


def shared_origin_advice(people_or_multi_user: bool, subdomain_host: str) -> str:
    """Return a sentence for administrators when several people share one origin; empty when all is fine."""
    if subdomain_host or not people_or_multi_user:
        return ""
    return (
        "All people's servers share one address with the hub: a page that one person's server sends can act in the "
        "server of whoever opens it. Give each a host of its own with --subdomains HOST, or see that people open "
        "nobody else's pages"
    )


def host_of(named: str, public_url: str) -> str:
    """Return JupyterHub's ``subdomain_host`` for ``--subdomains``: with the scheme and port of ``public_url``.

    ``named`` may be a whole address, such as ``https://hub.lab.example`` of a server in front. Raises ValueError.
    """
    if not named:
        return ""
    public = urlsplit(public_url)
    parts = urlsplit(named if "://" in named else f"{public.scheme}://{named}")
    try:
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query
        port = parts.port
    except ValueError:
        wrong, port = True, None
    if wrong or not _is_name(parts.hostname or ""):
        raise ValueError(
            f"--subdomains is {named!r}: it must be a host name below which names of people resolve to this machine, "
            "such as hub.lab.example, or the address of a server in front, such as https://hub.lab.example"
        )
    if port is None and "://" not in named:
        port = public.port
    return f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")


def _is_name(host: str) -> bool:
    labels = host.split(".")
    fine = all(label and label.replace("-", "").isalnum() and not label.startswith("-") for label in labels)
    return fine and not labels[-1].isdigit()  # an address has no subdomains


def is_refused(dest: str | None, mode: str | None, for_scripts: bool) -> bool:
    """Whether a request may not see a hub's answer, by what the browser says of it (https and localhost only).

    ``for_scripts``: the answer holds no secret, and the hub's own check of a token comes after. JupyterHub leaves that
    out for ``no-cors``, but a script can read such an answer of its own origin.
    """
    if for_scripts:
        return dest == "empty" and mode == "no-cors"
    return dest is not None and dest not in READABLE


def keep_scripts_out(page: type[Any], for_scripts: tuple[type[Any], ...]) -> None:
    """Make every handler below ``page`` refuse what ``is_refused`` does, before it does anything.

    The hub has no setting for it: its pages carry the token that its forms and its API ask for, and any script of the
    same origin may fetch pages.
    """
    prepare: Callable[[Any], Any] = page.prepare

    async def guarded(self: Any) -> None:
        headers = self.request.headers
        if is_refused(headers.get("Sec-Fetch-Dest"), headers.get("Sec-Fetch-Mode"), isinstance(self, for_scripts)):
            # JupyterLab takes 424 for "your server does not run".
            gone = self.request.path.startswith(f"{self.hub.base_url}user/")
            self.set_status(424 if gone else 403)
            self.finish("This page is for people, not for scripts of other pages.")
            return
        await prepare(self)

    page.prepare = guarded
