"""What tests of pages share: a browser, patience, and what any page must be."""

import functools
import http.server
import shutil
import threading
import time
from pathlib import Path

import pytest


def start_browser():
    """A headless Chromium; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("there is no chromedriver here")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    options.add_argument("--force-prefers-reduced-motion")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def until(condition, seconds=10):
    """Wait for what a page does in its own time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def complaints(browser):
    """Errors and warnings of the console since it was last asked."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def violations(browser):
    """What axe-core finds wrong with the page's accessibility: rule and places."""
    package = pytest.importorskip("axe_core_python", reason="axe-core is not installed")
    script = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.execute_script(script)
    found = browser.execute_async_script(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
        ".then(r => arguments[arguments.length - 1](r.violations))"
    )
    return [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found]


def load_all(browser):
    """Let lazy pictures load; returns the addresses of those that are broken."""
    browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    whole = "return [...document.images].every(i => i.complete)"
    until(lambda: browser.execute_script(whole), 30)
    broken = "[...document.images].filter(i => i.hasAttribute('src') && !i.naturalWidth)"
    return browser.execute_script(f"return {broken}.map(i => i.getAttribute('src'))")


def too_wide(browser):
    """By how many pixels the page is wider than its window."""
    return browser.execute_script("return document.documentElement.scrollWidth - innerWidth")


def parse_errors(text):
    """What an HTML parser that follows the standard finds wrong with a page."""
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    parser = html5lib.HTMLParser()
    parser.parse(text)
    return [(place, code) for place, code, _ in parser.errors]


def broken_links(page: Path):
    """Addresses in a page's href and src that lead nowhere."""
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    tree = html5lib.parse(page.read_text(encoding="utf-8"), namespaceHTMLElements=False)
    ids = {node.get("id") for node in tree.iter()}
    lost = []
    for node in tree.iter():
        for key in ("href", "src"):
            address = node.get(key)
            if not address or address.startswith("data:"):
                continue
            assert "://" not in address, address
            path, _, place = address.partition("#")
            if (path and not (page.parent / path).is_file()) or (not path and place not in ids):
                lost.append(address)
    return lost


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A handler that says nothing."""

    def log_message(self, *_):
        pass


def serve(folder: Path):
    """A server of a folder on this machine; its address, and what ends it."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def end():
        server.shutdown()
        server.server_close()

    return f"http://127.0.0.1:{server.server_port}", end
