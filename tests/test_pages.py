"""The pages that people read, opened in a browser at two widths, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lobsmith.drift.verdict import Kind
from lobsmith.evaluation.report.render import render_report
from lobsmith.gates.contract_page import Batch, Check, render_contract
from lobsmith.monitoring.drift.page import render_drift
from lobsmith.monitoring.shadow_page import render_shadow
from lobsmith.online.shadow import evaluate_shadow
from tests.browser import Page, browser
from tests.evaluation.test_report import empty
from tests.evaluations import history, realistic
from tests.monitoring.drift import drifted
from tests.online.live_traffic import params, two, until

pytestmark = [pytest.mark.slow, pytest.mark.integration]
WIDTHS = (1400, 420)
RAW = ("nan", "None", "{'", '{"', "—  nats", "— nats", "between —", "[]")
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """[...document.querySelectorAll('body *')]
    .filter(e => !e.closest('svg') && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1)
    .filter(e => getComputedStyle(e).display != 'inline')
    .map(e => `${e.tagName} ${e.className} ${e.getAttribute('aria-label')}`)"""
COLOUR = "getComputedStyle(document.querySelector('.decision')).color"


def shadow(rows: int | None) -> str:
    chosen, pair = params(), two(3600, 0.05)
    pair = pair if rows is None else until(pair, rows)
    return render_shadow(evaluate_shadow(pair, chosen.shadow, chosen.paired), pair, chosen.paired)


def drift_unknown() -> str:
    missing = [msgspec.structs.replace(drifted.concept(), kind=kind) for kind in Kind]
    content = drifted.content(drifted.check(*missing), 0, earlier=(), changes=(), happenings=(), losses=())
    return render_drift(content)


def contract(failed: int) -> str:
    check = Check(column="local_time_step_ns", expected="at least 0", found="−3 to 1,200", failed=failed)
    return render_contract("x:Y events", [Batch(title="x:Y events, events", rows=6019, checks=(check, check))])


PAGES = {
    "evaluation, refused": (lambda: render_report(realistic(), history(), run="20261130T082942-600348"), "refused"),
    "evaluation of nothing": (lambda: render_report(empty(), []), "missing"),
    "drift": (lambda: render_drift(drifted.content()), "refused"),
    "no data for drift": (drift_unknown, "missing"),
    "shadow, promoted": (lambda: shadow(None), "passed"),
    "shadow without rows": (lambda: shadow(0), "missing"),
    "data docs": (lambda: contract(0), "passed"),
    "data docs, refused": (lambda: contract(7), "refused"),
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_and_fetches_nothing(name: str, chromium: Page, tmp_path: Path) -> None:
    make, tone = PAGES[name]
    path = tmp_path / "page.html"
    path.write_text(make())
    backgrounds = set()
    for width in WIDTHS:
        chromium.open(path.as_uri(), dark=width == WIDTHS[1], width=width)
        assert chromium.errors == []
        assert chromium.requested == [path.as_uri()], "nothing is fetched"
        chromium.run("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        assert chromium.run(WIDER) <= 0, width
        assert chromium.run(CUT) == [], width
        sizes = chromium.run("[...document.querySelectorAll('svg')].map(one => [one.clientWidth, one.clientHeight])")
        assert all(wide > 200 and high > 100 for wide, high in sizes)
        text = chromium.run("document.body.innerText.replaceAll('binance', '')")
        assert [raw for raw in RAW if raw in text] == []
        assert chromium.run("document.querySelector('.decision').getBoundingClientRect().bottom < innerHeight / 2")
        assert chromium.run("document.querySelector('.decision').className") == f"decision {tone}"
        backgrounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2, "the scheme is followed"


def test_missing_is_amber_and_wrong_is_red(chromium: Page, tmp_path: Path) -> None:
    path, colours = tmp_path / "page.html", {}
    for name in ("data docs", "data docs, refused", "no data for drift", "drift", "shadow without rows"):
        path.write_text(PAGES[name][0]())
        chromium.open(path.as_uri())
        colours[name] = chromium.run(COLOUR)
    assert colours["no data for drift"] == colours["shadow without rows"] == "rgb(138, 90, 0)"
    assert colours["drift"] == colours["data docs, refused"] == "rgb(163, 22, 26)"
    assert colours["data docs"] == "rgb(23, 102, 58)"
