"""What a script in a page of one person's server can do to whoever opens it, with one origin for all and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import LAB_SCRIPTS, Person, chromium, chromium_path
from hubs import Hub, command
from nodes import eventually
from playwright.sync_api import Browser

from timeshare.hub_config.origins import host_of, is_refused, shared_origin_advice

CONFIG = """
import sys
sys.path.insert(0, {home!r})
c.ServerApp.jpserver_extensions = {{"evil": True}}
"""
EVIL = """
import pathlib
from tornado import web

HERE = pathlib.Path(__file__).parent


class Evil(web.RequestHandler):
    def get(self):
        self.set_header("Content-Type", "text/html")
        self.set_header("Cross-Origin-Opener-Policy", self.get_query_argument("coop", "unsafe-none"))
        self.write((HERE / "evil.html").read_text())


def _jupyter_server_extension_points():
    return [{"module": "evil"}]


def _load_jupyter_server_extension(app):
    app.web_app.add_handlers(".*", [(app.base_url + "evil", Evil)])
"""
PAGE = """
<button id="go">Win a GPU</button><pre id="found"></pre>
<script>
const hub = new URLSearchParams(location.search).get("hub");
const bens = new URLSearchParams(location.search).get("bens");
const found = {};
const token = (text) => (text.match(/xsrf_token: "([^"]+)"/) || [])[1];
const attempt = async (name, deed) => {
  try { found[name] = await deed(); } catch (error) { found[name] = `${error.name}`; }
};
const makes = async (xsrf) => {
  if (!xsrf) return "no token";
  const words = { method: "POST", headers: { "X-XSRFToken": xsrf, "Content-Type": "application/json" }, body: "{}" };
  return (await fetch(`${hub}api/users/ben/tokens`, { credentials: "include", ...words })).status;
};
const reads = (path, options) => async () =>
  makes(token(await (await fetch(hub + path, { credentials: "include", ...options })).text()));
const popup = (url) => new Promise((done) => {
  const opened = window.open(url);
  const until = Date.now() + 5000;
  const look = () => {
    try { if (opened.document.readyState === "complete" && opened.location.href !== "about:blank") {
      return done(opened.document.documentElement.outerHTML); } } catch (error) { return done(""); }
    if (opened.closed || Date.now() > until) return done("");
    setTimeout(look, 100);
  };
  look();
});
document.getElementById("go").onclick = async () => {
  await attempt("popup", async () => makes(token(await popup(hub + "token"))));
  await attempt("fetch", reads("token", {}));
  await attempt("no-cors", reads("token", { mode: "no-cors" }));
  await attempt("disguised", reads("home", { referrer: "/hub/home" }));
  await attempt("error page", reads("token", { method: "POST" }));
  await attempt("api", async () =>
    (await fetch(`${hub}api/users/ben`, { credentials: "include", mode: "no-cors" })).status);
  await attempt("facts", async () =>
    (await fetch(`${hub}timeshare/sessions`, { credentials: "include", mode: "no-cors" })).status);
  await attempt("frame", () => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = async () => {
      try { done(await makes((frame.contentDocument.cookie.match(/_xsrf=([^;]+)/) || [])[1])); }
      catch (error) { done(error.name); }
    };
    frame.src = `${hub}static/js/home.js`;
    document.body.append(frame);
  }));
  await attempt("cookie", async () => {
    history.pushState({}, "", "/hub/home");
    return makes((document.cookie.match(/_xsrf=([^;]+)/) || [])[1]);
  });
  await attempt("server", () => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = async () => {
      try {
        const xsrf = (frame.contentDocument.cookie.match(/_xsrf=([^;]+)/) || [])[1] || "";
        const words = { credentials: "include", headers: { "X-XSRFToken": xsrf } };
        done((await fetch(`${bens}api/contents`, words)).status);
      } catch (error) { done(error.name); }
    };
    frame.src = `${bens}static/favicons/favicon.ico`;
    document.body.append(frame);
  }));
  await attempt("server, unasked", async () =>
    (await fetch(`${bens}api/contents`, { credentials: "include", mode: "no-cors" })).status);
  document.getElementById("found").textContent = JSON.stringify(found);
  document.getElementById("found").dataset.done = "1";
};
</script>
"""
WAYS = ("popup", "fetch", "no-cors", "disguised", "error page", "frame", "cookie")
"""To a token of the hub's API."""


class Shared(Hub):
    """Ada's server sends a page that she wrote."""

    def environment(self) -> dict[str, str]:
        home = self.state_dir / "home"
        (home / ".jupyter").mkdir(parents=True, exist_ok=True)
        (home / ".jupyter" / "jupyter_server_config.py").write_text(CONFIG.format(home=str(home)))
        (home / "evil.py").write_text(EVIL)
        (home / "evil.html").write_text(PAGE)
        return super().environment()


class Apart(Shared):
    """Each person's server has a host of its own."""

    def words(self) -> list[str]:
        return [*super().words(), "--subdomains", "hub.localhost"]

    @property
    def url(self) -> str:
        return self.deployment.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    yield from running(Shared(tmp_path_factory.mktemp("shared"), command()))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    yield from running(Apart(tmp_path_factory.mktemp("apart"), command()))


def running(hub: Hub) -> Iterator[Hub]:
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


def arrived(hub: Hub, browser: Browser, name: str, servers: str) -> Person:
    """Has a server, and has been there. Lab itself takes its time, and is not needed."""
    person = Person(browser, hub.url, name, hub.deployment.password)
    person.context.unroute(LAB_SCRIPTS)  # while requests are looked at, frames of the page below never finish loading
    person.open_form()
    person.start("1/4 of one a100-40gb")
    eventually(lambda: [r for r in hub.everybodys() if (r["owner"], r["state"]) == (name, "active")], 120)
    person.page.goto(f"{servers}lab", wait_until="domcontentloaded")
    return person


