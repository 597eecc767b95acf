"""Every error that lobsmith raises on purpose.

    LobsmithError                 anything a user can read and act on
    ├── ProjectError              a folder is no project, or cannot be made one
    ├── ParamsError               params.yaml is wrong
    ├── DataError                 market data cannot be used
    │   ├── CaptureError          a capture file is empty, truncated, garbled or of an unknown format
    │   ├── VenueError            a venue cannot be reached, or answers otherwise than documented
    │   └── ThinWindowError       the training window holds too little data
    ├── TrainingError             a model could not be trained
    ├── PrecisionError            a model cannot be converted to an arithmetic, here or at all
    ├── EngineError               an engine could not be built, or does not fit this machine
    ├── GateError                 a gate refused; nothing was published
    │   └── DataContractError     market data or features are not what the contract asks for
    ├── ReleaseError              a version could not be published, or a published one does not match its manifest
    │   ├── ContractError         a change of the wire contract under an existing model name
    │   ├── VersionGoneError      a version was rolled back or retired while its files were read
    │   └── RegistryError         MLflow is unreachable: it refuses connections, is locked, or does not answer in time
    ├── LeaseError                another process holds the lease
    │   └── LeaseLostError        the lease was taken over; nothing more was done
    ├── ClockError                the time of a workspace cannot be read or set
    ├── ModeError                 the mode of a model cannot be read or set
    ├── ServingError              a model server gives no answer
    │   ├── UntrainedInstrumentError  a model is asked about an instrument that it was not trained on
    │   ├── TritonMissingError    Triton cannot be started on this machine
    │   ├── PortBusyError         a port that the server needs is taken
    │   ├── RequestError          the request is wrong: shape, type, a non-finite value
    │   └── DeadlineError         the answer did not come in time
    ├── ServiceError              what `lobsmith up` runs cannot be started, stopped or read
    ├── FlowsError                flows cannot be run: Prefect's server or the worker is unreachable
    └── PredictionLogError        a prediction log cannot be read or written

Each message is one line that names the thing, the place and the way out. The command line prints it without a traceback
and exits with status 1.
"""

__all__ = [
    "CaptureError",
    "ClockError",
    "ContractError",
    "DataContractError",
    "DataError",
    "DeadlineError",
    "EngineError",
    "FlowsError",
    "GateError",
    "LeaseError",
    "LeaseLostError",
    "LobsmithError",
    "ModeError",
    "ParamsError",
    "PortBusyError",
    "PrecisionError",
    "PredictionLogError",
    "ProjectError",
    "RegistryError",
    "ReleaseError",
    "RequestError",
    "ServiceError",
    "ServingError",
    "ThinWindowError",
    "TrainingError",
    "TritonMissingError",
    "UntrainedInstrumentError",
    "VenueError",
    "VersionGoneError",
]


class LobsmithError(Exception):
    """Anything a user can read and act on."""


class ProjectError(LobsmithError):
    """A folder is no project, or cannot be made one."""


class ParamsError(LobsmithError):
    """`params.yaml` is wrong."""


class DataError(LobsmithError):
    """Market data cannot be used."""


class CaptureError(DataError):
    """A capture file is empty, truncated, garbled or of an unknown format."""

    def __init__(self, path: object, what: str, *, line: int | None = None) -> None:
        self.path = str(path)
        self.line = line
        place = self.path if line is None else f"{self.path}:{line}"
        super().__init__(f"{place}: {what}")


class VenueError(DataError):
    """A venue cannot be reached, or answers otherwise than documented."""


class ThinWindowError(DataError):
    """The training window holds too little data."""


class TrainingError(LobsmithError):
    """A model could not be trained."""


class PrecisionError(LobsmithError):
    """A model cannot be converted to an arithmetic: the target lacks it, or nothing is there to quantise or measure."""


class EngineError(LobsmithError):
    """An engine could not be built, or does not fit this machine."""


class GateError(LobsmithError):
    """A gate refused; nothing was published."""


class DataContractError(GateError):
    """Market data or features are not what the contract asks for."""


class ReleaseError(LobsmithError):
    """A version could not be published, or a published one does not match its manifest."""


class ContractError(ReleaseError):
    """A change of the wire contract under an existing model name."""


class VersionGoneError(ReleaseError):
    """A version was rolled back or retired while its files were read."""


class LeaseError(LobsmithError):
    """Another process holds the lease."""


class LeaseLostError(LeaseError):
    """The lease was taken over; nothing more was done."""


class RegistryError(ReleaseError):
    """MLflow is unreachable: it refuses connections, is locked, or does not answer in time."""


class ClockError(LobsmithError):
    """The time of a workspace cannot be read or set."""


class ModeError(LobsmithError):
    """The mode of a model cannot be read or set."""


class ServingError(LobsmithError):
    """A model server gives no answer."""


class UntrainedInstrumentError(ServingError):
    """A model is asked about an instrument that it was not trained on."""


class TritonMissingError(ServingError):
    """Triton cannot be started on this machine."""


class PortBusyError(ServingError):
    """A port that the server needs is taken."""


class RequestError(ServingError):
    """The request is wrong: shape, type, a non-finite value."""


class DeadlineError(ServingError):
    """The answer did not come in time."""


class ServiceError(LobsmithError):
    """What `lobsmith up` runs cannot be started, stopped or read."""


class FlowsError(LobsmithError):
    """Flows cannot be run: Prefect's server or the worker is unreachable."""


class PredictionLogError(LobsmithError):
    """A prediction log cannot be read or written."""
