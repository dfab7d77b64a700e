"""The FastAPI page in a real browser: a video is asked for, its progress is told live, and it plays."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import shutil
import subprocess

import aiohttp
import pytest

from videorouter.testing import run_sandbox

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--window-size=900,900",
)


def find_browser():
    """Where Chromium is, or ``None``."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page of the browser."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0

    async def command(self, method, **parameters):
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._number:
                return answer["result"]

    async def ask(self, expression):
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def wait_for(self, expression, *, seconds=20):
        """Wait until an expression is true."""
        async with asyncio.timeout(seconds):
            while not await self.ask(expression):
                await asyncio.sleep(0.05)

    async def shoot(self, file):
        answer = await self.command("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def open_page(url, profile):
    """Open a URL in a fresh browser."""
    command = [find_browser(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        async with asyncio.timeout(30):
            while not (port_file.exists() and port_file.read_text().strip()):
                await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = await answer.json()
            place = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(place, max_msg_size=0) as socket:
                page = Page(socket)
                await page.command("Page.enable")
                await page.command("Page.navigate", url=url)
                await page.wait_for("document.readyState === 'complete' && location.protocol === 'http:'")
                yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="needs Chromium, which this machine does not have"),
]
WORDS = "document.querySelector('li .state')?.textContent"


async def test_the_page_tells_live_progress_and_plays_the_saved_video(serve, tmp_path):
    with run_sandbox(mode="task", latency=math.inf) as sandbox:
        app = serve("how-to/fastapi.md", "uvicorn", sandbox)
        async with open_page(f"{app.url}/videos/", tmp_path / "profile") as page:
            await page.wait_for("document.querySelector('select').length === 2")
            await page.ask("document.querySelector('textarea').value = 'An otter'")
            await page.ask("document.forms[0].requestSubmit()")
            await page.wait_for(f"{WORDS} === 'is being made'")
            assert await page.ask("document.querySelector('li progress') !== null")
            await page.shoot(tmp_path / "progress.png")
            sandbox.release()
            await page.wait_for(f"{WORDS} === 'done'")
            await page.ask("document.querySelector('video').muted = true; document.querySelector('video').play()")
            await page.wait_for("document.querySelector('video').currentTime > 0.2")
            assert await page.ask("document.querySelector('video').videoWidth") == 640
            assert await page.ask("document.querySelector('li progress') === null")
            await page.shoot(tmp_path / "playing.png")
        assert (tmp_path / "playing.png").read_bytes() != (tmp_path / "progress.png").read_bytes()


async def test_a_page_whose_server_is_killed_goes_on_where_it_was(serve, tmp_path):
    with run_sandbox(mode="task", latency=math.inf) as sandbox:
        app = serve("how-to/fastapi.md", "uvicorn", sandbox)
        async with open_page(f"{app.url}/videos/", tmp_path / "profile") as page:
            await page.wait_for("document.querySelector('select').length === 2")
            await page.ask("document.querySelector('textarea').value = 'An otter'")
            await page.ask("document.forms[0].requestSubmit()")
            await page.wait_for(f"{WORDS} === 'is being made'")
            app.process.kill()
            app.process.wait()
            sandbox.release()
            app.restart()
            await page.wait_for(f"{WORDS} === 'done'")
        assert sandbox.charges() == {"An otter": 1}


LOSE = """
window.kept = window.fetch;
window.fetch = async (...given) => {
  const answer = await kept(...given);
  if (given[1]?.method === "POST") throw new TypeError("the answer is lost");
  return answer;
};
window.kept_timeout = window.setTimeout;
window.setTimeout = (work) => kept_timeout(work, 1);
"""


async def test_a_second_press_after_lost_answers_buys_nothing_twice(serve, tmp_path):
    with run_sandbox(mode="task") as sandbox:
        app = serve("how-to/fastapi.md", "uvicorn", sandbox)
        async with open_page(f"{app.url}/videos/", tmp_path / "profile") as page:
            await page.wait_for("document.querySelector('select').length === 2")
            await page.ask("document.querySelector('textarea').value = 'An otter'")
            await page.ask(LOSE)
            await page.ask("document.forms[0].requestSubmit()")
            await page.wait_for("document.getElementById('said').textContent.includes('lost')")
            await page.ask("window.fetch = kept")
            await page.ask("document.forms[0].requestSubmit()")
            await page.wait_for(f"{WORDS} === 'done' && document.querySelector('textarea').value === ''")
            assert await page.ask("document.querySelectorAll('li').length") == 1
            await page.ask("document.querySelector('textarea').value = 'An otter'")
            await page.ask("document.forms[0].requestSubmit()")  # asked for once more: another take
            await page.wait_for("document.querySelectorAll('li').length === 2")
            await page.wait_for("document.querySelectorAll('li .state.done').length === 2")
        assert sandbox.charges() == {"An otter": 2}
