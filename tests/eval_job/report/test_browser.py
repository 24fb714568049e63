"""The page as a reader opens it: headless Chromium at two widths and in both colour schemes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from eval_job.report.page import write_page
from schemas.layer_study import SetCheck, SetImage
from stages.shards import open_calibration_set

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
DRIVER = shutil.which("chromedriver") or ""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
BACKGROUND = {"light": "rgb(252, 252, 250)", "dark": "rgb(20, 23, 26)"}

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="NOT TESTED: report.html was opened in no browser; install chromium and chromium-driver",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(run: Any, exported: Any, sensitivity: Any, tmp_path: Path) -> Path:
    """Every section filled, under names as long as they come."""
    long = "a_class_name_without_any_blank_that_is_longer_than_a_telephone_is_wide"
    models = [
        each.model_copy(update={"per_class": each.per_class | {long: 0.1}, "name": each.name})
        for each in exported.models
    ]
    data = exported.data.model_copy(update={"source": "/a/rather/long/path/to/" + long})
    report = exported.model_copy(update={"models": tuple(models), "data": data})
    write_page(report, run.evaluation, [run.student], run.calibration_set, tmp_path / "page.html")
    return tmp_path / "page.html"


def emulate(browser: Any, width: int, scheme: str) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme_feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_feature)


def requests_of(browser: Any, page: str) -> set[str]:
    """What the page asked for, itself included; data URIs ask nobody."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = {params["request"]["url"] for params in sent if params["documentURL"] == page}
    return {url for url in urls if not url.startswith("data:")}


def test_the_page_opens_without_error_request_or_overflow_at_any_width_in_any_scheme(browser: Any, page: Path) -> None:
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            emulate(browser, width, scheme)
            browser.get(page.as_uri())
            assert browser.execute_script("return innerWidth") == width
            assert browser.execute_script("return document.documentElement.scrollWidth") == width, (width, scheme)
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert background == BACKGROUND[scheme]
            pictures = (
                "return [...document.querySelectorAll('svg.picture')].every(p => p.getBoundingClientRect().width > 60)"
            )
            assert browser.execute_script(pictures)

    assert browser.get_log("browser") == []
    assert requests_of(browser, page.as_uri()) == {page.as_uri()}


def test_text_stands_out_from_what_is_behind_it(browser: Any, page: Path) -> None:
    """WCAG AA asks for a contrast of 4.5; measured for the colours that text has on the page and on panels."""
    contrast = """
        const luminance = colour => {
          const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = element => {
          for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
          }
        };
        return Math.min(...[...document.querySelectorAll('h1,h2,h3,p,th,td,dt,dd,li,a,small,summary,figcaption,code')]
          .map(e => [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => b - a))
          .map(([light, dark]) => (light + 0.05) / (dark + 0.05)));
    """
    for scheme in ("light", "dark"):
        emulate(browser, 1280, scheme)
        browser.get(page.as_uri())
        assert browser.execute_script(contrast) >= 4.5, scheme


def test_the_contact_sheet_is_searched_and_sorted_and_shows_failed_labels_alone(
    browser: Any, run: Any, tmp_path: Path
) -> None:
    opened = open_calibration_set(run.calibration_set)
    images = tuple(
        SetImage(index=n, labels=1, found=0.0 if n == 4 else 1.0, failed=(0,) if n == 4 else ()) for n in range(6)
    )
    check = SetCheck(set_digest=opened.manifest.digest, confidence=0.25, images=images)
    report = run.report.model_copy(update={"set_check": check})
    write_page(report, run.evaluation, [run.student], run.calibration_set, tmp_path / "page.html")
    emulate(browser, 1280, "light")
    browser.get((tmp_path / "page.html").as_uri())

    def visible() -> list[int]:
        tiles = "[...document.querySelectorAll('#tiles > li')]"
        return browser.execute_script(f"return {tiles}.filter(e => e.offsetWidth).map(e => +e.dataset.index)")

    def put(name: str, value: str, prop: str = "value") -> None:
        browser.execute_script(
            f"const e = document.querySelector('.tools[data-of=tiles] [name={name}]'); e.{prop} = {value};"
            "e.dispatchEvent(new Event('input'));"
        )

    assert visible() == [0, 1, 2, 3, 4, 5]
    first = opened.manifest.teacher.class_names[opened.samples[0].labels.boxes[0].category_id]
    put("search", json.dumps(first.upper()))
    found = visible()
    assert 0 in found and len(found) < 6
    put("search", '"no such class"')
    assert visible() == []
    put("search", '""')
    put("order", '"least"')
    assert visible()[0] == 4
    put("alone", "true", "checked")
    assert visible() == [4]
    assert browser.get_log("browser") == []
