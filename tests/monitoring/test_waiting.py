"""Whether nothing serves that a candidate could be compared with: instruments trained on, and asked about."""

import os
import time
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from lobsmith.market.instrument import Instrument
from lobsmith.monitoring.log.sessions import Announced, sessions_folder
from lobsmith.monitoring.waiting import note_refusal, uncompared, waiting
from lobsmith.process import Process
from lobsmith.release.context import Release
from lobsmith.release.version.manifest import Manifest
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish

OLD, NEW, THIRD = "simulator:SIM", "binance-usdm:BTCUSDT", "binance-usdm:ETHUSDT"
NOW_NS = time.time_ns()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("toy")
    return publish(
        Release(Workspace(root), toy.params()), toy.artifact(root / "run"), model="toy", contract=toy.CONTRACT
    )


def trained_on(manifest: Manifest, *names: str) -> Manifest:
    parts = (name.split(":") for name in names)
    instruments = (Instrument(venue=venue, symbol=symbol, tick_size=0.1, lot_size=0.1) for venue, symbol in parts)
    return structs.replace(manifest, instruments=tuple(instruments))


def connect(workspace: Workspace, instrument: str, **process) -> None:
    """A live client of this process."""
    sessions_folder(workspace).mkdir(parents=True, exist_ok=True)
    announced = Announced(
        session=instrument.partition(":")[2],
        source="live",
        instrument=instrument,
        started_ns=NOW_NS,
        model="toy",
        parent=structs.replace(Process.this(), **process),
    )
    (sessions_folder(workspace) / f"{announced.session}.json").write_bytes(msgspec.json.encode(announced))


@pytest.mark.parametrize(
    ("active", "candidate", "waits", "connected", "promote"),
    [
        ([OLD], [NEW], [NEW], [], True),
        ([OLD], [NEW], [], [NEW], True),  # a client that insists
        ([OLD], [NEW], [NEW], [OLD], False),
        ([OLD], [NEW], [NEW], [THIRD], True),
        ([OLD], [NEW], [], [], None),
        ([OLD], [NEW], [], [OLD], None),
        ([OLD], [NEW], [THIRD], [], None),
        # Trained on both: rows are put to both as soon as there are any, and until then its clients need not wait.
        ([OLD], [OLD, NEW], [NEW], [OLD], None),
        ([OLD], [OLD, NEW], [NEW], [], True),
        ([OLD, NEW], [NEW], [], [NEW], None),
        ([OLD, THIRD], [OLD, NEW], [NEW], [THIRD], False),
        ([], [NEW], [NEW], [], None),
    ],
)
def test_what_is_connected_decides(tmp_path: Path, published, active, candidate, waits, connected, promote) -> None:
    workspace = Workspace(tmp_path)
    for instrument in waits:
        note_refusal(workspace, "toy", instrument)
        note_refusal(workspace, "another", OLD)
    for instrument in connected:
        connect(workspace, instrument)
    serving, beside = trained_on(published, *active), structs.replace(trained_on(published, *candidate), version=77)
    case = uncompared(workspace, toy.params(), serving, beside, now_ns=NOW_NS)
    assert (None if case is None else case.promote) is promote
    if promote:
        assert case.reason.startswith("nothing serves that it could be compared with, and its gates have passed")
        assert NEW in case.reason
    if promote is False:
        assert f"not on {connected[0]}, which clients are connected for" in case.reason
        assert "lobsmith models promote 77" in case.reason


def test_clients_that_have_gone_neither_wait_nor_hold_up(tmp_path: Path, published: Manifest) -> None:
    workspace = Workspace(tmp_path)
    serving, beside = trained_on(published, OLD), trained_on(published, NEW)
    note_refusal(workspace, "toy", NEW)
    assert waiting(workspace, "toy") == [NEW]
    # Killed, or from before the machine was started anew.
    for gone in ({"started_ticks": 1}, {"space": "another boot"}):
        connect(workspace, OLD, **gone)
        assert uncompared(workspace, toy.params(), serving, beside, now_ns=NOW_NS).promote
    [file] = (workspace.predictions / "waiting").iterdir()
    os.utime(file, (time.time() - 60, time.time() - 60))
    assert waiting(workspace, "toy") == []
    assert uncompared(workspace, toy.params(), serving, beside, now_ns=NOW_NS) is None
    file.write_bytes(b"{")
    assert waiting(workspace, "toy") == []


def test_a_disk_that_takes_nothing_ends_no_client(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.home.write_bytes(b"")
    note_refusal(workspace, "toy", NEW)
    assert waiting(workspace, "toy") == []
