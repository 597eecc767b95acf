"""Releases, the embedded Triton, its clients and the prediction log."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Port, Positive, PositiveFloat, Section, Weight


class ReleaseParams(Section, frozen=True):
    """Publication and retention of versions."""

    keep: Annotated[int, Meta(ge=2)]
    """Newest valid versions that stay listed; at least the active version and its fallback, count."""
    lease_s: Annotated[float, Meta(ge=1)]
    """Time after which a publisher without a renewed lease may be replaced, s."""


class ServingParams(Section, frozen=True):
    """The embedded Triton."""

    host: str
    """Host name or IPv4 address of all ports."""
    http_port: Port
    """HTTP port of Triton."""
    grpc_port: Port
    """gRPC port of Triton."""
    metrics_port: Port
    """Metrics port of Triton."""
    modes_port: Port
    """Port of the landing page and of the modes, served by the supervisor."""
    max_batch: Positive
    """Most requests in one execution, count."""
    warmup: Annotated[int, Meta(ge=0)]
    """Rows of zeros answered by `model_warmup` before a version is READY, count."""
    warmup_rows: Annotated[int, Meta(ge=2)]
    """Real rows answered after that, before a publisher lists the version, count."""
    start_deadline_s: PositiveFloat
    """Deadline of Triton's start, s."""
    load_deadline_s: PositiveFloat
    """Deadline of loading or unloading a version, s."""
    stop_deadline_s: PositiveFloat
    """Time after which a stopping Triton is killed, s."""


class ServicesParams(Section, frozen=True):
    """Loopback ports of the services of `lobsmith up`, besides Triton."""

    prefect_port: Port
    """Port of Prefect."""
    mlflow_port: Port
    """Port of MLflow."""
    evidently_port: Port
    """Port of Evidently."""


class ClientParams(Section, frozen=True):
    """The trading client."""

    deadline_s: PositiveFloat
    """Deadline of a request, s."""
    poll_s: PositiveFloat
    """Time between polls of the served versions, and between health checks of the guard, s."""


class PredictionLogParams(Section, frozen=True):
    """The log of predictions and outcomes."""

    flush_s: PositiveFloat
    """Longest that predictions stay in memory, where a crash loses them, s."""
    keep_days: PositiveFloat
    """Age at which predictions are deleted, days."""
    busy_s: PositiveFloat
    """Longest that a reader or writer waits for a lock, s."""


class MirrorParams(Section, frozen=True):
    """Live rows to the prediction log and the shadow replicas."""

    ring_rows: Positive
    """Rows that may wait for the recorder; more are dropped and counted, count."""
    queue_rows: Annotated[int, Meta(ge=LARGEST_CHUNK)]
    """Rows that may wait for the candidate, or for the fallback, count."""
    deadline_s: PositiveFloat
    """Deadline of a request of up to 256 rows to a shadow replica, s."""
    probe_s: PositiveFloat
    """Time between two pairs of latency probes, s."""
    drain_s: PositiveFloat
    """Time after a session's end at which rows waiting for shadow replicas are dropped, s."""


class ReconcileParams(Section, frozen=True):
    """Reconciliation of the repository with the registry."""

    retry_s: PositiveFloat
    """Time after which a refused version is retried, s."""
    lease_s: Annotated[float, Meta(ge=1)]
    """Time after which a reconciler or monitor without a renewed lease may be replaced, s."""
    wait_s: Weight
    """Longest wait for another reconciler, s."""
