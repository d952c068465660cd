"""Headless Chromium: a page as a reader has it, on a desktop or a phone, in the dark, or on paper."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
HEIGHT = 800
PLOTS = """
return [...document.querySelectorAll(".plot")].map((plot) => {
  const drawing = plot.querySelector("svg.main-svg");
  const box = drawing ? drawing.getBoundingClientRect() : { width: 0, height: 0 };
  return {
    name: plot.id,
    label: plot.getAttribute("aria-label"),
    width: box.width,
    height: box.height,
    traces: (plot.data ?? []).length,
    drawn: plot.querySelectorAll(".scatterlayer > .trace, .barlayer > .trace, .heatmaplayer > .hm").length,
    outside: [...plot.querySelectorAll("text")].filter((text) => {
      const place = text.getBoundingClientRect();
      return place.width && text.textContent && (place.right > innerWidth || place.left < 0);
    }).map((text) => text.textContent),
  };
});
"""


def missing() -> str | None:
    """Which program is not installed."""
    return next((program for program in PROGRAMS if shutil.which(program) is None), None)


class Browser:
    """One page at a time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, width: int) -> None:
        """Load a page at a width in CSS pixels; below 600 as a phone with a touch screen."""
        phone = width < 600
        metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self._driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self._driver.get(page.as_uri())

    def complaints(self) -> list[str]:
        """Everything that went to the console since the last call, other than plain talk."""
        return [
            entry["message"] for entry in self._driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._driver.execute_script(script)

    def plots(self) -> list[dict[str, Any]]:
        """Every place of a figure, and what is drawn there."""
        return self.run(PLOTS)

    @contextmanager
    def dark(self) -> Iterator[None]:
        """As the reader who prefers dark pages sees it."""
        try:
            self._prefer("dark")
            yield
        finally:
            self._prefer("light")

    def screenshot(self, file: Path) -> None:
        """The whole page, beyond what fits the screen, as JPEG."""
        options = {"format": "jpeg", "quality": 75, "captureBeyondViewport": True}
        metrics = self._driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": metrics["width"], "height": metrics["height"], "scale": 1}
        taken = self._driver.execute_cdp_cmd("Page.captureScreenshot", {**options, "clip": clip})
        file.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self, file: Path) -> bytes:
        """The printed page."""
        printed = self._driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
        file.write_bytes(base64.b64decode(printed["data"]))
        return file.read_bytes()

    def _prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that ends with the block. Nothing is downloaded: both programs are the system's."""
    options = webdriver.ChromeOptions()
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location, service = (shutil.which(program) or "" for program in PROGRAMS)
    driver = webdriver.Chrome(options=options, service=Service(service))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
