"""The page on two versions that answered the same rows."""

import re
from html.parser import HTMLParser

import pytest

from lobsmith.monitoring.shadow_page import render_shadow
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
    text, drawings = read(render_shadow(evaluate_shadow(pair, chosen.shadow, chosen.paired), pair, chosen.paired))
    assert drawings == 0
    assert "No block is judged yet." in text


def test_a_version_without_fallback_and_without_answers_has_a_page():
    chosen = params()
    pair = without_fallback(silent(two(900, 0.0).second))
    verdict = evaluate_rollback(pair, chosen.rollback, chosen.paired)
    text, _ = read(render_shadow(verdict, pair, chosen.paired))
    assert verdict.reason in text
    assert "deadline" in text
