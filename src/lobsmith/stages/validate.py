"""The validate stage: which instruments of a store keep the data contract and are liquid enough to trade."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.errors import DataContractError, DataError
from lobsmith.files import write_atomic
from lobsmith.gates.data_contract import DataContract, require
from lobsmith.gates.liquidity import PROBLEM, liquidity_verdicts, measure
from lobsmith.market.events import concatenate
from lobsmith.market.store import Store
from lobsmith.params import Params
from lobsmith.progress import Note, console
from lobsmith.stages.ingest import MARKET
from lobsmith.verdict import Verdict

CONTRACT = "contract.json"
EVENTS_DOCS = "data_docs/events"


class Validated(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tradable instruments, and every verdict."""

    tradable: tuple[str, ...]
    left_out: dict[str, str]
    """Reason by instrument."""
    verdicts: dict[str, tuple[Verdict, ...]]
    unpriced: tuple[str, ...] = ()
    """Instruments whose daily volume is not judged, for want of a price of bitcoin."""


def validate(params: Params, market: Path, directory: Path, *, allow_unpriced: bool = False) -> Validated:
    """Check every instrument of a store; write `contract.json` and the data docs.

    Args:
        params: all of `params.yaml`.
        market: the store.
        directory: where the results go.
        allow_unpriced: whether an instrument is accepted, its daily volume not judged, where no price of bitcoin is
            known.

    Raises:
        DataContractError: no instrument passes, or `data.instrument` does not; the message names columns, counts and
            example rows.
        DataError: the store is missing or damaged.
    """
    store = Store(market)
    contract = DataContract(params.contract)
    results, measured = {}, []
    for instrument in store.instruments():
        account = store.account(instrument)
        events = concatenate(list(store.events(instrument)))
        results[str(instrument)] = contract.check_events(str(instrument), events, account)
        measured.append(measure(instrument, [events]))
    contract.build_data_docs(directory / EVENTS_DOCS)
    liquidity: dict[str, tuple[Verdict, ...]] = dict(liquidity_verdicts(measured, params.contract.liquidity))
    unpriced = []
    for name, verdicts in liquidity.items():
        judged = tuple(verdict for verdict in verdicts if PROBLEM not in verdict.evidence)
        if allow_unpriced and judged != verdicts:
            liquidity[name] = judged
            unpriced.append(name)
    errors: dict[str, DataContractError] = {}
    for name, result in results.items():
        try:
            require(result)
            _require_liquid(name, liquidity[name])
        except DataContractError as error:
            errors[name] = error
    validated = Validated(
        tradable=tuple(name for name in results if name not in errors),
        left_out={name: str(error) for name, error in errors.items()},
        verdicts={name: (result.verdict, *liquidity[name]) for name, result in results.items()},
        unpriced=tuple(unpriced),
    )
    write_atomic(directory / CONTRACT, msgspec.json.format(msgspec.json.encode(validated)))
    wanted = params.data.instrument
    if wanted in errors or not validated.tradable:
        raise errors.get(wanted) or next(iter(errors.values()))
    return validated


def _require_liquid(name: str, verdicts: tuple[Verdict, ...]) -> None:
    for verdict in verdicts:
        if not verdict.passed:
            problem = f"; {verdict.evidence[PROBLEM]}" if PROBLEM in verdict.evidence else ""
            raise DataContractError(f"{name} is not liquid enough: {verdict}{problem}")


def load_validated(directory: Path) -> Validated:
    """Read the validate stage's result.

    Raises:
        DataError: it is missing or damaged.
    """
    path = directory / CONTRACT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Validated)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: cannot be read; run lobsmith stage validate first") from error


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    validated = validate(params, directory / MARKET, directory)
    for name, error in validated.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return f"tradable: {', '.join(validated.tradable)}"
