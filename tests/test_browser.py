"""The built book in a real browser.

Nothing is loaded, nothing fails, everything can be read and used, and names are text.

The book is built here on a screen of hostile names; `MCNN_BOOK` may name the output folder of
another one to be tested too.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from hostile import COMPOUNDS, NAMES, RENAMED, SCRIPT, write_hostile

from mcnn_core.machine.files import read_table

ROOT = Path(__file__).resolve().parents[1]
ASK = (ROOT / "tests" / "browser.js").read_text(encoding="utf-8")
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")
PHONE, DESK = (390, 844), (1280, 900)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Start a headless Chromium that resolves no host name.

    It keeps a log of requests, and saves downloads in ``driver.downloads``.
    """
    program, helper = (
        shutil.which("chromium") or shutil.which("google-chrome"),
        shutil.which("chromedriver"),
    )
    if not program or not helper:
        pytest.skip("no Chromium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.set_capability("unhandledPromptBehavior", "dismiss")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    driver.set_script_timeout(120)
    driver.downloads = tmp_path_factory.mktemp("downloads")
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(driver.downloads)}
    )
    hook = (
        "window.alerts = []; for (const name of ['alert', 'confirm', 'prompt']) "
        "window[name] = (text) => { window.alerts.push(String(text)) }"
    )
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hook})
    yield driver
    driver.quit()


