"""The page in a real browser: Chromium without a window, on streams of the tiny bundle.

Screenshots go to the folder that CUTOFF_SCREENSHOTS names, or to pytest's own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from viewing import TINY, Gallery, scene

from runtime.codec import Codec
from runtime.serve.cuts import Cuts
from runtime.serve.events import CameraChanged, Event, FrameProgress
from runtime.serve.small_jpeg import small_jpeg

MISSING = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
PATIENCE_S = 30  # a safety net; everything waits for what it needs and no longer
LABEL = "<img src=x onerror=alert(1)> red fox"
PHONE, DESK = (360, 740), (1280, 860)


class Running:
    """A gallery that is served on a port of this machine."""

    def __init__(self, gallery: Gallery, cuts: Cuts, port: int = 0) -> None:
        self.gallery = gallery
        config = uvicorn.Config(gallery.app(cuts), port=port, log_level="error", ws="websockets-sansio", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._work)
        self.started = threading.Event()
        self.thread.start()
        assert self.started.wait(PATIENCE_S)

    def _work(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            serving = asyncio.create_task(self.server.serve())
            while not self.server.started and not serving.done():
                await asyncio.sleep(0.01)
            self.port = self.server.servers[0].sockets[0].getsockname()[1]
            self.address = f"http://127.0.0.1:{self.port}"
            self.started.set()
            await serving

        asyncio.run(serve())

    def tell(self, event: Event) -> None:
        """Publish *event*."""
        self.loop.call_soon_threadsafe(self.gallery.events.publish, event)

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(PATIENCE_S)
        self.gallery.store.close()


class Browser:
    """Chromium, and what the tests ask of it."""

    def __init__(self, driver: webdriver.Chrome, shots: Path) -> None:
        self.driver, self.shots = driver, shots

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Take a size of the window, and what the reader prefers."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # a new fragment alone would not load the page anew
        self.driver.get(address)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return WebDriverWait(self.driver, PATIENCE_S, 0.05).until(lambda _: condition(), what)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def until_text(self, selector: str, part: str) -> None:
        self.until(lambda: part in self.text(selector), f"{part!r} in {selector}, which says {self.text(selector)!r}")

    def pixels(self, selector: str) -> str:
        """Return what a canvas shows, as a data address; empty while it is blank."""
        script = """
            const canvas = document.querySelector(arguments[0]);
            if (!canvas || canvas.classList.contains("blank") || canvas.width < 4) return "";
            return canvas.toDataURL();
        """
        return str(self.driver.execute_script(script, selector))

    def until_pixels(self, selector: str, other_than: str = "") -> str:
        return str(
            self.until(
                lambda: (shown := self.pixels(selector)) and shown != other_than and shown, f"a picture in {selector}"
            )
        )

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth - innerWidth"))

    def shoot(self, name: str) -> None:
        assert self.driver.save_screenshot(str(self.shots / f"{name}.png"))

    def complaints(self) -> list[str]:
        """Return what the browser's console says of errors, and of a breached policy."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    named = os.environ.get("CUTOFF_SCREENSHOTS")
    shots = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(PATIENCE_S)
    try:
        yield Browser(driver, shots)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def cuts(own_cache: None) -> Iterator[Cuts]:
    opened = Cuts(TINY)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def streams(own_cache: None) -> list[bytes]:
    """Streams of three pictures."""
    with Codec.open(TINY, engine="cpu", threads=1) as codec:
        return [codec.encode(scene(192, 128, turned)).stream for turned in range(3)]


@contextmanager
def running(gallery: Gallery, cuts: Cuts, port: int = 0) -> Iterator[Running]:
    server = Running(gallery, cuts, port)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(browser: Browser, tmp_path: Path, cuts: Cuts, streams: list[bytes]) -> Iterator[Running]:
    """Cameras `gate`, `hall` and `yard`: some frames of each, some answers late, one camera lost.

    Whatever a test does, the browser's console stays empty.
    """
    browser.look(DESK)
    gallery = Gallery(tmp_path / "store")
    for camera, stream in zip(("gate", "hall", "yard"), streams, strict=True):
        for sequence in range(1, 9):
            late = sequence == 5
            gallery.keep(
                camera,
                sequence,
                stream,
                held=len(stream) * (9 + sequence) // 17,
                status="missed" if late else "preview" if sequence == 3 else "ok",
                margin_ms=-4.0 if late else 3.0 * sequence,
                label=LABEL if camera == "gate" else "kit fox",
                confidence=0.1 * sequence,
            )
    gallery.lose("hall")
    with running(gallery, cuts) as server:
        yield server
        complaints = browser.complaints()
        browser.driver.get("about:blank")
        assert complaints == []


