import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from lobsmith.evaluation import results as ev
from lobsmith.evaluation.report import formatting
from lobsmith.evaluation.report.evidence import listed
from lobsmith.evaluation.report.headline import headline
from lobsmith.evaluation.report.render import render_report, with_version
from lobsmith.evaluation.results import MODEL, Interval
from lobsmith.features.definitions import DIRECTIONS
from lobsmith.verdict import Verdict
from tests.evaluations import BASELINES, HORIZONS, compared, history, realistic

SENTENCES = ("better", "no different", "worse")
VOID = {"meta", "link", "br", "hr", "img", "input"}
INTERVALS = {"better": (-0.02, -0.03, -0.01), "no different": (0.001, -0.004, 0.006), "worse": (0.02, 0.01, 0.03)}


class Page(HTMLParser):
    """Reads a page, and insists that whatever is opened is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def source() -> str:
    return render_report(realistic(), history())


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def undrawn() -> ev.Evaluation:
    """Without drawings, for tests of a page's text."""
    return replace(realistic(), calibration=[], confidence=[], effects=[], attention=[])


def empty() -> ev.Evaluation:
    lists = (
        "dependence",
        "horizon_metrics",
        "comparisons",
        "calibration",
        "confidence",
        "confusion",
        "effects",
        "heads",
    )
    nothing = {name: [] for name in (*lists, "attention", "seeds")}
    return replace(realistic(), **nothing, rows={}, class_shares={}, verdicts=())


def test_the_page_fetches_nothing_and_runs_nothing(source: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert (value or "").startswith("#")
    assert not re.search(r"url\((?!#)|@import", source)
    assert len(source.encode()) < 1_500_000


def test_all_predictors_and_horizons_are_there(page: Page) -> None:
    for predictor in (MODEL, *BASELINES):
        assert page.text.count(predictor) >= 2 * len(HORIZONS)
    headings = [formatting.horizon(horizon) for horizon in HORIZONS]
    assert headings == ["50 ms", "100 ms", "1 s", "10 s"]
    for name in headings:
        assert page.text.count(name) > 5
    assert page.text.count("best") >= len(HORIZONS)


def test_contents_lead_to_sections_and_no_id_comes_twice(source: str, page: Page) -> None:
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    targets = {str(attributes["href"])[1:] for attributes in page.all("a")}
    assert targets == {str(attributes["id"]) for attributes in page.all("h2")}
    for target in re.findall(r'(?:url\(|href=")#([^")]+)', source):
        assert target in ids


def test_every_table_scrolls_and_every_drawing_has_a_text(page: Page) -> None:
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert len(regions) == len(page.all("table")) > 4 * 3
    folds = page.all("details")
    assert len(folds) == 2 + 2 * len(HORIZONS), "evidence of two gates, metrics and precision of each horizon"
    assert len(page.all("svg")) == 3 * len(HORIZONS) + 2
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.all("svg"))


def test_colours_follow_the_scheme(source: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawings)) == set()
    assert "prefers-color-scheme: dark" in source


def test_same_figures_give_the_same_bytes(source: str) -> None:
    assert render_report(realistic(), history()) == source


def test_names_stay_harmless() -> None:
    plain, hostile = realistic(), '<script>alert(1)</script> "><img src=x onerror=y> a & $b_{c}$ </svg>'
    page = Page(
        render_report(
            replace(
                plain,
                instrument=replace(plain.instrument, symbol=hostile, venue=hostile),
                network=hostile,
                protocol=hostile,
                horizon_metrics=[replace(metrics, predictor=hostile) for metrics in plain.horizon_metrics],
                comparisons=[replace(comparison, against=hostile) for comparison in plain.comparisons],
                calibration=[replace(calibration, predictor=hostile) for calibration in plain.calibration],
                heads=[replace(head, output=hostile) for head in plain.heads],
                rows={hostile: 3},
                class_shares={hostile: [0.2, 0.6, 0.2]},
                verdicts=(Verdict(gate=hostile, passed=True, value=1, threshold=2, evidence={hostile: [hostile]}),),
            ),
            history(),
        )
    )
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert hostile in page.text