def attacked(hub: Hub, browser: Browser, theirs: str, bens: str, *coops: str) -> list[dict[str, Any]]:
    """What a page of ada's server, at ``theirs``, gets out of ben's browser; once for each policy that it may have."""
    ada, ben = arrived(hub, browser, "ada", theirs), arrived(hub, browser, "ben", bens)
    found = []
    try:
        for coop in coops:
            ben.page.goto(f"{theirs}evil?hub={hub.url}hub/&bens={bens}&coop={coop}")
            ben.page.click("#go")
            ben.page.wait_for_selector("#found[data-done]", timeout=120_000)
            found.append(json.loads(ben.page.text_content("#found") or ""))
    finally:
        ada.close()
        ben.close()
        hub_ended(hub)
    return found


def hub_ended(hub: Hub) -> None:
    for reservation in hub.everybodys():
        if reservation["state"] != "ended":
            hub.service("POST", f"reservations/{reservation['id']}/end", json={})
    eventually(lambda: all(r["state"] == "ended" for r in hub.everybodys()), 60)


real = [
    pytest.mark.hub,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium here: install the package chromium"),
]


def marked(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


@marked
def test_on_a_shared_origin_a_script_gets_no_token_of_the_hub_but_reaches_the_server(
    shared: Hub, browser: Browser
) -> None:
    url = shared.url
    policies = ("unsafe-none", "same-origin", "noopener-allow-popups")
    for found in attacked(shared, browser, f"{url}user/ada/", f"{url}user/ben/", *policies):
        print(found)
        assert {way: found[way] for way in WAYS if found[way] == 201} == {}, found
        assert {found["api"], found["facts"]} <= {403}, found
        # Not held: the server of whoever opens the page. It takes subdomains to keep that.
        assert 200 in (found["server"], found["server, unasked"]), found


@marked
def test_with_subdomains_a_script_reaches_nothing_of_others(apart: Hub, browser: Browser) -> None:
    base = apart.url.replace("hub.localhost", "{}.hub.localhost")
    (found,) = attacked(
        apart, browser, f"{base.format('ada')}user/ada/", f"{base.format('ben')}user/ben/", "unsafe-none"
    )
    print(found)
    assert {name: what for name, what in found.items() if what in (200, 201)} == {}, found


@marked
def test_with_subdomains_everything_works_as_before(apart: Hub, browser: Browser) -> None:
    base = apart.url.replace("hub.localhost", "cleo.hub.localhost")
    person = arrived(apart, browser, "cleo", f"{base}user/cleo/")
    try:
        assert "//cleo.hub.localhost" in person.page.url
        person.url = base
        person.open_notebook()
        assert person.run_cell("6 * 7") == "42"
        person.page.get_by_text("10 GiB").first.wait_for(state="attached")  # the Lab extension hears of its session
        person.url = apart.url
        person.stop()
    finally:
        person.close()
        hub_ended(apart)


# --- what is decided


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ("", ""),
        ("hub.lab.example", "http://hub.lab.example:8000"),
        ("hub.localhost", "http://hub.localhost:8000"),
        ("https://hub.lab.example", "https://hub.lab.example"),
        ("https://hub.lab.example:8443/", "https://hub.lab.example:8443"),
        ("hub.lab.example:9000", "http://hub.lab.example:9000"),
    ],
)
def test_a_host_for_subdomains_gets_scheme_and_port_of_the_address(named: str, host: str) -> None:
    assert host_of(named, "http://127.0.0.1:8000/") == host


@pytest.mark.parametrize(
    "named", ["127.0.0.1", "ftp://x", "hub/path", "a b", "https://", "-x.example", "h:999999", "*.x"]
)
def test_what_can_have_no_subdomains_is_refused_with_what_would_work(named: str) -> None:
    with pytest.raises(ValueError, match=r"such as hub\.lab\.example"):
        host_of(named, "http://127.0.0.1:8000/")


@pytest.mark.parametrize(
    ("dest", "mode", "for_scripts", "refused"),
    [
        (None, None, False, False),
        ("document", "navigate", False, False),
        ("report", "no-cors", False, False),
        ("empty", "cors", False, True),
        ("empty", "no-cors", False, True),
        ("iframe", "navigate", False, True),
        ("object", "navigate", False, True),
        ("image", "no-cors", False, True),
        ("", "", False, True),
        ("empty", "cors", True, False),
        ("empty", "same-origin", True, False),
        ("empty", "no-cors", True, True),
        ("document", "navigate", True, False),
        (None, None, True, False),
    ],
)
def test_who_may_see_an_answer_of_the_hub(dest: str | None, mode: str | None, for_scripts: bool, refused: bool) -> None:
    assert is_refused(dest, mode, for_scripts) is refused


def test_who_shares_an_origin_is_told_what_to_do() -> None:
    assert "--subdomains HOST" in shared_origin_advice(True, "")
    assert shared_origin_advice(True, "https://hub.lab.example") == ""
    assert shared_origin_advice(False, "") == ""


def test_up_says_so_in_a_plain_sentence_and_only_where_it_is_true(tmp_path: Path) -> None:
    for people, said in (("ada,ben", True), ("ada", False)):
        hub = Hub(tmp_path / people.partition(",")[0], command(), "--simulate", "t4:1")
        hub.words = lambda people=people: ["--people", people]  # type: ignore[method-assign]
        (tmp_path / people.partition(",")[0]).mkdir(exist_ok=True)
        try:
            hub.start()
            eventually(lambda hub=hub: "Ctrl-C stops" in hub.said())
            assert ("share one address" in hub.said()) is said
        finally:
            hub.end()
