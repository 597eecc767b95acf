"""Looks at several streams of one version, as the mode takes them into account."""

from msgspec import structs

from lobsmith.drift.verdict import DriftLook, Kind
from lobsmith.monitoring.drift.check import Looked, together
from lobsmith.monitoring.drift.live_window import Lived, no_rows
from lobsmith.monitoring.mode.machine import Mode, step
from tests.monitoring.drift.looks import CALM, DRIFT, MISSING, UNKNOWN, at, look
from tests.small import small_params


def looked(found: DriftLook, instrument: str) -> Looked:
    nothing = Lived(no_rows(), no_rows(), None, None, 0, 0)
    return Looked(structs.replace(found, instrument=instrument), no_rows(), nothing)


def test_one_stream_is_taken_as_it_is():
    one = looked(look(0, CALM), "simulator:SIM")
    assert together([one]) is one.look


def test_what_asks_for_most_caution_counts_of_each_kind():
    found = together([looked(look(0, DRIFT, UNKNOWN, CALM), "a:A"), looked(look(0, CALM, CALM, MISSING), "b:B")])
    assert {one.kind: one.finding for one in found.verdicts} == {
        Kind.COVARIATE: DRIFT,
        Kind.PREDICTION: CALM,
        Kind.CONCEPT: MISSING,
    }
    assert found.of(Kind.COVARIATE).reason.startswith("a:A: ")
    assert found.of(Kind.CONCEPT).reason.startswith("b:B: ")


def test_concept_drift_pauses_beside_another_stream_that_drifts_otherwise():
    params, record = small_params().modes, None
    for number in range(params.drift_looks + params.paused_looks):
        both = [looked(look(number, DRIFT), "a:A"), looked(look(number, CALM, CALM, DRIFT), "b:B")]
        record = step(record, together(both), params, at(number))
    assert record.mode is Mode.PAUSED