def build_hostile(folder: Path) -> Path:
    """Build the tiny book on the hostile screen; return its output folder."""
    table, out = write_hostile(folder / "screen"), folder / "book"
    environment = os.environ | {
        "PROFILE": "tiny",
        "SCREEN": str(table),
        "OUT": str(out),
        "PARAMS": "max_steps=2",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "doit", "run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-5000:]
    return out


@pytest.fixture(scope="session")
def hostile(driver, tmp_path_factory) -> Path:
    """Output folder of the book on the hostile screen."""
    return build_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session", params=["hostile", *filter(None, [os.environ.get("MCNN_BOOK")])])
def book(request, driver) -> Path:
    """Folder of a rendered book."""
    return (
        request.getfixturevalue("hostile") if request.param == "hostile" else Path(request.param)
    ) / "html"


def window(driver, size, dark=False):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def ask(driver, function):
    """Return what a function of ``browser.js`` says of the open page."""
    script = (
        f"{ASK}; const done = arguments[0]; "
        f"(async () => {function}())().then(done, (error) => done(String(error)))"
    )
    for _ in range(3):  # on a busy machine a page may still be loading what it is asked about
        if not isinstance(found := driver.execute_async_script(script), str):
            return found
        time.sleep(1)
    raise AssertionError(f"{driver.current_url}: {found}")


def wait(driver, condition, seconds=60):
    """Wait until something is true, and return its value.

    It is a JavaScript expression, or what a function returns.
    """
    end = time.monotonic() + seconds
    while not (
        value := condition()
        if callable(condition)
        else driver.execute_script(f"return {condition}")
    ):
        assert time.monotonic() < end, f"never came true: {condition}"
        time.sleep(0.05)
    return value


def requests(driver):
    """Return every address that was asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def errors(driver):
    """Return what scripts have failed at since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def visits(driver, book):
    """Return what is to be known of every page.

    Each is opened once on a desk, then on a phone, then in the dark.
    """
    seen = {}
    for page in sorted(path for path in book.rglob("*.html") if "_static" not in path.parts):
        window(driver, DESK)
        driver.get(page.as_uri())
        drawn = (
            "typeof Bokeh === 'undefined' || "
            "(Bokeh.documents.length > 0 && Bokeh.documents.every((one) => one.is_idle))"
        )
        wait(driver, drawn)
        found = ask(driver, "facts")
        found["remote"] = [url for url in requests(driver) if not url.startswith(LOCAL)]
        found["errors"] = errors(driver)
        window(driver, PHONE)
        found["overflow"] = ask(driver, "overflow")
        window(driver, DESK, dark=True)
        found["faint in the dark"] = ask(driver, "faint")
        window(driver, DESK)
        found["faint"] = ask(driver, "faint")
        seen[page.relative_to(book).as_posix()] = found
    return seen


def test_no_file_of_the_book_tells_where_it_was_built(book):
    place = str(book.parent).encode()
    assert not [path for path in book.rglob("*") if path.is_file() and place in path.read_bytes()]


@pytest.mark.parametrize(
    "what",
    [
        "remote",
        "errors",
        "blank",
        "nameless",
        "unlabelled",
        "injected",
        "alerts",
        "overflow",
        "faint",
        "faint in the dark",
    ],
)
def test_no_page_has(visits, what):
    wrong = {page: found[what] for page, found in visits.items() if found[what]}
    assert not wrong, json.dumps(wrong, indent=1)[:6000]


BAD = (
    '<!DOCTYPE html><meta name="viewport" content="width=device-width"><title>bad</title>'
    '<body style="margin: 0"><script>alert(1)</script><img src=x onerror=alert(1)>'
    '<figure><img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></figure>\n'
    '<a href="javascript:alert(1)">link</a><button></button>'
    '<p style="color: #ccc; background: #fff">faint</p>'
    '<div style="width: 600px; height: 5px"></div>\n'
    '<script src="https://example.org/x.js"></script><script>nothing.at.all()</script>'
)


def test_a_bad_page_is_seen(driver, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    window(driver, PHONE)
    driver.get((tmp_path / "bad.html").as_uri())
    found = ask(driver, "facts")
    assert (
        found["alerts"] == ["1", "1"]
        and len(found["blank"]) >= 1
        and len(found["nameless"]) == 2
        and len(found["unlabelled"]) == 1
    )
    assert (
        len(found["injected"]) == 2
        and ask(driver, "overflow")
        and "faint" in ask(driver, "faint")[0]
    )
    assert "https://example.org/x.js" in requests(driver) and any(
        "nothing is not defined" in error for error in errors(driver)
    )


def first_page(book: Path) -> str:
    """Return the page that a book or a report opens with."""
    intro = "book/intro.html"
    return intro if (book / intro).exists() else "notebooks/24_summary.html"


def test_pages_have_figures(visits, book):
    pages = {"index.html", "explore.html", "search.html", "notebooks/12_novel.html"}
    assert pages | {first_page(book)} <= set(visits)
    assert sum(found["images"] for found in visits.values()) > 20


def test_every_link_resolves(visits, book):
    from bs4 import BeautifulSoup

    anchors, broken = {}, []
    for page, found in visits.items():
        for address in found["links"]:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = Path(unquote(parts.path))
            if not target.is_file():
                broken.append(f"{page}: {address}")
            elif parts.fragment and target.suffix == ".html":
                if target not in anchors:
                    soup = BeautifulSoup(target.read_bytes(), "html.parser")
                    anchors[target] = {
                        element.get(name)
                        for name in ("id", "name")
                        for element in soup.find_all(attrs={name: True})
                    }
                if unquote(parts.fragment) not in anchors[target]:
                    broken.append(f"{page}: {address}")
    assert not broken, "\n".join(broken)


def test_search_finds(driver, book):
    from selenium.webdriver.common.keys import Keys

    window(driver, DESK)
    driver.get((book / first_page(book)).as_uri())
    driver.execute_script("document.querySelector('.search-button').click()")
    field = wait(
        driver,
        "document.querySelector('dialog[open] input[type=search], "
        ".search-button__wrapper.show input[type=search]')",
    )
    field.send_keys("pre-processing", Keys.ENTER)
    # They come one by one.
    wait(
        driver,
        "[...document.querySelectorAll('#search-results li a')]"
        ".some((a) => a.href.includes('notebooks/02_preprocessing.html'))",
    )
    assert not errors(driver)


# Interactive figures --------------------------------------------------------

DEEP = (
    "const deep = (root, mark) => [...root.querySelectorAll('*')].flatMap((one) => "
    "[...(one.matches(mark) ? [one] : []), "
    "...(one.shadowRoot ? deep(one.shadowRoot, mark) : [])]);"
)


def open_page(driver, page):
    window(driver, DESK)
    driver.get(page.as_uri())
    wait(driver, "Bokeh.documents.length > 0 && Bokeh.documents.every((one) => one.is_idle)")


def inside(driver, mark, nth=0):
    """Return an element of the first interactive figure, also from within Bokeh's own trees."""
    return driver.execute_script(
        DEEP
        + f"return deep(document.querySelector('.interactive-card'), {json.dumps(mark)})[{nth}]"
    )


def said(driver, part):
    return driver.execute_script(
        f"return document.querySelector('.interactive-card [data-part={part}]').textContent"
    )


def drag(driver, element, path):
    """Press at the first offset from the element's middle, go along the others, and let go."""
    from selenium.webdriver import ActionChains

    actions = (
        ActionChains(driver, duration=50)
        .scroll_to_element(element)
        .move_to_element_with_offset(element, *path[0])
        .click_and_hold()
    )
    for place in path[1:]:
        actions.move_to_element_with_offset(element, *place)
    actions.release().perform()


def downloaded(driver, name):
    path, end = driver.downloads / name, time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{name} was not saved"
        time.sleep(0.05)
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    path.unlink()
    return table


def test_table_searches_and_saves(driver, book):
    open_page(driver, book / "notebooks/09_whole_screen.html")
    inside(driver, "input").send_keys("dmso")
    wait(driver, "!document.querySelector('[data-part=count]').textContent.startsWith('64')")
    inside(driver, "button").click()
    saved = downloaded(driver, "table.csv")
    assert (
        len(saved) == int(said(driver, "count").split()[0]) >= 8
        and saved.apply(lambda row: row.str.contains("DMSO").any(), axis=1).all()
    )


def test_curves_turn(driver, book):
    open_page(driver, book / "notebooks/10_potency.html")

    def chosen():
        return inside(driver, "select").get_property("value")

    before = chosen()
    inside(driver, "button", 1).click()
    wait(driver, lambda: chosen() != before and said(driver, "fit"))


def test_matrix_points_and_marks(driver, book):
    from selenium.webdriver import ActionChains

    open_page(driver, book / "notebooks/11_clusters.html")
    plot = inside(driver, ".bk-Figure")
    ActionChains(driver).scroll_to_element(plot).move_to_element_with_offset(
        plot, 20, 10
    ).move_by_offset(3, 3).perform()
    wait(
        driver,
        "document.querySelector('[data-part=distance]').textContent.startsWith('cosine distance')",
    )
    wait(driver, "document.querySelector('[data-part=row] img').naturalWidth > 0")
    inside(driver, "input").send_keys("dmso")
    wait(
        driver,
        "/^[1-9].* treatments match/.test(document.querySelector('[data-part=count]').textContent)",
    )


def status(driver):
    return driver.execute_script("return document.getElementById('status').textContent")


def test_explore_selects_by_search_list_lasso_and_click(driver, book):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    open_page(driver, book / "explore.html")
    wait(driver, "document.documentElement.dataset.ready")

    def find(name):
        return driver.find_element(By.ID, name)

    find("search").send_keys("dmso b02")
    found = wait(driver, "Number(document.getElementById('status').textContent.split(' ')[0])")
    find("save").click()
    saved = downloaded(driver, "selected.csv")
    assert (
        len(saved) == found
        and set(saved["Metadata_Well"]) == {"B02"}
        and set(saved["Metadata_Compound"]) == {"DMSO"}
    )

    def pictures():
        return driver.execute_script("return document.querySelectorAll('#gallery img').length")

    assert pictures() == min(found, 24)
    while find("more").is_displayed():
        find("more").click()
    assert pictures() == found
    wait(driver, "document.querySelector('#gallery img').naturalWidth > 0")
    find("none").click()
    assert status(driver) == "nothing selected" and not find("search").get_property("value")

    value = driver.find_element(By.CSS_SELECTOR, "#legend button")
    value.send_keys("\ue007")  # a key, no mouse
    assert value.get_attribute("aria-pressed") == "true" and value.text.split()[-1] == status(
        driver
    ).split()[0].replace(",", "")
    find("none").click()

    plot = find("plot")
    width, height = plot.size["width"] // 2 - 80, plot.size["height"] // 2 - 60
    drag(
        driver,
        plot,
        [(-width, -height), (width, -height), (width, height), (-width, height), (-width, -height)],
    )
    counted = (
        "return [...document.querySelectorAll('#counts tr')]"
        ".map((row) => Number(row.children[1].textContent))"
    )
    wait(
        driver,
        lambda: (
            status(driver) != "nothing selected"
            and sum(driver.execute_script(counted))
            == int(status(driver).split()[0].replace(",", ""))
            > 1
        ),
    )
    find("none").click()

    place = driver.execute_script("""
        const view = Bokeh.index.find_one ? [...Bokeh.index][0] : Object.values(Bokeh.index)[0],
            plot = Bokeh.documents[0].get_model_by_name('plot')
        const {x, y} = Bokeh.documents[0].get_model_by_name('points').data,
            box = document.querySelector('#plot').getBoundingClientRect()
        return [view.frame.x_scale.compute(x[0]) - box.width / 2,
            view.frame.y_scale.compute(y[0]) - box.height / 2]""")
    ActionChains(driver).scroll_to_element(plot).move_to_element_with_offset(
        plot, *(round(value) for value in place)
    ).click().perform()
    wait(driver, "document.getElementById('status').textContent.split(' ')[0] > 0")
    wait(driver, lambda: pictures() >= 1)

    for name in driver.execute_script(
        "return [...document.getElementById('colour').options].map((one) => one.value)"
    ):
        driver.execute_script(
            "const list = document.getElementById('colour'); "
            "list.value = arguments[0]; list.onchange()",
            name,
        )
        assert driver.execute_script(
            "return document.querySelectorAll('#legend button, #legend #bar, #legend p').length"
        ), name
    assert not errors(driver)


# Names ----------------------------------------------------------------------


def test_names_are_shown_as_text(driver, hostile):
    for page in ("notebooks/01_screen.html", "notebooks/12_novel.html"):
        driver.get((hostile / "html" / page).as_uri())
        assert SCRIPT in driver.execute_script("return document.body.innerText"), page
    driver.get((hostile / "html" / "explore.html").as_uri())
    wait(driver, "document.documentElement.dataset.ready")
    options = driver.execute_script(
        "return [...document.getElementById('colour').options].map((one) => one.textContent)"
    )
    assert [name for name in options if name in NAMES] == NAMES
    driver.execute_script(
        "const list = document.getElementById('colour'); list.value = 'Compound'; list.onchange()"
    )
    listed = driver.execute_script(
        "return [...document.querySelectorAll('#legend bdi')].map((one) => one.textContent)"
    )
    assert set(COMPOUNDS) <= set(listed)


#: Names that say that nothing is known, whoever gave them.
MISSING = {"nan", "None"}


def test_names_reach_every_table_as_they_are(hostile):
    wells = pd.read_parquet(hostile / "whole/profiles_well.parquet")
    for column, names in RENAMED.items():
        assert set(names) - MISSING <= set(wells[f"Metadata_{column}"])
    assert {f"Metadata_{name}" for name in NAMES} <= set(wells) & set(
        pd.read_parquet(hostile / "fields.parquet")
    )
    similar = read_table(hostile / "similarity.csv")
    likes = {f"like {name}" for name in set(RENAMED["MoA"]) - MISSING}
    assert likes <= set(similar) and set(COMPOUNDS) - MISSING <= set(similar["compound"])
