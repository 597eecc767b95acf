"""The data contract: expectations of events and features before training, and its Data Docs pages."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.core import (
    ExpectColumnValuesToBeBetween,
    ExpectColumnValuesToBeInSet,
    ExpectColumnValuesToNotBeNull,
)
from jinja2 import Environment
from msgspec import Struct

from lobsmith.errors import DataContractError
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import NAMES, ROLLING
from lobsmith.features.labels import UNKNOWN
from lobsmith.features.normaliser import CLIP
from lobsmith.files import exclusive_lock
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE, Events
from lobsmith.market.session import Accounting
from lobsmith.params import ContractParams
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict

_EXAMPLES = 3
_SHOWN = 5
"""Failures in an error; the Data Docs have all of them."""
_LOCK_S = 60.0
_HOUR_S = 3600.0
_Batch = tuple[pd.DataFrame, list[Any]]
"""Rows, and their expectations."""
_FETCHED = re.compile(r"<(script|link)\b[^>]*(?:src|href)=\"https?://[^>]*>(?:</script>)?|<img\b[^>]*https?://[^>]*>")
_STYLE = "<style>body{font-family:sans-serif;margin:2em;max-width:70em}td,th{padding:.2em .8em;text-align:left}</style>"
_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data contract</title>{{ style | safe }}
<h1>Data contract</h1>
<table>
<tr><th>batch</th><th>verdict</th><th>expectations</th><th>what fails</th></tr>
{% for batch in batches %}<tr>
<td><a href="{{ batch.link }}">{{ batch.title }}</a></td><td>{{ "passed" if batch.passed else "refused" }}</td>
<td>{{ batch.held }} of {{ batch.checks }} hold</td><td>{{ batch.failures | join("; ") }}</td>
</tr>{% endfor %}
</table>
</html>
"""


class Failure(Struct, frozen=True, kw_only=True):
    """An expectation that does not hold."""

    check: str
    column: str
    count: int
    """Rows that break it; for a figure about all rows, 1."""
    total: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        what = self.check.removeprefix("expect_column_").replace("_", " ")
        return f"{self.column}: {self.count:,} of {self.total:,} rows fail '{what}' ({'; '.join(self.examples)})"