def card(camera: str, part: str = "") -> str:
    return f'.camera[data-camera="{camera}"] {part}'.strip()


def test_every_camera_has_a_card_with_its_picture(browser: Browser, server: Running) -> None:
    """Pictures differ from camera to camera; label, confidence, margin and record are written beside them."""
    browser.open(server.address)
    shown = {browser.until_pixels(card(camera, "canvas")) for camera in ("gate", "hall", "yard")}
    assert len(shown) == 3
    assert browser.text(card("yard", ".label b")) == "kit fox"
    assert "80 %" in browser.text(card("yard", ".label"))
    assert "24 ms left" in browser.text(card("yard", ".facts"))
    browser.until_text(card("yard", "figcaption"), "7 of 8 in time")
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, card("yard", "svg .tardy"))) == 1
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, card("yard", "svg .preview"))) == 1
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, card("yard", "svg .timely"))) == 6
    browser.until_text(card("yard", ".state"), "live")
    browser.shoot("cameras-light")


def test_what_a_classifier_says_is_text(browser: Browser, server: Running) -> None:
    """A label with markup in it is shown as it is written."""
    browser.open(server.address)
    browser.until_text(card("gate", ".label b"), LABEL)
    assert not browser.driver.find_elements(By.CSS_SELECTOR, "main img")


def test_picture_sharpens_as_bytes_arrive(browser: Browser, server: Running, streams: list[bytes]) -> None:
    """Each event with a picture replaces the one before; the result brings its label and a mark in the chart."""
    browser.open(server.address)
    before = browser.until_pixels(card("yard", "canvas"))
    browser.until_text("#link", "connected")
    size = len(streams[0])
    for share, level in ((0.3, 60), (0.6, 120)):
        jpeg = small_jpeg(scene(192, 128) // 2 + level)
        server.tell(FrameProgress("yard", 20, round(share * size), size, jpeg, None, None))
        before = browser.until_pixels(card("yard", "canvas"), other_than=before)
    server.tell(server.gallery.keep("yard", 20, streams[0], margin_ms=-7.0, label="swift fox", confidence=0.5))
    browser.until_text(card("yard", ".label b"), "swift fox")
    assert "7.0 ms late" in browser.text(card("yard", ".facts"))
    browser.until_text(card("yard", "figcaption"), "7 of 9 in time")
    assert browser.find(card("yard", ".view")).get_attribute("href").endswith("#/yard/20")


def test_lost_camera_shows_as_lost(browser: Browser, server: Running) -> None:
    """In words, not by colour alone; one that is lost while somebody looks changes at once, and back."""
    browser.open(server.address)
    browser.until_text(card("hall", ".state"), "lost since")
    browser.until_text("#summary", "3 cameras, 1 lost")
    browser.until_text("#link", "connected")
    server.tell(server.gallery.lose("yard"))
    browser.until_text(card("yard", ".state"), "lost since")
    browser.until_text("#summary", "3 cameras, 2 lost")
    browser.shoot("camera-lost")
    server.tell(CameraChanged("yard", True, 0.0))
    browser.until_text(card("yard", ".state"), "live")


def test_camera_that_comes_gets_a_card(browser: Browser, server: Running) -> None:
    """In its place by name, without a picture yet."""
    browser.open(server.address)
    browser.until_text("#link", "connected")
    server.tell(CameraChanged("house", True, 0.0))
    browser.until_text(card("house", ".state"), "waiting for its first frame")
    names = [one.get_attribute("data-camera") for one in browser.driver.find_elements(By.CSS_SELECTOR, ".camera")]
    assert names == ["gate", "hall", "house", "yard"]
    assert "No picture yet" in browser.text(card("house"))


def test_keyboard_leads_to_a_frame_and_through_its_prefixes(browser: Browser, server: Running) -> None:
    """Tab and Enter open a frame; the slider's keys change bytes, steps and picture, down to none."""
    browser.open(server.address)
    browser.until_pixels(card("gate", "canvas"))
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        if browser.driver.switch_to.active_element.get_attribute("class") == "view":
            break
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    whole = browser.until_pixels(".stage canvas")
    browser.until_text(".frame .panel", "whole")
    browser.shoot("frame-light")
    slider = browser.find("#cut")
    assert slider.get_attribute("aria-valuetext")
    slider.send_keys(Keys.PAGE_DOWN)
    slider.send_keys(Keys.PAGE_DOWN)
    slider.send_keys(Keys.ARROW_LEFT)
    part = browser.until_pixels(".stage canvas", other_than=whole)
    browser.until_text(".frame .panel", "a prefix")
    assert part != whole
    browser.shoot("frame-cut")
    slider.send_keys(Keys.HOME)
    browser.until_text(".stage", "No picture yet: the first takes")
    assert browser.text("output").startswith("0 of")
    slider.send_keys(Keys.END)
    assert browser.until_pixels(".stage canvas", other_than=part) == whole


def test_slider_moved_by_hand_ends_where_it_was_left(browser: Browser, server: Running) -> None:
    """Many positions in a row; what is shown in the end belongs to the last one."""
    browser.open(f"{server.address}/#/yard/8")
    browser.until_text(".frame .panel", "whole")
    drag = """
        const slider = document.querySelector("#cut");
        for (let at = 200; at >= 100; at -= 4) { slider.value = at; slider.dispatchEvent(new Event("input")); }
        return document.querySelector("output").innerText;
    """
    assert browser.driver.execute_script(drag) == browser.text("output")
    browser.until_text(".frame .panel dl", browser.text("output"))
    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, ".working") == [], "rest")
    assert browser.text(".frame .panel dl").count(browser.text("output")) == 1


