"""The data contract: expectations of events and features before training, and its data docs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from msgspec import Struct

from lobsmith.errors import DataContractError, DataError
from lobsmith.evaluation.report.formatting import figure
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import NAMES, ROLLING
from lobsmith.features.labels import UNKNOWN
from lobsmith.features.normaliser import CLIP
from lobsmith.files import write_atomic
from lobsmith.gates.contract_page import Batch, Check, expected, found, render_contract
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE, Events
from lobsmith.market.session import Accounting
from lobsmith.params import ContractParams
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict

_EXAMPLES = 3
_SHOWN = 5
"""Failures in an error; the data docs have all of them."""
_HOUR_S = 3600.0
_Batch = tuple[pd.DataFrame, list[Any]]
"""Rows, and their expectations."""
_PAGE = "index.html"


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
        self._batches: list[Batch] = []
        self._checked: list[str] = []

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
            self._batches.append(_batch(f"{name}, {batch}", frame, result.results, broken))
        self._checked.append(name)
        checks = sum(len(expectations) for _, expectations in batches.values())
        return ContractResult(name=name, kind=kind, checks=checks, failures=tuple(failures))

    def build_data_docs(self, directory: Path) -> Path:
        """Write the page of all batches into a folder, and return its path.

        Raises:
            DataError: it cannot be written.
        """
        page = directory / _PAGE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomic(page, render_contract(", ".join(self._checked), self._batches).encode())
        except OSError as error:
            raise DataError(f"{page}: {error.strerror}; free space, or choose another folder") from error
        return page


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


def _batch(title: str, frame: pd.DataFrame, results: Sequence[Any], failures: Sequence[Failure]) -> Batch:
    """Return the checks of a batch for its page."""
    least, greatest = frame.min(), frame.max()
    broken = {(failure.check, failure.column): failure for failure in failures}
    checks = []
    for result in results:
        check, limits = str(result.expectation_config.type), result.expectation_config.kwargs
        column = str(limits["column"])
        failure = broken.get((check, column))
        checks.append(
            Check(
                column=column,
                expected=expected(check, limits),
                found=found(float(least[column]), float(greatest[column])),
                failed=failure.count if failure else 0,
                examples=_examples(result) if failure else (),
            )
        )
    return Batch(title=title, rows=len(frame), checks=tuple(checks))


def _examples(result: Any) -> tuple[str, ...]:
    """Return some rows that fail, rounded."""
    rows = result.result.get("partial_unexpected_index_list") or []
    values = result.result.get("partial_unexpected_list") or []
    return tuple(f"row {row} is {_rounded(value)}" for row, value in zip(rows, values, strict=False))[:_EXAMPLES]


def _rounded(value: Any) -> str:
    return figure(float(value)) if isinstance(value, int | float) else str(value)
