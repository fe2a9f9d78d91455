"""The dashboard in a real browser: it needs Debian's packages chromium and chromium-driver."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from browser import Browser, frames, why_missing
from cli.processes import QUICK, clockwork, save_dense
from clockwork import Client
from dashboard.sites import Site, behind_a_prefix, emulated, refused_request, requests_to

pytestmark = pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "a browser is installed")

LIVE = "$('#connection').textContent === 'live' && $('#goodput').textContent !== '\\u2013'"
WAIT = "await new Promise((done) => setTimeout(done, 50))"
MODELS = {"cat": 3}
TOKEN = "a-token-for-the-dashboard"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with emulated(2, MODELS) as found, requests_to(found, MODELS, 60, tmp_path_factory.mktemp("load")):
        yield found


def shown(browser: Browser, site: Site) -> Browser:
    """Open the page, and wait until it shows the server."""
    browser.open(site.url)
    browser.wait_for(LIVE)
    return browser


def list_refused(browser: Browser) -> None:
    """List only the refused requests."""
    browser.wait_for("$('#outcome').options.length > 1")
    browser.run("$('#outcome').value = 'refused'; $('#outcome').dispatchEvent(new Event('change'));")


def problems(browser: Browser) -> list[str]:
    return [line for line in browser.log() if not line.startswith(("DEBUG", "INFO"))]


def test_the_page_loads_without_errors_under_its_policy(browser: Browser, site: Site) -> None:
    shown(browser, site)
    browser.wait_for("$$('#weights figure').length === 2")
    browser.wait_for("$$('#models-body tr').length === 5")  # three models and two spacers
    browser.wait_for("$$('#recent tr').length > 0")
    assert browser.text("#stage") == "serving"
    assert problems(browser) == []


def test_the_timeline_moves_and_a_batch_opens_its_explanation(browser: Browser, site: Site) -> None:
    shown(browser, site)
    first = browser.wait_for("Number($('#timeline').dataset.frames) > 2 && $('#timeline').toDataURL()")
    browser.run(
        f"while ($('#timeline').toDataURL() === args[0]) {WAIT};",
        first,
    )
    browser.press("p")  # so that the batches stay where they are
    clicked = """
    const canvas = $("#timeline"), box = canvas.getBoundingClientRect();
    for (let y = 24; y < box.height; y += 4) for (let x = 200; x < box.width * 0.6; x += 2) {
      const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
      canvas.dispatchEvent(new PointerEvent("pointermove", at));
      if (canvas.style.cursor !== "pointer") continue;
      canvas.dispatchEvent(new PointerEvent("click", at));
      return $("#tip").textContent;
    }
    """
    tip = browser.run(clicked)
    assert "cat-" in tip
    browser.wait_for("$('#explanation').open && $('#explanation .steps')")
    outcome = browser.text("#explanation-body")
    assert "in time" in outcome or "late after" in outcome  # a busy machine breaks promises
    assert "request=" in browser.value("location.hash")
    browser.press("Escape")
    browser.wait_for("!$('#explanation').open")
    assert problems(browser) == []


def test_the_timeline_is_also_a_table(browser: Browser, site: Site) -> None:
    shown(browser, site)
    browser.click("#timeline-details summary")
    browser.wait_for("$$('#timeline-rows button').length > 0")
    browser.press("p")
    browser.click("#timeline-rows tr:last-child button")
    browser.wait_for("$('#explanation .facts')")
    label = browser.value("$('#timeline').getAttribute('aria-label')")
    assert "batches in the last second" in label


def test_a_refusal_appears_with_its_reason_and_its_explanation(browser: Browser, site: Site) -> None:
    shown(browser, site)
    refused_request(site, "cat-1", "too-fast")
    browser.wait_for("$('#reasons').textContent.includes('device too slow')")
    list_refused(browser)
    browser.wait_for("$$('#recent button').some((button) => button.textContent === 'too-fast')")
    browser.run("$$('#recent button').find((button) => button.textContent === 'too-fast').click()")
    browser.wait_for("$('#explanation .why')")
    text = browser.text("#explanation-body")
    assert "refused (device too slow)" in text
    assert "no device can meet this SLO" in text


def test_an_address_with_a_request_opens_its_explanation(browser: Browser, site: Site) -> None:
    refused_request(site, "cat-1", "a/b c")
    browser.open(f"{site.url}#request=a%2Fb+c")
    browser.wait_for("$('#explanation .why')")
    assert browser.text("#explanation-title") == "Request a/b c"


def test_ids_of_clients_are_shown_as_text(browser: Browser, site: Site) -> None:
    refused_request(site, "cat-1", "<img src=x onerror=alert(1)>")
    shown(browser, site)
    list_refused(browser)
    browser.wait_for("$('#recent').textContent.includes('<img src=x')")
    assert browser.value("$$('#recent img').length") == 0


def test_the_models_can_be_filtered_and_sorted_with_the_keyboard(browser: Browser, site: Site) -> None:
    shown(browser, site)
    names = "$$('#models-body .link').map((button) => button.textContent).join()"
    browser.wait_for(f"{names}.split(',').length === 3")
    browser.press("/")
    assert browser.value("document.activeElement.id") == "filter"
    browser.press("2")
    browser.wait_for(f"{names} === 'cat-2'")
    assert browser.text("#models-count") == "1 of 3"
    browser.run("const field = $('#filter'); field.value = ''; field.dispatchEvent(new Event('input'));")
    browser.run("$('#models-head button').focus()")
    browser.press("Enter")
    browser.wait_for(f"{names} === 'cat-1,cat-2,cat-3'")
    assert browser.value("$('#models-head th').getAttribute('aria-sort')") == "ascending"
    browser.press("Enter")
    browser.wait_for(f"{names} === 'cat-3,cat-2,cat-1'")


def test_a_paused_page_stays_as_it_is_and_continues(browser: Browser, site: Site) -> None:
    shown(browser, site)
    browser.press("p")
    assert browser.value("$('#pause').getAttribute('aria-pressed')") == "true"
    before = browser.value("$('#timeline').dataset.frames")
    browser.run("await new Promise((done) => setTimeout(done, 700))")
    assert browser.value("$('#timeline').dataset.frames") == before
    browser.press("p")
    browser.wait_for(f"Number($('#timeline').dataset.frames) > {before}")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_its_width_and_passes_an_accessibility_checker(
    browser: Browser, site: Site, width: int, dark: bool
) -> None:
    browser.resize(width, 900, dark=dark)
    refused_request(site, "cat-1", "narrow")
    shown(browser, site)
    browser.wait_for("$$('#reasons tr').length > 0")
    assert browser.value("document.documentElement.scrollWidth") <= width
    check_accessibility(browser)
    browser.run("location.hash = '#request=narrow'")
    browser.wait_for("$('#explanation .facts')")
    assert browser.value("document.documentElement.scrollWidth") <= width
    check_accessibility(browser)


def check_accessibility(browser: Browser) -> None:
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("the package axe-core-python is not installed; run: make setup")
    browser.run(Path(found.origin).with_name("axe.min.js").read_text() + "; window.axe = axe;")
    violations = browser.run("return (await window.axe.run()).violations")
    told = [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}" for each in violations for node in each["nodes"]
    ]
    assert not told, "\n".join(told)


def test_the_page_works_behind_a_path_prefix(browser: Browser, site: Site) -> None:
    with behind_a_prefix(site, "/team/clockwork/") as url:
        browser.open(url)
        browser.wait_for(LIVE)
        browser.wait_for("$$('#recent tr').length > 0")
        assert problems(browser) == []
        browser.open("about:blank")


def test_the_page_asks_for_a_token_and_never_puts_it_into_an_address(browser: Browser, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    with emulated(1, {"cat": 1}, f"--inference-token-file={tokens}") as guarded:
        browser.open(guarded.url)
        browser.wait_for("$('#token-dialog').open")
        assert "a bearer token is needed" in browser.text("#token-why")
        browser.run("$('#token').value = args[0]", TOKEN)
        browser.click("#token-dialog button[value=save]")
        browser.wait_for(LIVE)
        assert browser.text("#stage") == "serving"
        addresses = browser.value(
            "[location.href, ...performance.getEntriesByType('resource').map((each) => each.name)]"
        )
        assert not [address for address in addresses if TOKEN in address]


def test_the_page_shows_what_a_worker_found_on_its_machine(browser: Browser, tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))
    with clockwork("serve", model, "--listen=127.0.0.1:0", *QUICK, "--http=127.0.0.1:0") as process:
        address = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        with Client(process.address()) as client:
            (worker,) = client.status().workers
        browser.open(f"http://{address}/")
        browser.wait_for("$$('#workers tr').length")
        rows = browser.value("[...$$('#findings tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")
        assert rows == [[worker.id, found.name, found.level, found.found] for found in worker.findings]
        assert browser.value("$('#findings-table').hidden") == (not rows)
        browser.open("about:blank")


def test_the_page_says_when_the_server_is_gone(browser: Browser) -> None:
    with emulated(1, {"cat": 1}) as short:
        shown(browser, short)
    browser.wait_for("$('#stage').textContent === 'disconnected'")


def test_400_models_on_8_devices_stay_smooth(
    windows: Callable[[], Browser], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    browser, many = windows(), {"cat": 400}
    with emulated(8, many) as large, requests_to(large, many, 200, tmp_path):
        shown(browser, large)
        browser.wait_for("$('#models-count').textContent === '400'")
        browser.wait_for("$$('#weights figure').length === 8")
        browser.run("performance.clearMeasures()")
        times = frames(browser, 3)
        browser.run("$('#models-scroll').scrollTop = 5000")
        times += frames(browser, 1)
        work = browser.value("performance.getEntriesByName('clockwork').map((each) => each.duration)")
        report = f"frames: {summary(times)}; work of the page in a frame: {summary(work)}"
        record_property("frames", report)
        print(report)
        assert work
        assert browser.value("$$('#models-body tr').length") < 60
        assert browser.value("$$('*').length") < 2500
        assert browser.value("$$('#recent tr').length") <= 50
        browser.open("about:blank")


def summary(times: list[float]) -> str:
    p99 = sorted(times)[int(len(times) * 0.99)]
    return f"{len(times)}, median {median(times):.1f} ms, p99 {p99:.1f} ms, longest {max(times):.1f} ms"


def test_the_work_of_a_snapshot_is_divided_among_frames(browser: Browser, site: Site) -> None:
    shown(browser, site)
    script = """
    const { Work } = await import("./dashboard/work.js");
    const work = new Work(), done = [];
    const busy = (name) => () => {
      done.push([name, work.frames]);
      for (const end = performance.now() + 10; performance.now() < end;);
    };
    for (const name of ["a", "b", "c"]) work.add(name, busy(name));
    work.add("b", busy("newer b"));
    while (done.length < 3) await new Promise((next) => setTimeout(next, 5));
    return done;
    """
    assert browser.run(script) == [["a", 0], ["newer b", 1], ["c", 2]]
