"""The report in a real browser: Debian's chromium, driven by Playwright."""

import os
import shutil
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
import soundfile

from tests.cli import tisdiss
from tests.runs import HOSTILE, add_channels, add_file, failed, line, write_record
from tisdiss_cli.evaluation.results import Curve, Point, Row
from tisdiss_cli.report.scores import write_scores

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SEAMS = ["the speakers may be swapped from 2.5 s, 4.0 s on: the overlap is quiet, or the voices similar"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        arguments = ["--autoplay-policy=no-user-gesture-required", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a page; after the test it must not have complained, nor asked anything of anywhere."""
    said, asked, contexts = [], [], []

    def visit(path: Path, width: int = 1280, scheme: str = "light", fragment: str = ""):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert asked and {urlsplit(url).scheme for url in asked} <= {"file", "data"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of some files to hear and many to list, with another run beside it."""
    root = tmp_path_factory.mktemp("run")
    quality = {"low": 1.0, "high": 9.0, "worst": {"from": 1.0, "to": 3.0}}
    spoken = [(0.5, "s1"), (2.0, "s2"), (4.0, "s2")]
    lines = [
        add_file(
            root / "in", root / "out", f"sub/call {k}.wav", quality={"si_snri": k, **quality}, segments=["call.rttm"]
        )
        for k in range(2)
    ]
    rows = [f"SPEAKER call 1 {start} 1.0 <NA> <NA> {voice} <NA> <NA>\n" for start, voice in spoken]
    (root / "out" / "call.rttm").write_text("".join(rows))
    lines[0] |= {"warnings": SEAMS, "seams": [2.5, 4.0]}
    lines += [line(f"many/{k:03d}.wav", 1.0 + (k * 37) % 101, quality={"si_snri": 5 + k / 10}) for k in range(200)]
    lines.append(failed("broken.wav", "broken.wav is truncated"))
    others = [add_file(root / "in", root / "two", "sub/call 0.wav", swapped=True, repeats=1)]
    write_record(root / "two", others)
    tisdiss("report", write_record(root / "out", lines), "--against", root / "two", "--most", 2, "--quiet")
    return root / "out" / "report" / "index.html"


def wait(page, condition: str, seconds: float = 5.0) -> None:
    """Until it holds; Playwright's own waiting evaluates text, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def names(page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('.row')].sort((a, b) => parseFloat(a.style.top) - parseFloat(b.style.top))"
        ".map((row) => row.querySelector('.c-name').textContent)"
    )


def sounds(page) -> list[dict]:
    return page.evaluate(
        "[...document.querySelectorAll('audio')].map((a) => ({at: a.currentTime, playing: !a.paused, url: a.src}))"
    )


def test_a_file_is_found_by_sorting_and_searching(visit, run):
    page = visit(run)
    assert names(page)[:3] == ["broken.wav", "sub/call 0.wav", "sub/call 1.wav"]
    assert len(names(page)) < 60  # of 203: the others are drawn when they are scrolled to
    lengths = {f"many/{k:03d}.wav": 1.0 + (k * 37) % 101 for k in range(200)}
    page.get_by_role("button", name="length").click()
    assert lengths[names(page)[0]] == max(lengths.values())
    page.get_by_role("button", name="length").click()
    assert lengths[names(page)[0]] == min(lengths.values())
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait(page, "document.querySelector('.list').lastChild.textContent.includes('broken')")  # has no length
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("searchbox").fill("MANY 11")
    wait(page, "document.querySelectorAll('.row').length < 30")
    assert sorted(names(page)) == [f"many/{k:03d}.wav" for k in (11, *range(110, 120))]
    page.get_by_role("searchbox").fill("truncated")
    assert names(page) == ["broken.wav"]
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="doubtful 1").click()
    assert names(page) == ["sub/call 0.wav"]


def test_switching_what_is_heard_keeps_the_place(visit, run):
    page = visit(run)
    page.get_by_text("sub/call 0.wav").click()
    assert page.evaluate("[...document.querySelectorAll('audio')].every((a) => a.preload === 'none')")
    page.keyboard.press("Space")
    wait(page, "document.querySelector('audio').currentTime > 0.3")
    before = sounds(page)
    assert [one["playing"] for one in before] == [True, False, False, False, False]
    page.keyboard.press("2")
    wait(page, "document.querySelectorAll('audio')[1].currentTime > 0.5")
    after = sounds(page)
    assert [one["playing"] for one in after] == [False, True, False, False, False]
    assert before[0]["at"] <= after[0]["at"] <= after[1]["at"] < after[0]["at"] + 3
    page.get_by_role("button", name="4 Voice 2").last.click()
    wait(page, "!document.querySelectorAll('audio')[3].paused")
    assert sounds(page)[3]["at"] >= after[1]["at"] - 0.05
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Space")  # it stops; that it is the button's too must not start it again
    wait(page, "[...document.querySelectorAll('audio')].every((a) => a.paused)")
    stopped = sounds(page)[3]["at"]
    page.keyboard.press("1")
    assert sounds(page)[0]["at"] == pytest.approx(stopped, abs=0.01)
    assert not any(one["playing"] for one in sounds(page))


def test_seeking_with_keys_mouse_and_marks(visit, run):
    page = visit(run)
    page.get_by_text("sub/call 0.wav").click()
    for key, place in (("ArrowRight", 5), ("ArrowRight", 6), ("ArrowLeft", 1), ("Shift+ArrowRight", 2), ("Home", 0)):
        page.keyboard.press(key)
        wait(page, f"Math.abs(document.querySelector('audio').currentTime - {place}) < 0.02")
    box = page.locator(".lane").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    assert sounds(page)[0]["at"] == pytest.approx(3, abs=0.05)
    assert page.locator(".lane .seam").count() == 2 * 5 and page.locator(".spoken i").count() == 3
    middle = page.locator(".lane").first.locator(".seam").first.bounding_box()["x"]
    assert (middle - box["x"]) / box["width"] == pytest.approx(2.5 / 6, abs=0.01)
    page.locator(".marks").get_by_role("button", name="4.0 s").click()
    assert 2.5 <= sounds(page)[0]["at"] < 4.0  # a little before it
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview:visible")
    assert page.locator("audio").count() == 0


def test_two_runs_stand_beside_each_other(visit, run):
    page = visit(run)
    page.get_by_text("sub/call 0.wav").click()
    paths = [Path(unquote_to_bytes(urlsplit(one["url"]).path).decode()).resolve() for one in sounds(page)]
    root = run.parent.parent.parent
    ours, theirs = root / "out" / "sub", root / "two" / "sub"
    mixture = root / "in" / "sub" / "call 0.wav"
    # The other run has the voices in another order: like stands beside like.
    pairs = [ours / "call 0_s1.wav", theirs / "call 0_s2.wav", ours / "call 0_s2.wav", theirs / "call 0_s1.wav"]
    assert paths == [mixture, *pairs]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit, run, scheme):
    page = visit(run, 390, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    levels = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (levels[0] > levels[1] + 300) if scheme == "light" else (levels[1] > levels[0] + 300)
    page.get_by_text("sub/call 0.wav").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wait(page, "[...document.images].slice(0, 2).every((one) => one.complete && one.naturalWidth > 100)")
    assert page.locator(".player button").first.bounding_box()["height"] >= 44
    page.get_by_role("button", name="▶ Play").click()
    wait(page, "document.querySelector('audio').currentTime > 0.1")


def test_names_do_nothing_and_their_links_resolve(visit, tmp_path):
    lines = [add_file(tmp_path / "i n#?%", tmp_path / "o<b>&", name, 1.0, warnings=[name]) for name in HOSTILE]
    out = write_record(tmp_path / "o<b>&", lines)
    tisdiss("report", out, "--most", 2, "--quiet")
    page = visit(out / "report" / "index.html")
    assert len(names(page)) == len(HOSTILE)
    assert page.title().startswith("o<b>&")
    found = set()
    for number in range(len(HOSTILE)):
        page.evaluate(f"location.hash = 'file={number}'")
        wait(page, f"document.querySelectorAll('.links a').length === 3 && location.hash.endsWith('={number}')")
        for address in page.evaluate("[...document.querySelectorAll('.links a')].map((one) => one.href)"):
            parts = urlsplit(address)
            assert parts.scheme == "file" and not parts.query and not parts.fragment
            assert os.path.isfile(unquote_to_bytes(parts.path)), address
            found.add(address)
        title = page.locator("#file h1").text_content()
        assert title.isprintable()
    assert len(found) == 3 * len(HOSTILE)
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src='x'], #table b").count() == 0


def test_ten_thousand_rows_are_quick(visit, tmp_path):
    out = write_record(tmp_path, [line(f"many/{k:05d}.wav", 1.0 + k % 977) for k in range(10_000)])
    tisdiss("report", out, "--most", 0, "--quiet")
    page = visit(out / "report" / "index.html")
    spent = page.evaluate(
        "(() => { const began = performance.now(); const search = document.getElementById('search');"
        "search.value = '999'; search.dispatchEvent(new Event('input'));"
        "document.querySelector('.heads .c-seconds button').click(); return performance.now() - began; })()"
    )
    assert 0 < len(names(page)) < 60
    assert spent < 1000  # ms; a tenth of it where nothing else runs
    page.evaluate("(() => { search.value = ''; search.dispatchEvent(new Event('input')); scrollTo(0, 1e7); })()")
    wait(page, "parseFloat(document.querySelector('.list').lastChild.style.top) > 350000")
    assert len(names(page)) < 80


def test_two_settings_are_compared_file_by_file(visit, tmp_path):
    names_ = ["<i>a</i>", "b", "c"]
    scores = {name: [float(k), 4.0 - k, 2.0 * k] for k, name in enumerate(names_)}
    rows = [
        Row(name, n, value, 0, 0, 0, None, None, "1 2", 1.0, 0.1 * n, "", "k")
        for name, values in scores.items()
        for n, value in zip((1, 2, 4), values, strict=True)
    ]
    series = [
        Point(n, 0.1 * n, float(np.mean([values[k] for values in scores.values()]))) for k, n in enumerate((1, 2, 4))
    ]
    page_path = tmp_path / "scores.html"
    write_scores(
        page_path,
        title="set",
        sentence="",
        facts={"files": 3},
        tables=[{"headings": ["<u>"], "rows": [["<s>"]], "marked": [], "notes": []}],
        curves=[Curve("", series)],
        files={"": rows},
    )
    page = visit(page_path)
    assert names(page) == names_  # at 4 repeats: 0, 2, 4
    assert page.locator("circle.ring").count() == 1 and page.locator("u, s, i").count() == 0
    page.get_by_label("against this one").select_option("2 repeats")
    assert names(page) == ["c", "b", "<i>a</i>"]
    page.get_by_role("button", name="difference").click()
    gains = page.evaluate("[...document.querySelectorAll('.row .c-gain')].map((one) => one.textContent)")
    assert gains == ["0.00", "+2.00", "+4.00"]
    page.get_by_role("searchbox").fill("i>")
    assert names(page) == ["<i>a</i>"]


@pytest.mark.parametrize("against", ["channels", "files", None])
def test_channels_of_one_file_are_heard_one_by_one(visit, tmp_path, against):
    """From its disk: a browser gives no channel of a local file to a page."""
    root, out, two = (tmp_path / name for name in ("in", "out", "two"))
    write_record(out, [add_channels(root, out, "sub/a b.wav")])
    other = ()
    if against:
        add = add_channels if against == "channels" else add_file
        other = ("--against", write_record(two, [add(root, two, "sub/a b.wav", swapped=True)]))
    page = visit(Path(tisdiss("report", out, *other, "--quiet").stdout.strip()), fragment="#file=0")
    wait(page, "document.querySelectorAll('.track .name').length > 1")
    heard = [Path(unquote_to_bytes(urlsplit(sound["url"]).path).decode()) for sound in sounds(page)]
    assert len(heard) == (5 if against else 3)
    first = [np.abs(np.fft.rfft(soundfile.read(path)[0])).argmax() // 6 for path in heard[1:]]  # Hz
    assert first == ([500, 500, 1500, 1500] if against else [500, 1500])
    for key in range(2, len(heard) + 1):
        page.keyboard.press(str(key))
        page.keyboard.press(" ")
        wait(page, f"document.querySelectorAll('audio')[{key - 1}].currentTime > 0.05")
        page.keyboard.press(" ")
    links = page.evaluate("[...document.querySelectorAll('.links a')].map((a) => decodeURI(a.href))")
    assert links[1] == (out / "sub/a b.wav").as_uri().replace("%20", " ")


def test_channels_of_one_file_that_is_not_drawn_are_heard_together(visit, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_record(out, [add_channels(root, out, "a.wav")])
    page = visit(Path(tisdiss("report", out, "--most", 0, "--quiet").stdout.strip()), fragment="#file=0")
    wait(page, "document.querySelectorAll('.track .name').length == 2")
    assert [Path(urlsplit(sound["url"]).path) for sound in sounds(page)] == [root / "a.wav", out / "a.wav"]
    assert "All voices" in page.inner_text(".track:nth-child(2)")
