"""Releases, the embedded Triton, its clients and the prediction log."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Port, Positive, PositiveFloat, Section, Weight


class ReleaseParams(Section, frozen=True):
    """How versions come and go."""

    keep: Annotated[int, Meta(ge=2)]
    """Newest good versions that stay listed, count; the active version and its fallback at least."""
    lease_s: Annotated[float, Meta(ge=1)]
    """Time after which a publisher that has not renewed its lease may be replaced, s."""


class ServingParams(Section, frozen=True):
    """The embedded Triton."""

    host: str
    """Name or IPv4 address that all ports are bound to."""
    http_port: Port
    """Triton's HTTP port."""
    grpc_port: Port
    """Triton's gRPC port."""
    metrics_port: Port
    """Port of Triton's metrics."""
    modes_port: Port
    """Port of the pages of modes, which the supervisor itself serves."""
    max_batch: Positive
    """Most requests that are answered in one execution, count."""
    warmup: Annotated[int, Meta(ge=0)]
    """Rows of zeros that `model_warmup` has a version answer before it is READY."""
    warmup_rows: Annotated[int, Meta(ge=2)]
    """Real rows that a version answers after that, before a publisher trusts it."""
    start_deadline_s: PositiveFloat
    """Time that Triton has to become ready, s."""
    load_deadline_s: PositiveFloat
    """Time that a version has to be loaded or unloaded, s."""
    stop_deadline_s: PositiveFloat
    """Time that Triton has to end before it is killed, s."""


class ServicesParams(Section, frozen=True):
    """Where the services that `lobsmith up` runs listen on loopback, besides Triton."""

    prefect_port: Port
    """Port of Prefect's server and its pages."""
    mlflow_port: Port
    """Port of MLflow's server and its pages."""
    evidently_port: Port
    """Port of Evidently's pages."""


class ClientParams(Section, frozen=True):
    """The trading client."""

    deadline_s: PositiveFloat
    """Deadline of one request, s."""
    poll_s: PositiveFloat
    """Time from one look-up of the served versions, or health check of the guard, to the next, s."""


class PredictionLogParams(Section, frozen=True):
    """The log of predictions and their outcomes."""

    flush_s: PositiveFloat
    """Longest that predictions wait in memory, which is what a crash may lose, s."""
    keep_days: PositiveFloat
    """Age from which predictions are deleted, days."""
    busy_s: PositiveFloat
    """Longest that a reader or writer waits for another one, s."""


class MirrorParams(Section, frozen=True):
    """The way of live rows to the prediction log and to the versions that are mirrored."""

    ring_rows: Positive
    """Rows that may wait for the recorder; more are dropped, and counted."""
    queue_rows: Annotated[int, Meta(ge=LARGEST_CHUNK)]
    """Rows that may wait for the candidate, or for the fallback."""
    deadline_s: PositiveFloat
    """Deadline of one request of up to 256 rows to a mirrored version, s."""
    probe_s: PositiveFloat
    """Time between two pairs of single-row requests, of which the latencies are compared, s."""
    drain_s: PositiveFloat
    """Time after the end of a session before rows that still wait for mirrored versions are given up, s."""


class ReconcileParams(Section, frozen=True):
    """How the repository is made to follow the registry."""

    retry_s: PositiveFloat
    """Time after which a refused version is tried again unasked, s."""
    lease_s: Annotated[float, Meta(ge=1)]
    """Time after which a reconciler or monitor that has not renewed its lease may be replaced, s."""
    wait_s: Weight
    """Longest wait for another process that reconciles, s."""
