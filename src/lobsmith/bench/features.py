"""Book, features and ingest, beside hftbacktest.

See benchmarks/README.md for what is measured and why it is fair.
"""

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from msgspec import Struct

from lobsmith.errors import DataError, LobsmithError
from lobsmith.features.stream import FeatureStream
from lobsmith.market.events import LEVEL, TICKER, TRADE, Events
from lobsmith.market.readers import open_captures, read_captures
from lobsmith.market.session import Session
from lobsmith.market.venues.captures import line_batches
from lobsmith.market.venues.formats import group_by_instrument
from lobsmith.params import FeatureParams, Params
from lobsmith.process import peak_bytes
from lobsmith.workspace import Workspace

HFTBACKTEST = "hftbacktest==2.4.4"
_BATCH = 16_384
"""Events pushed at once: the results of a batch stay in the cache."""
_ROW_BATCH = 256
_ANSWER_S = 600
_TIMES = 10
_FEWEST_ROWS = 1000

Note = Callable[[str], None]


class Rates(Struct, frozen=True, kw_only=True):
    """Counts over medians of times."""

    events: int
    events_per_s: float
    hftbacktest_events_per_s: float
    ratio: float
    ingest_messages_per_s: float
    hftbacktest_convert_messages_per_s: float
    ingest_ratio: float


class MeasuredRates(Rates, frozen=True, kw_only=True):
    """One session; ranges are the quartiles over the rounds."""

    session: str
    messages: int
    rows: int
    events_per_s_quartiles: tuple[float, float]
    hftbacktest_events_per_s_quartiles: tuple[float, float]


class Report(Rates, frozen=True, kw_only=True):
    """All sessions together: sums of counts over sums of median times."""

    rounds: int
    row_ns: dict[str, float]
    """Nanoseconds a row, measured over batches of messages as they came."""
    memory_mib: dict[str, float]
    """Peak resident memory of a process that streams a session once, and ten times over."""
    sessions: tuple[MeasuredRates, ...]


class Rival:
    """hftbacktest in a process of its own."""

    def __init__(self, python: Path) -> None:
        script = Path(__file__).with_name("hftbacktest_replay.py")
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request; return the answer."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise LobsmithError(f"hftbacktest's process ended while it was asked to {request['do']}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(_ANSWER_S)


