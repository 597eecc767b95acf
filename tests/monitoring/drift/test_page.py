"""The page of a drift check, read as text and opened in a browser."""

import re
from itertools import product

import msgspec
import pytest

from lobsmith.drift.verdict import Finding, Kind
from lobsmith.monitoring.drift.content import Content
from lobsmith.monitoring.drift.history import as_line
from lobsmith.monitoring.drift.page import drift_since, headline, render_drift
from tests.monitoring.drift import drifted
from tests.monitoring.test_shadow_page import read


def test_it_says_what_was_found_since_when_and_what_was_done():
    content = drifted.content()
    page = render_drift(content)
    text, drawings = read(page)
    for part in (
        headline(content.check),
        "2026-03-01 13:23 UTC, in every check from then on",
        "conservative since 2026-03-01 13:23 UTC",
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
    assert headline(check) == "No covariate drift; prediction and concept drift not checked."
    text, _ = read(render_drift(drifted.content(check)))
    assert text.count("not checked") == 1 + 2, "the headline, and each kind"


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
    assert drawings == 0, "a first check has no history"
    for part in (
        "Covariate, prediction and concept drift unknown: missing data.",
        "This is the first check of this instrument",
        "No feature was compared.",
        "the null distribution is not known",
        "whether answers have become worse is not known",
        "There is none: it took too long.",
        "no mode was changed",
    ):
        assert part in text, part


def test_history_draws_only_what_is_known():
    nothing = [msgspec.structs.replace(drifted.concept(), kind=kind) for kind in Kind]
    check = drifted.check(*nothing)
    earlier = (as_line(drifted.check(*nothing, looked_ns=drifted.NOW_NS - 300 * drifted.S), "", None),)
    page = render_drift(drifted.content(check, 0, earlier=earlier, losses=()))
    assert 'aria-label="Findings of 2 checks"' in page
    assert "AUC of rows" not in page
    assert "p-value<" not in page


@pytest.mark.parametrize(
    ("findings", "tone"),
    [
        ((Finding.DRIFT, Finding.MISSING, Finding.NO_DRIFT), "refused"),
        ((Finding.MISSING, Finding.INSUFFICIENT, Finding.NO_DRIFT), "missing"),
        ((Finding.INSUFFICIENT, Finding.NO_DRIFT, Finding.NO_DRIFT), "no-different"),
        ((Finding.NO_DRIFT, Finding.NO_DRIFT, Finding.NO_DRIFT), "passed"),
    ],
)
def test_drift_is_red_and_missing_data_amber(findings, tone):
    verdicts = zip((drifted.covariate(), drifted.prediction(), drifted.concept()), findings, strict=True)
    check = drifted.check(*(msgspec.structs.replace(verdict, finding=finding) for verdict, finding in verdicts))
    page = render_drift(drifted.content(check, 0, losses=()))
    assert f'<p class="decision {tone}">' in page


def test_names_are_no_markup():
    sly = '<script>alert("x")</script>'
    verdict = msgspec.structs.replace(drifted.covariate(), reason=sly, moved=(drifted.moved(sly, 1.0, 0.1),))
    assert "<script" not in render_drift(drifted.content(drifted.check(verdict)))


def test_a_drawing_of_one_bin_or_of_none_spoils_nothing():
    odd = [
        replace_edges(drifted.moved("spread", 1.0, None), edges)
        for edges in ((0.0, 1.0), (), (1e-300, 1e300), (-5.0, 0.0, 1e9))
    ]
    verdict = msgspec.structs.replace(drifted.covariate(), moved=tuple(odd), null=(0.5,), value=None)
    _, drawings = read(render_drift(drifted.content(drifted.check(verdict), 0, losses=())))
    assert drawings == 3 + 1


def replace_edges(moved, edges):
    shares = (1.0 / max(1, len(edges) - 1),) * max(0, len(edges) - 1)
    return msgspec.structs.replace(moved, edges=edges, reference=shares, recent=shares)