def test_what_is_missing_is_a_dash() -> None:
    plain, none = realistic(), Interval(math.nan, math.nan, math.nan)
    broken = replace(
        plain,
        horizon_metrics=[
            replace(metrics, log_loss=none, macro_f1=none, mcc=none, accuracy=math.nan, pr_auc={})
            for metrics in plain.horizon_metrics
        ],
        comparisons=[replace(comparison, difference=none) for comparison in plain.comparisons],
        calibration=[
            replace(calibration, ece=math.nan, floor=math.nan, floor_95=math.nan) for calibration in plain.calibration
        ],
        confidence=[
            replace(point, rows=0, blocks=0, precision=math.nan, mean_confidence=math.nan, recall=math.nan)
            for point in plain.confidence
        ],
        confusion=[replace(matrix, counts=[[0] * 3] * 3) for matrix in plain.confusion],
        effects=[replace(effect, trades=0, gross_bps=math.nan, net_bps=none) for effect in plain.effects],
        heads=[replace(head, mean=math.nan, loss=math.nan, reference=0.0, pr_auc=None) for head in plain.heads],
        attention=[math.nan] * 4,
        verdicts=(Verdict(gate="skill", passed=False, value=math.nan, threshold=math.inf),),
    )
    page = Page(render_report(broken, [SimpleNamespace(epoch=0, train_loss=math.nan, validation_loss=math.nan)]))
    assert "nan" not in page.text.replace("finance", "").replace("binance", "")
    assert page.text.count("no rows at 0.50, 0.60, 0.70, 0.80, 0.90") == 0, "no table of precision without rows"
    assert page.text.count("No rows: none reaches any of these confidences.") == len(HORIZONS)
    assert page.text.count("no trades at 0.60, 0.70, 0.80, 0.90") == len(HORIZONS)
    assert formatting.DASH in page.text
    assert "logistic —: not known" in page.text
    assert "Model : —, floor —, 95th percentile —: not known" in page.text
    assert "shows no attention weights" in page.text


def test_empty_lists_are_sentences() -> None:
    page = Page(render_report(empty(), []))
    assert page.all("table") == []
    assert page.all("svg") == []
    for sentence in (
        "No held-out rows were measured; no gate was evaluated.",
        "No gate was evaluated.",
        "No horizon was evaluated.",
        "No predictor was measured.",
        "compared with no other predictor",
        "Calibration was not measured.",
        "Precision by confidence was not measured.",
        "No confusion was counted.",
        "effect after fees and spread was not measured",
        "has no auxiliary outputs",
        "shows no attention weights",
        "dependence of rows was not measured",
        "No training was logged.",
    ):
        assert sentence in page.text


@pytest.mark.parametrize("answer", SENTENCES)
def test_the_interval_decides_the_headline(answer: str) -> None:
    plain = undrawn()
    model = next(metrics for metrics in plain.horizon_metrics if metrics.predictor == MODEL)
    only = ev.Comparison(against="logistic", horizon_ms=model.horizon_ms, difference=Interval(*INTERVALS[answer]))
    evaluation = replace(
        plain, horizon_metrics=[replace(model, log_loss=Interval(0.652, 0.64, 0.664))], comparisons=[only]
    )
    headline = Page(render_report(evaluation, [])).text.partition("distinguish the two.")[2]
    assert "Log-loss 0.652 [0.640, 0.664]" in headline
    assert f"logistic {formatting.interval(only.difference, signed=True)}: {answer} ." in headline
    assert f"{answer} {'from' if answer == 'no different' else 'than'} 1 of 1 baseline." in headline


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-2, -1, "better"), (-1, 0, "no different"), (0, 1, "no different"), (1, 2, "worse"), (math.nan, 1, "not known")],
)
def test_only_an_interval_without_zero_judges(low: float, high: float, answer: str) -> None:
    assert formatting.outcome(Interval((low + high) / 2, low, high)) == answer


def test_calibration_text() -> None:
    calibration = ev.Calibration(predictor=MODEL, horizon_ms=50, ece=0.031, floor=0.028, floor_95=0.036, points=[])
    assert formatting.calibration_text(calibration) == "0.031, floor 0.028, 95th percentile 0.036: within"
    assert formatting.calibration_text(replace(calibration, ece=0.05)).startswith(
        "0.050, floor 0.028, 95th percentile 0.036: above"
    )


def test_few_blocks_are_named_by_direction(page: Page) -> None:
    level = next(point for point in realistic().confidence if point.direction == "down")
    levels = [replace(level, confidence=0.5, blocks=50), replace(level, confidence=0.9, blocks=12)]
    assert formatting.few_blocks("down", levels) == "Down: too few independent blocks to judge at 0.90 (12)."
    assert formatting.few_blocks("up", levels[:1]) == ""
    few = [replace(level, confidence=0.5, blocks=49), replace(level, confidence=0.9, blocks=2)]
    assert formatting.few_blocks("up", few) == "Up: too few independent blocks to judge at any confidence (49 at most)."
    for direction in DIRECTIONS:
        assert f"{direction.capitalize()}: too few independent blocks" in page.text