def environment(workspace: Workspace, *, setup: bool) -> Path:
    """Return the Python of hftbacktest's virtual environment, which wants another numpy than ours.

    Raises:
        LobsmithError: there is none, or it could not be made.
    """
    folder = workspace.home / "bench" / "hftbacktest"
    python = folder / "bin" / "python"
    if setup:
        venv.create(folder, with_pip=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", HFTBACKTEST], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LobsmithError(f"pip could not install {HFTBACKTEST}: {done.stderr.strip()[-300:]}")
    if not python.exists():
        raise LobsmithError(f"{folder}: {HFTBACKTEST} is not installed there; run lobsmith bench features --setup")
    return python


def sessions(files: list[Path]) -> dict[str, list[Path]]:
    """Return the files of each session; by default the futures sessions among the recorded ones."""
    if files:
        groups, failed = group_by_instrument(files)
        if failed:
            raise next(iter(failed.values()))
        return {", ".join(path.name for path in paths): paths for paths in groups.values()}
    folder = os.environ.get("LOBSMITH_DATA")
    found = sorted((Path(folder) / "binance").glob("usdm-*.gz")) if folder else []
    if not found:
        raise DataError(
            "no sessions; name raw Binance futures captures, or set LOBSMITH_DATA to the folder that has them"
        )
    # A file whose name's date follows that of another one of the symbol goes on from it.
    groups = {}
    for path in found:
        symbol, date = path.name.removesuffix(".gz").rsplit("-", 1)
        before = f"{symbol}-{int(date) - 1}"
        groups[before if before in groups else f"{symbol}-{date}"] = [*groups.get(before, []), path]
    return groups


def count_events(events: Events) -> int:
    """Return the number of level updates, tickers and trades."""
    return int(sum((events.kind == kind).sum() for kind in (LEVEL, TRADE)) + (events.kind == TICKER).sum() // 2)


def cut(events: Events, size: int) -> list[Events]:
    """Cut events into batches of whole messages, of about `size` events."""
    bounds = events.message_bounds()
    chosen = np.unique(np.searchsorted(bounds, np.arange(0, len(events), size)))
    edges = [*bounds[chosen].tolist(), len(events)]
    return [events.slice(a, b) for a, b in pairwise(edges) if b > a]


def push(session: Session, parts: list[Events], params: FeatureParams) -> tuple[float, int]:
    """Return seconds for all features of a session, and its rows."""
    stream = FeatureStream(session.instrument, params)
    rows = 0
    started = time.perf_counter()
    for part in parts:
        rows += len(stream.push(part))
    return time.perf_counter() - started, rows


def row_times(session: Session, params: FeatureParams) -> dict[str, float]:
    """Return quantiles of the time a row takes, over small batches."""
    stream = FeatureStream(session.instrument, params)
    per_row = []
    for part in cut(session.events, _ROW_BATCH):
        started = time.perf_counter_ns()
        rows = len(stream.push(part))
        elapsed = time.perf_counter_ns() - started
        if rows:
            per_row.append(elapsed / rows)
    quantiles = {f"p{q}": float(np.quantile(per_row, q / 100)) for q in (50, 99)}
    return {**quantiles, "count": len(per_row), "batch": _ROW_BATCH}


_NUMBERS = re.compile(rb'"(?:E|T|U|u|pu|t|lastUpdateId)":(\d+)')


def write_repeated(files: list[Path], times: int, path: Path) -> None:
    """Write files as one plain capture, `times` over: each repetition's times and ids go on from the one before."""
    lines = [line for file in files for batch in line_batches(file) for line in batch]
    first, last = int(lines[0][:19]), int(lines[-1][:19])
    span = last - first + 10**6
    highest = max(
        int(number) for line in lines for number in _NUMBERS.findall(line.replace(b'"E":', b"").replace(b'"T":', b""))
    )
    with path.open("wb") as out:
        for turn in range(times):

            def moved(found: re.Match[bytes], turn: int = turn) -> bytes:
                name = found[0][: found.start(1) - found.start()]
                step = span // 10**6 if name in (b'"E":', b'"T":') else highest
                return name + str(int(found[1]) + turn * step).encode()

            for line in lines:
                out.write(str(int(line[:19]) + turn * span).encode() + _NUMBERS.sub(moved, line[19:]) + b"\n")


def stream_features(path: Path, params: FeatureParams) -> dict[str, float]:
    """Stream a capture's features a batch at a time; return the peak memory of this process, MiB, and the rows."""
    feed = open_captures([path])
    stream: FeatureStream | None = None
    rows = 0
    for events in feed:
        stream = stream or FeatureStream(feed.instrument, params)
        rows += sum(len(stream.push(part)) for part in cut(events, _BATCH))
    return {"mib": peak_bytes(os.getpid()) / 2**20, "rows": rows}


def peak_memory(workspace: Workspace, files: list[Path], times: int) -> float:
    """Return `stream_features` of a process of its own, over a capture `times` as long."""
    code = (
        "import sys, json; from pathlib import Path; from lobsmith.bench.features import stream_features; "
        "from lobsmith.params import load_params; "
        "print(json.dumps(stream_features(Path(sys.argv[2]), load_params(Path(sys.argv[1])).features)))"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        write_repeated(files, times, path)
        done = subprocess.run(
            [sys.executable, "-c", code, workspace.params, path],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
    answer = json.loads(done.stdout)
    if answer["rows"] < times * _FEWEST_ROWS:
        raise LobsmithError(f"only {answer['rows']} rows came of a session {times} times over")
    return float(answer["mib"])


def _timed(work: Callable[[], Any]) -> float:
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bench_features(
    workspace: Workspace, params: Params, files: list[Path], *, rounds: int, setup: bool, note: Note
) -> Report:
    """Measure all sessions, both sides in alternating rounds."""
    chosen = sessions(files)
    rival = Rival(environment(workspace, setup=setup))
    measured: list[MeasuredRates] = []
    times: list[tuple[float, float, float, float]] = []
    try:
        for name, paths in chosen.items():
            note(name)
            one, seconds = _bench_session(name, paths, params.features, rival, rounds)
            measured.append(one)
            times.append(seconds)
        note("memory")
        first = next(iter(chosen.values()))
        memory = {"once": peak_memory(workspace, first, 1), "tenfold": peak_memory(workspace, first, _TIMES)}
        rows = row_times(read_captures(first), params.features)
    finally:
        rival.close()
    ours, theirs, ingest, convert = (sum(column) for column in zip(*times, strict=True))
    events, messages = sum(one.events for one in measured), sum(one.messages for one in measured)
    return Report(
        rounds=rounds,
        events=events,
        events_per_s=events / ours,
        hftbacktest_events_per_s=events / theirs,
        ratio=theirs / ours,
        ingest_messages_per_s=messages / ingest,
        hftbacktest_convert_messages_per_s=messages / convert,
        ingest_ratio=convert / ingest,
        row_ns=rows,
        memory_mib=memory,
        sessions=tuple(measured),
    )


def _bench_session(
    name: str, paths: list[Path], params: FeatureParams, rival: Rival, rounds: int
) -> tuple[MeasuredRates, tuple[float, float, float, float]]:
    session = read_captures(paths)  # compiles what is not cached
    parts = cut(session.events, _BATCH)
    push(session, parts, params)
    rival.ask(do="convert", files=[str(path) for path in paths], tickers=True)
    ingest, convert = [], []
    for _ in range(max(3, rounds // 4)):
        ingest.append(_timed(lambda: read_captures(paths)))
        convert.append(rival.ask(do="convert", files=[str(path) for path in paths], tickers=True)["seconds"])
    instrument = session.instrument
    rival.ask(do="load", tick=instrument.tick_size, lot=instrument.lot_size, roi=True)
    ours, theirs, rows = [], [], 0
    for _ in range(rounds):
        seconds, rows = push(session, parts, params)
        ours.append(seconds)
        theirs.append(rival.ask(do="replay")["seconds"])
    events, messages = count_events(session.events), session.accounting.records
    medians = median(ours), median(theirs), median(ingest), median(convert)
    return MeasuredRates(
        session=name,
        messages=messages,
        events=events,
        rows=rows,
        events_per_s=events / medians[0],
        hftbacktest_events_per_s=events / medians[1],
        ratio=medians[1] / medians[0],
        events_per_s_quartiles=_quartiles(events, ours),
        hftbacktest_events_per_s_quartiles=_quartiles(events, theirs),
        ingest_messages_per_s=messages / medians[2],
        hftbacktest_convert_messages_per_s=messages / medians[3],
        ingest_ratio=medians[3] / medians[2],
    ), medians


def _quartiles(count: int, seconds: list[float]) -> tuple[float, float]:
    slow, fast = np.quantile(seconds, [0.75, 0.25])
    return float(count / slow), float(count / fast)
