"""The page on two versions that answered the same rows."""

import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from lobsmith.monitoring.shadow_page import difference_text, render_shadow
from lobsmith.online.evidence import PROMOTE
from lobsmith.online.rollback import evaluate_rollback, without_fallback
from lobsmith.online.shadow import evaluate_shadow
from tests.online.live_traffic import params, silent, two, until


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.drawings = 0

    def handle_starttag(self, tag, attrs):
        self.drawings += tag == "svg"

    def handle_data(self, data):
        self.texts.append(" ".join(data.split()))


def read(page: str) -> tuple[str, int]:
    reader = Reader()
    reader.feed(page)
    return " ".join(filter(None, reader.texts)), reader.drawings


def test_it_says_what_was_decided_and_on_what():
    chosen, pair = params(), two(3600, 0.05)
    verdict = evaluate_shadow(pair, chosen.shadow, chosen.paired)
    assert verdict.decision == PROMOTE
    page = render_shadow(verdict, pair, chosen.paired)
    text, drawings = read(page)
    assert drawings == 2
    for part in ("lob 2 beside lob 1", verdict.reason, "promote", f"{verdict.blocks} of 30 s", "50 ms", "1 s"):
        assert part in text
    assert page == render_shadow(verdict, pair, chosen.paired)
    assert not re.search(r"(src|href)=\"?https?:", page)


@pytest.mark.parametrize("rows", [0, 1, 200])
def test_with_little_to_show_it_says_so(rows):
    chosen, pair = params(), until(two(3600, 0.05), rows)
    verdict = evaluate_shadow(pair, chosen.shadow, chosen.paired)
    page = render_shadow(verdict, pair, chosen.paired)
    text, drawings = read(page)
    assert '<p class="decision missing">' in page
    assert drawings == 0
    assert "No block is judged yet." in text
    assert f"lob 2 is not decided yet: {verdict.reason}." in text
    assert "— nats" not in text
    next_step = "Rows come from live clients" if not rows else "The first 300 s of traffic fix the length of blocks"
    assert next_step in text
    assert ("no rows with an answer of both" in text) == (rows == 0)


def test_a_version_without_fallback_and_without_answers_has_a_page():
    chosen = params()
    pair = without_fallback(silent(two(900, 0.0).second))
    verdict = evaluate_rollback(pair, chosen.rollback, chosen.paired)
    text, _ = read(render_shadow(verdict, pair, chosen.paired))
    assert verdict.reason in text
    assert "deadline" in text
    assert "lob 2 beside no fallback" in text
    assert "none of which has an answer of both versions and a known outcome" in text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.02, 0.01, "−0.0100 nats a row, between −0.0200 and +0.0100 at all times"),
        (-0.02, None, "−0.0100 nats a row, above −0.0200 at all times"),
        (None, 0.01, "−0.0100 nats a row, below +0.0100 at all times"),
        (None, None, "−0.0100 nats a row, its interval is not known yet"),
    ],
)
def test_an_end_that_is_not_known_is_not_drawn(low, high, text):
    chosen, pair = params(), until(two(3600, 0.05), 1)
    verdict = evaluate_shadow(pair, chosen.shadow, chosen.paired)
    known = replace(verdict, difference=-0.01, low=low, high=high, mean_difference=None)
    assert difference_text(known) == text
    assert difference_text(verdict) == "not known: no block is judged yet"