def test_net_effects_are_judged_by_their_intervals() -> None:
    effect = realistic().effects[0]
    effects = [replace(effect, net_bps=Interval(0, low, high)) for low, high in ((0.1, 0.3), (-0.1, 0.2), (-0.3, 0))]
    text = "1 s: net of fees and spread, the interval lies above zero at 1 of 3 confidences, below zero at none."
    assert formatting.earnings("1 s", effects) == text


def test_verdicts_come_first(page: Page) -> None:
    assert page.all("h2")[0]["id"] == "verdicts"
    assert "; refused by 1 of 3 gates: calibration." in page.text
    assert "against base rate" in page.text
    passed = replace(undrawn(), verdicts=realistic().verdicts[:2])
    assert "; passed by all 2 gates." in Page(render_report(passed, [])).text


def test_skill_and_shares_by_hand() -> None:
    plain = undrawn()
    evaluation = replace(
        plain,
        heads=[replace(plain.heads[0], loss=0.4, reference=0.5)],
        confusion=[ev.Confusion(horizon_ms=50, counts=[[30, 60, 10], [0, 0, 0], [1, 1, 2]])],
    )
    text = Page(render_report(evaluation, [])).text
    assert "0.4 0.5 +0.200" in text
    assert "down 30 30.0 % 60 60.0 % 10 10.0 % unchanged no rows up 1 25.0 %" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (math.nan, "—"), (math.inf, "∞"), (-1234.5678, "−1,234.568"), (-1e-9, "0.000")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert formatting.number(value, 3) == text


@pytest.mark.parametrize(
    ("differences", "text", "tone"),
    [
        (
            {50: {"logistic": -1}, 100: {"logistic": -1}, 1000: {"logistic": 0}, 10_000: {"logistic": 0}},
            "Better than logistic at 50 and 100 ms, no different at 1 and 10 s",
            "passed",
        ),
        ({50: {"logistic": 1, "base rate": -5}}, "Worse than logistic at 50 ms", "refused"),
        (
            {50: {"logistic": 1}, 100: {"logistic": 0}},
            "No different from logistic at 100 ms, worse at 50 ms",
            "no-different",
        ),
        (
            {50: {"logistic": -1, "base rate": -3}, 1000: {"logistic": -3, "base rate": 0}},
            "Better than logistic at 50 ms, no different from base rate at 1 s",
            "passed",
        ),
        ({50: {"logistic": math.nan}}, "Not known against logistic at 50 ms", "missing"),
        ({50: {"model, seed 12": 4, "logistic": -1}}, "Better than logistic at 50 ms", "passed"),
        ({}, "Compared with no baseline", "missing"),
    ],
)
def test_one_sentence_answers(differences: dict[int, dict[str, float]], text: str, tone: str) -> None:
    evaluation = compared(differences)
    assert headline(evaluation) == (f"{text}; passed by all 2 gates.", tone)
    refused = Verdict(gate="calibration", passed=False, value=0.041, threshold=0.036)
    outcome = headline(replace(evaluation, verdicts=(*evaluation.verdicts, refused)))
    assert outcome == (f"{text}; refused by 1 of 3 gates: calibration.", "refused")


def test_run_and_version_are_in_the_title() -> None:
    plain, run, version = undrawn(), "20261130T082942-600348", "lob 20261130083945"
    pages = [render_report(plain, [], run=run, version=name) for name in (None, "lob_candidate 7", version)]
    assert pages[2].count(f"Evaluation of {version}, run {run}<") == 2, "title and heading"
    assert [with_version(page, version) for page in pages] == [pages[2]] * 3
    assert "a refused model is not published" in Page(pages[0]).text


def test_evidence_is_a_list_of_rounded_figures() -> None:
    fold = {"fold": 1, "train_rows": 25_330, "start_ns": 1_704_067_738_092_323_251, "log_loss": 0.8432074796}
    evidence = {
        "horizon_ms": 50,
        "difference": {"value": -0.2500153, "low": -0.2691919, "high": -0.2196939},
        "1000": {"ece": 0.0258880, "floor_95": 0.0317372},
        "folds": [fold],
        "moved": [],
        "finite": True,
        "reason": None,
    }
    items = {item.name: item for item in listed(evidence)}
    assert {name: item.text for name, item in items.items()} == {
        "horizon": "50 ms",
        "difference": "−0.25 [−0.269, −0.22]",
        "1 s": "ECE 0.0259, 95th percentile 0.0317",
        "folds": "",
        "moved": "none",
        "finite": "yes",
        "reason": "not known",
    }
    (first,) = items["folds"].items
    assert (first.name, first.text) == ("fold 1", "train rows 25,330, start 2024-01-01 00:08 UTC, log-loss 0.843")