def test_frames_lead_to_earlier_and_later_ones(browser: Browser, server: Running) -> None:
    """By buttons and by the list, as far as there are any; the slider stays where it was, as a share."""
    browser.open(f"{server.address}/#/yard/8")
    browser.until_pixels(".stage canvas")
    assert not browser.find("nav button:last-child").is_enabled()
    browser.find("#cut").send_keys(Keys.PAGE_DOWN)
    at = browser.find("#cut").get_attribute("value")
    browser.find("nav button:first-child").click()
    browser.until_text("h2", "yard, frame 7")
    browser.until_pixels(".stage canvas")
    assert browser.find("#cut").get_attribute("value") == at
    browser.until_text(".record", "4.0 ms late")
    browser.find('.record a[href="#/yard/1"]').click()
    browser.until_text("h2", "yard, frame 1")
    browser.until_pixels(".stage canvas")
    assert not browser.find("nav button:first-child").is_enabled()


def test_newest_frame_is_that_for_a_moment_only(browser: Browser, server: Running, streams: list[bytes]) -> None:
    """The way to the frame that came after it opens while somebody looks."""
    browser.open(f"{server.address}/#/yard/8")
    browser.until_pixels(".stage canvas")
    later = browser.find("nav button:last-child")
    assert not later.is_enabled()
    server.gallery.keep("yard", 9, streams[0])
    browser.until(later.is_enabled, "a way to the next frame")
    later.click()
    browser.until_text("h2", "yard, frame 9")


