"""The page of a drift check, read as text and opened in a browser."""

import re
from itertools import product

import msgspec
import pytest

from lobsmith.drift.verdict import Finding, Kind
from lobsmith.monitoring.drift.content import Content
from lobsmith.monitoring.drift.history import as_line
from lobsmith.monitoring.drift.page import drift_since, headline, render_drift
from tests.browser import browser
from tests.monitoring.drift import drifted
from tests.monitoring.test_shadow_page import read


def test_it_says_what_was_found_since_when_and_what_was_done():
    content = drifted.content()
    page = render_drift(content)
    text, drawings = read(page)
    for part in (
        headline(content.check),
        "2026-03-01 13:23:00 UTC, in every check from then on",
        "conservative since 2026-03-01 13:23:00 UTC",
        "normal → conservative",
        "asked for, ahead of its schedule",
        "insufficient history",
        "missing data",
        "3 outcomes are known, 200 are needed",
        "11 past pairs, 40 are needed",
        "event_rate",
        "10^4 (a - b) / m, basis points",
    ):
        assert part in text, part
    assert drawings == 5 + 2 + 1 + 1, "what moved, null distributions, history, losses"
    assert page == render_drift(content)
    assert not re.search(r"(src|href)=\"?https?:", page)
    assert msgspec.json.decode(msgspec.json.encode(content), type=Content) == content


@pytest.mark.parametrize("findings", list(product(Finding, repeat=3)))
def test_only_three_answers_of_no_drift_read_as_no_drift(findings):
    verdicts = drifted.covariate(), drifted.prediction(), drifted.concept()
    pairs = zip(verdicts, findings, strict=True)
    answers = [msgspec.structs.replace(verdict, finding=finding) for verdict, finding in pairs]
    text = headline(drifted.check(*answers))
    fine = text == "No covariate drift, no prediction drift, no concept drift."
    assert fine == (set(findings) == {Finding.NO_DRIFT})
    for verdict in answers:
        assert (f"o {verdict.kind.value} drift" in text) == (verdict.finding is Finding.NO_DRIFT)
        assert verdict.kind.value in text.lower()


def test_a_kind_that_was_not_checked_is_named():
    check = drifted.check(drifted.covariate(Finding.NO_DRIFT))
    assert headline(check) == "No covariate drift. Not checked: prediction and concept drift."
    text, _ = read(render_drift(drifted.content(check)))
    assert text.count("not checked") == 2


def test_drift_is_since_the_first_check_of_an_unbroken_run():
    earlier = [as_line(before, "", None) for before in drifted.earlier_checks(20, 3)]
    assert drift_since(drifted.check(), earlier) == earlier[-3].looked_ns
    assert drift_since(drifted.check(), []) == drifted.NOW_NS
    assert drift_since(drifted.check(drifted.covariate(Finding.NO_DRIFT)), earlier) is None
    unknown = as_line(drifted.check(drifted.concept(), looked_ns=drifted.NOW_NS - 1), "", None)
    assert drift_since(drifted.check(), [*earlier, unknown]) == drifted.NOW_NS, "whether it went on is not known"


def test_with_nothing_to_show_it_says_so():
    nothing = [msgspec.structs.replace(drifted.concept(), kind=kind) for kind in Kind]
    evidently = msgspec.structs.replace(drifted.content().evidently, page=None, failure="it took too long", failures=3)
    page = render_drift(
        drifted.content(
            drifted.check(*nothing), 0, earlier=(), changes=(), happenings=(), losses=(), evidently=evidently
        )
    )
    text, drawings = read(page)
    assert drawings == 1, "the check itself is in its history"
    for part in (
        "Missing data: covariate, prediction and concept drift unknown.",
        "No feature was compared.",
        "the null distribution is not known",
        "whether answers have become worse is not known",
        "There is none: it took too long.",
        "no mode was changed",
    ):
        assert part in text, part


def test_names_are_no_markup():
    sly = '<script>alert("x")</script>'
    verdict = msgspec.structs.replace(drifted.covariate(), reason=sly, moved=(drifted.moved(sly, 1.0, 0.1),))
    assert "<script" not in render_drift(drifted.content(drifted.check(verdict)))


def test_it_opens_in_a_browser(tmp_path):
    path = tmp_path / "drift.html"
    path.write_text(render_drift(drifted.content()))
    with browser() as page:
        page.open(path.as_uri())
        assert page.errors == []
        assert page.requested == [path.as_uri()], "nothing is fetched"
        sizes = page.run("[...document.querySelectorAll('svg')].map(one => [one.clientWidth, one.clientHeight])")
        assert len(sizes) == 9
        assert all(width > 200 and height > 100 for width, height in sizes)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.run(wide) <= 0
        light = page.run("getComputedStyle(document.body).backgroundColor")
        page.open(path.as_uri(), dark=True, width=400)
        assert page.run("getComputedStyle(document.body).backgroundColor") != light
        assert page.run(wide) <= 0, "on a phone tables scroll in themselves"


def test_a_drawing_of_one_bin_or_of_none_spoils_nothing():
    odd = [
        replace_edges(drifted.moved("spread", 1.0, None), edges)
        for edges in ((0.0, 1.0), (), (1e-300, 1e300), (-5.0, 0.0, 1e9))
    ]
    verdict = msgspec.structs.replace(drifted.covariate(), moved=tuple(odd), null=(0.5,), value=None)
    _, drawings = read(render_drift(drifted.content(drifted.check(verdict), 0, losses=())))
    assert drawings == 3 + 1 + 1


def replace_edges(moved, edges):
    shares = (1.0 / max(1, len(edges) - 1),) * max(0, len(edges) - 1)
    return msgspec.structs.replace(moved, edges=edges, reference=shares, recent=shares)