class ContractResult(Struct, frozen=True, kw_only=True):
    """All failures of one batch, and the same as a verdict."""

    name: str
    """Instrument and kind."""
    kind: str
    """`events` or `features`."""
    checks: int
    failures: tuple[Failure, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict: the share of expectations that hold must be 1."""
        held = 1.0 - len(self.failures) / self.checks
        evidence = {"batch": self.name, "failures": [str(failure) for failure in self.failures]}
        return Verdict(
            gate=f"{self.kind} contract", passed=not self.failures, value=held, threshold=1.0, evidence=evidence
        )


def require(result: ContractResult) -> ContractResult:
    """Return a result that passed.

    Raises:
        DataContractError: it did not; the message names columns, counts and example rows.
    """
    if result.failures:
        shown = "; ".join(map(str, result.failures[:_SHOWN]))
        more = f"; and {len(result.failures) - _SHOWN} more" if len(result.failures) > _SHOWN else ""
        raise DataContractError(f"{result.name} break the data contract: {shown}{more}")
    return result


class DataContract:
    """The contract of one run: its batches, and the pages that show them."""

    def __init__(self, params: ContractParams) -> None:
        self._params = params
        # The default pages would leave a temporary folder behind.
        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        self._context = gx.get_context(
            mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=stores)
        )
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._source = self._context.data_sources.add_pandas(name="lobsmith")
        self._batches: list[dict[str, object]] = []

    def check_events(self, name: str, events: Events, account: Accounting) -> ContractResult:
        """Check an instrument's events, and the account of its kept and quarantined records."""
        return self._run(name, "events", _events_batches(events, account, self._params))

    def check_features(self, dataset: Dataset) -> ContractResult:
        """Check an instrument's feature rows and labels."""
        return self._run(str(dataset.instrument), "features", _features_batches(dataset, self._params))

    def _run(self, instrument: str, kind: str, batches: "dict[str, _Batch]") -> ContractResult:
        name = f"{instrument} {kind}"
        failures: list[Failure] = []
        for batch, (frame, expectations) in batches.items():
            title = f"{name.replace(':', ' ')}, {batch}"
            whole = self._source.add_dataframe_asset(name=title).add_batch_definition_whole_dataframe(batch)
            suite = self._context.suites.add(gx.ExpectationSuite(name=title, expectations=expectations))
            definition = self._context.validation_definitions.add(
                gx.ValidationDefinition(name=title, data=whole, suite=suite)
            )
            shape: Any = {"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES}
            result = definition.run(batch_parameters={"dataframe": frame}, result_format=shape)
            broken = [_failure(outcome, len(frame)) for outcome in result.results if not outcome.success]
            failures += broken
            held = len(expectations) - len(broken)
            self._batches.append(
                {
                    "title": title,
                    "passed": not broken,
                    "held": held,
                    "checks": len(expectations),
                    "failures": [str(failure) for failure in broken],
                }
            )
        checks = sum(len(expectations) for _, expectations in batches.values())
        return ContractResult(name=name, kind=kind, checks=checks, failures=tuple(failures))

    def build_data_docs(self, directory: Path) -> Path:
        """Build the pages of all batches, and replace a folder by them once they are complete.

        Returns:
            The index page.
        """
        directory.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(private.resolve())}
        try:
            self._context.add_data_docs_site(
                site_name=private.name,
                site_config={
                    "class_name": "SiteBuilder",
                    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                    "store_backend": store,
                },
            )
            self._context.build_data_docs(site_names=[private.name])
            make_self_contained(private, self._batches)
            private.chmod(0o755)
            with exclusive_lock(directory.parent / f".{directory.name}.lock", _LOCK_S):
                shutil.rmtree(directory, ignore_errors=True)
                private.replace(directory)
        finally:
            shutil.rmtree(private, ignore_errors=True)
        return directory / "index.html"


def _events_batches(events: Events, account: Accounting, params: ContractParams) -> dict[str, _Batch]:
    quotes = (events.kind == LEVEL) | (events.kind == TICKER) | (events.kind == TRADE)
    timed = events.exchange_time > 0
    segment = np.cumsum(events.kind == GAP)
    elapsed = np.diff(events.local_time, prepend=events.local_time[:1])
    elapsed[np.diff(segment, prepend=0) != 0] = 0
    latency = np.where(timed, events.local_time - events.exchange_time - account.clock_offset_ns, 0) / NS_PER_S
    frame = pd.DataFrame(
        {
            "kind": events.kind,
            "side": events.side,
            "price": np.where(quotes, events.price, 1),
            "size": events.size,
            "traded_size": np.where((events.kind == TRADE) | (events.kind == TICKER), events.size, 1.0),
            "local_time_step_ns": elapsed,
            "latency_s": latency,
        }
    )
    hours = max(account.seconds, 1.0) / _HOUR_S
    figures = pd.DataFrame(
        {
            "set_aside_share": [1.0 - account.kept / max(account.records, 1)],
            "gaps_per_hour": [(account.segments - 1) / hours],
            "crossed_share": [account.crossed / max(account.depth_messages + account.tickers, 1)],
            "seconds": [account.seconds],
            "clock_offset_s": [account.clock_offset_ns / NS_PER_S],
        }
    )
    largest = float(np.finfo(np.float64).max)
    rows = [
        ExpectColumnValuesToBeInSet(column="kind", value_set=[LEVEL, TICKER, TRADE, CLEAR, GAP]),
        ExpectColumnValuesToBeInSet(column="side", value_set=[-1, 0, 1]),
        ExpectColumnValuesToBeBetween(column="price", min_value=1),
        ExpectColumnValuesToNotBeNull(column="size"),
        ExpectColumnValuesToBeBetween(column="size", min_value=0, max_value=largest),
        ExpectColumnValuesToBeBetween(column="traded_size", min_value=0, strict_min=True),
        ExpectColumnValuesToBeBetween(column="local_time_step_ns", min_value=0),
        ExpectColumnValuesToBeBetween(
            column="latency_s", min_value=-params.maximum_latency_s, max_value=params.maximum_latency_s
        ),
    ]
    limits = {
        "set_aside_share": (0.0, params.maximum_set_aside),
        "gaps_per_hour": (0.0, params.maximum_gaps_per_hour),
        "crossed_share": (0.0, params.maximum_crossed),
        "seconds": (params.minimum_seconds, largest),
        "clock_offset_s": (-params.maximum_clock_offset_s, params.maximum_clock_offset_s),
    }
    totals = [
        ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
        for column, (low, high) in limits.items()
    ]
    return {"events": (frame, rows), "account": (figures, totals)}


def _features_batches(dataset: Dataset, params: ContractParams) -> dict[str, _Batch]:
    rows = dataset.rows
    complete = rows.complete
    raw = pd.DataFrame(rows.raw[complete], columns=list(NAMES))
    columns = [f"{name} (z)" if rolling else f"{name} (seen)" for name, rolling in zip(NAMES, ROLLING, strict=True)]
    standardised = pd.DataFrame(rows.features[complete], columns=columns)
    elapsed = np.diff(rows.time, prepend=rows.time[:1])
    elapsed[np.diff(rows.segment, prepend=rows.segment[:1]) != 0] = 0
    still = [name for name in NAMES if len(raw) and float(np.ptp(raw[name].to_numpy())) == 0.0]
    known = (dataset.labels != UNKNOWN).all(axis=1)
    figures: dict[str, list[float]] = {
        "complete_share": [float(complete.mean()) if len(complete) else 0.0],
        f"constant columns: {', '.join(still) or 'none'}": [float(len(still))],
        "local_time_step_ns, smallest": [float(elapsed.min()) if len(elapsed) else 0.0],
        "segment_step, smallest": [float(np.diff(rows.segment).min()) if len(rows) > 1 else 0.0],
    }
    limits: list[tuple[float, float | None]] = [
        (params.minimum_complete, 1.0),
        (0.0, float(params.maximum_constant_columns)),
        (0.0, None),
        (0.0, None),
    ]
    for index, horizon in enumerate(dataset.horizons_ms):
        shares = np.bincount(dataset.labels[known, index], minlength=3) / max(int(known.sum()), 1)
        for direction, share in zip(("down", "unchanged", "up"), shares, strict=True):
            figures[f"label {direction} after {horizon} ms"] = [float(share)]
            limits.append((params.minimum_label_share, 1.0))
    totals = [
        ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
        for column, (low, high) in zip(figures, limits, strict=True)
    ]
    values: list[Any] = [ExpectColumnValuesToNotBeNull(column=name) for name in NAMES]
    bound = params.maximum_feature
    values += [ExpectColumnValuesToBeBetween(column=name, min_value=-bound, max_value=bound) for name in NAMES]
    values.append(ExpectColumnValuesToBeBetween(column="spread", min_value=0, strict_min=True))
    zs: list[Any] = [ExpectColumnValuesToNotBeNull(column=column) for column in standardised]
    zs += [
        ExpectColumnValuesToBeBetween(column=column, min_value=-CLIP, max_value=CLIP)
        for column, rolling in zip(columns, ROLLING, strict=True)
        if rolling
    ]
    return {"features": (raw, values), "z-scores": (standardised, zs), "labels": (pd.DataFrame(figures), totals)}


def _failure(result: Any, total: int) -> Failure:
    column = str(result.expectation_config.kwargs["column"])
    check = str(result.expectation_config.type)
    kwargs = {
        key: value
        for key, value in result.expectation_config.kwargs.items()
        if key not in ("batch_id", "column") and value is not None
    }
    if result.exception_info.get("raised_exception") is True or "unexpected_count" not in result.result:
        return Failure(check=check, column=column, count=total, total=total, examples=("the check could not be run",))
    rows = result.result.get("partial_unexpected_index_list") or []
    values = result.result.get("partial_unexpected_list") or []
    places = [f"row {row} is {value}" for row, value in zip(rows, values, strict=False)] or [
        f"is {value}" for value in values
    ]
    limits = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in kwargs.items())
    examples = (*places[:_EXAMPLES], *([limits] if limits else []))
    return Failure(
        check=check, column=column, count=int(result.result["unexpected_count"]), total=total, examples=examples
    )


def make_self_contained(folder: Path, batches: Sequence[dict[str, object]]) -> None:
    """Remove what pages of Great Expectations would fetch, and write the index.

    `batches` have `title`, `passed`, `held`, `checks` and `failures`.
    """
    pages = {path.parents[2].name: path for path in folder.glob("validations/*/*/*/*.html")}
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_FETCHED.sub("", text).replace("</head>", f"{_STYLE}</head>"), encoding="utf-8")
    rows = [
        {**batch, "link": quote(str(pages[str(batch["title"])].relative_to(folder)))}
        for batch in batches
        if str(batch["title"]) in pages
    ]
    page = Environment(autoescape=True).from_string(_INDEX).render(batches=rows, style=_STYLE)
    (folder / "index.html").write_text(page, encoding="utf-8")
