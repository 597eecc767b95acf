"""The GPU benchmark's report, as structs and as tables."""

from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lobsmith.bench.gpu_ceilings import Ceilings, Machine


class Reference(Struct, frozen=True, kw_only=True):
    """A published measurement."""

    network: str
    machine: str
    p99_us: float
    about: str


_AUDITED = "audited result of a tuned stack for STAC-ML Markets (Inference); not comparable method for method"
REFERENCES = (
    Reference(network="lstm_a", machine="A100", p99_us=35.2, about=_AUDITED),
    Reference(network="lstm_a", machine="GH200", p99_us=4.70, about=_AUDITED),
)


class Plan(Struct, frozen=True, kw_only=True):
    """What to run.

    Attributes:
        device: `cuda`, `cuda:1` or `cpu`, a rehearsal.
        networks: of `step`, `window` and `lstm_a`.
        precisions: of PyTorch and TensorRT.
        batches: streams a call.
        calls: for each row, over all rounds.
        seconds: bound of each row's timed calls.
        rounds: turns of the ways.
        resident: whether a state stays on the device where the way can keep it there.
        compile: whether `torch.compile` is among the ways.
    """

    device: str
    networks: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    calls: int
    seconds: float
    rounds: int
    resident: bool
    compile: bool


class Row(Struct, frozen=True, kw_only=True):
    """One network, way, precision and batch size. Without a measurement it has a `reason`.

    Attributes:
        count: timed calls.
        p50_us, p99_us, p999_us: host to host; the last only of 1000 calls or more.
        rows_per_s: new rows answered: streams over the mean time of a call.
        bytes: weights, state, inputs and outputs, each once.
        flops: of matrix products and convolutions; a multiply-add counts two.
        floor_us: least time by the card's measured ceilings; `bound` names the ceiling that sets it.
        floor_ratio: p50 over that floor.
        difference: largest from eager fp32, over the largest answer where that is above 1.
        wrong: a number that is not finite, or a difference beyond the precision's tolerance.
    """

    network: str
    way: str
    precision: str
    batch: int
    reason: str | None = None
    count: int = 0
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    rows_per_s: float | None = None
    bytes: int | None = None
    flops: int | None = None
    floor_us: float | None = None
    bound: str | None = None
    floor_ratio: float | None = None
    difference: float | None = None
    wrong: bool = False


class Report(Struct, frozen=True, kw_only=True):
    measured: str
    """When it ended, UTC."""
    machine: Machine
    plan: Plan
    weights: str
    ceilings: Ceilings
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]


def print_report(report: Report, console: Console) -> None:
    """Print machine, ceilings, one table a network, published measurements, and reasons of missing ways."""
    console.print(_machine(report.machine), soft_wrap=True)
    console.print(_ceilings(report.ceilings), soft_wrap=True)
    for network in report.plan.networks:
        rows = [row for row in report.rows if row.network == network]
        console.print(_table(network, report.weights, [row for row in rows if row.reason is None]))
        for reference in report.references:
            if reference.network == network:
                console.print(f"{reference.machine}: p99 {reference.p99_us:.4g} µs, {reference.about}", soft_wrap=True)
        for reason, where in _reasons(rows).items():
            console.print(f"[yellow]not measured[/yellow] {', '.join(where)}: {escape(reason)}", soft_wrap=True)


def _machine(machine: Machine) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    if machine.gpu is None:
        return f"rehearsal on the CPU ({machine.cpu}, {machine.cores} cores); {packages}"
    return (
        f"{machine.gpu} (capability {machine.capability}, {machine.memory_gib:.0f} GiB, driver {machine.driver}, "
        f"CUDA {machine.cuda}, cuDNN {machine.cudnn}) at {machine.cpu}, {machine.cores} cores; {packages}"
    )


def _ceilings(ceilings: Ceilings) -> str:
    matmul = ", ".join(f"{name} {value:,.3g}" for name, value in ceilings.matmul_tflop_s.items())
    return (
        f"ceilings: memory {ceilings.memory_gb_s:,.0f} GB/s; matrix product TFLOP/s {matmul}; host to device "
        f"{ceilings.to_device_gb_s:,.1f} GB/s, back {ceilings.to_host_gb_s:,.1f} GB/s; "
        f"empty kernel {ceilings.launch_us:,.1f} µs"
    )


def _table(network: str, weights: str, rows: list[Row]) -> Table:
    title = network if network == "lstm_a" else f"{network} ({weights} weights)"
    table = Table(title=f"{title}: host to host, µs; × is p50 over the floor, and what sets the floor")
    for heading in (
        "batch",
        "way",
        "precision",
        "p50",
        "p99",
        "p99.9",
        "calls",
        "rows/s",
        "floor",
        "×",
        "",
        "difference",
    ):
        table.add_column(heading, justify="left" if heading in {"way", "precision", ""} else "right")
    for row in rows:
        table.add_row(
            str(row.batch),
            row.way,
            row.precision,
            _number(row.p50_us),
            _number(row.p99_us),
            _number(row.p999_us),
            f"{row.count:,}",
            _number(row.rows_per_s),
            _number(row.floor_us),
            _number(row.floor_ratio),
            row.bound or "–",
            _difference(row),
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _difference(row: Row) -> str:
    text = "not finite" if row.difference is None else f"{row.difference:.1e}"
    return f"[red]{text}, wrong[/red]" if row.wrong else text


def _reasons(rows: list[Row]) -> dict[str, list[str]]:
    """Return the ways of each reason, with the batches where it does not hold for all."""
    batches: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason is not None:
            batches.setdefault((row.reason, f"{row.way} {row.precision}"), []).append(str(row.batch))
    total = len({row.batch for row in rows})
    reasons: dict[str, list[str]] = {}
    for (reason, way), where in batches.items():
        reasons.setdefault(reason, []).append(way if len(where) == total else f"{way} at {', '.join(where)}")
    return reasons