def test_frame_that_is_not_kept_says_so(browser: Browser, server: Running) -> None:
    """As words in the page; the console's note of the status is the browser's own."""
    browser.open(f"{server.address}/#/yard/4711")
    browser.until_text(".stage", "not kept")
    assert all("404" in line for line in browser.complaints())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_phone_shows_everything_without_scrolling_sideways(
    browser: Browser, server: Running, streams: list[bytes], dark: bool
) -> None:
    """360 pixels are enough for both views, with numbers of frames as cameras give them."""
    number = 1_795_962_921_187
    server.gallery.keep("yard", number, streams[0], margin_ms=227.0, label="grey wolf from the timber", confidence=0.4)
    browser.look(PHONE, dark=dark)
    browser.open(server.address)
    browser.until_pixels(card("yard", "canvas"))
    browser.until_text("#link", "connected")
    assert browser.overflow() <= 0
    browser.shoot(f"phone-cameras-{'dark' if dark else 'light'}")
    browser.open(f"{server.address}/#/yard/{number}")
    browser.until_pixels(".stage canvas")
    browser.until_text(".record", "4.0 ms late")
    assert browser.overflow() <= 0
    inside = "const list = document.querySelector('.record'); return list.scrollWidth - list.clientWidth"
    assert browser.driver.execute_script(inside) <= 0
    browser.shoot(f"phone-frame-{'dark' if dark else 'light'}")


def test_dark_is_dark(browser: Browser, server: Running) -> None:
    """The page follows what the reader prefers; text stays far from its ground in either."""
    script = """
        const levels = (name) => getComputedStyle(document.documentElement)[name].match(/\\d+/g).slice(0, 3);
        return [levels("backgroundColor"), levels("color")].map((of) => of.reduce((sum, one) => sum + Number(one), 0));
    """
    for dark in (False, True):
        browser.look(DESK, dark=dark)
        browser.open(server.address)
        browser.until_pixels(card("yard", "canvas"))
        ground, ink = browser.driver.execute_script(script)
        assert (ground < ink - 400) if dark else (ink < ground - 400)
    browser.shoot("cameras-dark")
    browser.open(f"{server.address}/#/yard/8")
    browser.until_pixels(".stage canvas")
    browser.shoot("frame-dark")


def test_server_that_goes_away_is_missed_and_found_again(
    browser: Browser, tmp_path: Path, cuts: Cuts, streams: list[bytes]
) -> None:
    """The page says so, and asks for what it missed when the server is back."""
    browser.look(DESK)
    with running(Gallery(tmp_path / "store"), cuts) as server:
        browser.open(server.address)
        browser.until_text("#link", "connected")
        browser.until_text("main", "No camera has connected yet.")
    browser.until_text("#link", "no connection to the server")
    gallery = Gallery(tmp_path / "store")
    gallery.keep("yard", 1, streams[0])
    with running(gallery, cuts, server.port):
        browser.until_text("#link", "connected")
        browser.until_pixels(card("yard", "canvas"))
        browser.driver.get("about:blank")
    assert all("ERR_CONNECTION" in line for line in browser.complaints())


def test_server_that_asks_for_a_token_gets_it_once(
    browser: Browser, tmp_path: Path, cuts: Cuts, streams: list[bytes]
) -> None:
    """A wrong one is answered in words, the right one opens the page; loaded anew, it needs none."""
    browser.look(PHONE)
    gallery = Gallery(tmp_path / "store", token="look-0123456789abcdef")
    gallery.keep("yard", 1, streams[0])
    with running(gallery, cuts) as server:
        browser.open(server.address)
        browser.until_text("form", "asks for a token")
        browser.shoot("login")
        browser.find("#token").send_keys("guess", Keys.ENTER)
        browser.until_text("form .fault", "This token is not known.")
        browser.find("#token").send_keys(gallery.token, Keys.ENTER)
        browser.until_pixels(card("yard", "canvas"))
        browser.open(f"{server.address}/#/yard/1")
        browser.until_pixels(".stage canvas")
        browser.driver.delete_all_cookies()
        browser.driver.get("about:blank")
    assert all("401" in line or "/v1/watch" in line for line in browser.complaints())


def test_page_needs_no_other_host(browser: Browser, server: Running) -> None:
    """Everything it loaded came from the server."""
    browser.open(f"{server.address}/#/yard/8")
    browser.until_pixels(".stage canvas")
    script = "return performance.getEntriesByType('resource').map((one) => one.name)"
    loaded = browser.driver.execute_script(script)
    assert len(loaded) > 5
    assert all(name.startswith(server.address) for name in loaded)
