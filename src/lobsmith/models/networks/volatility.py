"""Classical forecasts of realised volatility beside an LSTM: EWMA, HAR and GARCH(1,1), all in continuous time.

- EWMA: J.P. Morgan & Reuters, RiskMetrics Technical Document, 1996.
- HAR: Corsi, Journal of Financial Econometrics 7(2), 2009. Here the day, week and month are 1 s, 10 s and 60 s.
- GARCH: Bollerslev, Journal of Econometrics 31(3), 1986.
- QLIKE: Patton, Journal of Econometrics 160(1), 2011; here v / f + ln f of realised variance v and its forecast f.

    (features [B, T, F], state [B, S])  →  (representation [B, T, hidden + 3 H], next state [B, S])

With r the mid's return of a row (bps), d the time since the row before (s) and h a horizon (s), forecasts are variances
in bps², put out as ln of their root, between `FLOOR` and `CEILING`:

- A variance rate over τ is X = S / τ + L exp(−age / τ), with S ← S exp(−d / τ) + r² and L the long-run rate, where a
  cold stream starts. EWMA is X h with the τ of the least QLIKE on the training rows.
- HAR is exp(b_0 + b_1 x_1 + b_2 x_2 + b_3 x_3)², x_k = ln √(X_k h). The b are by ordinary least squares on the log
  target, raised to a tenth of its RMS so that horizons without a move do not dominate; b_0 also makes the mean of v / f
  one (Duan's smearing, 1983, for QLIKE).
- GARCH is fitted on returns of a grid of Δ = 0.1 s. With V its long-run rate, ρ = −ln(α + β) / Δ and
  η = ln((α + β) / β) / Δ, the rate X of a row is

      X  ←  V + (X − V) exp(−ρ d) + g(d) (r² − E[r²]),      g(d) = ρ exp(−ρ d) (1 − exp(−η d)) / (1 − exp(−ρ d)),

  with E[r²] = V d + (X − V) (1 − exp(−ρ d)) / ρ. The deviation from V keeps (α + β)^(d / Δ) of itself in the mean; at
  d = Δ the gain Δ g is α times −ln(α + β) / (1 − α − β), nearly 1. In positive terms, so that X stays positive:

      X  ←  X exp(−(ρ + η) d) + V (1 − exp(−(ρ + η) d) − g(d) d) + g(d) r²,

  from L when cold. The forecast is V h + (X − V) (1 − exp(−ρ h)) / ρ.

State (zeros are cold): the LSTM's hidden and cell state [layers · hidden each]; S of EWMA and HAR's components, bps²
[H + 3]; X of GARCH less the rest of the L it started from, bps²/s [1]; the stream's age, s, at most `OLDEST` [1].
"""

import itertools
import math
from dataclasses import dataclass
from enum import IntEnum

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lobsmith.features.definitions import NAMES
from lobsmith.features.stream import Rows
from lobsmith.models.networks.network import Architecture
from lobsmith.units import NS_PER_MS

FLOOR, CEILING = 1e-3, 1e4
"""Least and greatest forecast of volatility, basis points."""
COMPONENTS_S = (1.0, 10.0, 60.0)
"""Time constants of HAR's components, seconds."""
GRID_S = tuple(np.geomspace(0.1, 120.0, 16).tolist())
"""Time constants that EWMA chooses from, seconds."""
DEFAULT_S = 10.0
"""Time constant of an unfitted EWMA, seconds."""
CELL_S = 0.1
"""Grid of GARCH, seconds."""
LEAST_CELLS, MOST_CELLS = 100, 200_000
"""Longer grids are fitted on their newest cells, some five and a half hours."""
LEAST_ROWS = 40
"""With fewer rows of known target, EWMA and HAR keep their defaults."""
OLDEST = 4096.0
"""Age beyond which no forecast depends on its start, seconds."""
UNIT_ROOT = 1e-4
"""Least 1 − α − β of a stationary fit: V, which it divides, would be noise."""
AGREEMENT = 0.5
"""Largest difference in log-likelihood of two fits of the same maximum."""
_DEVIATION = 10.0
"""Deviation of the returns that `arch` fits; at 1 its optimiser stops where it began."""
_STARTS = (None, (5.0, 0.05, 0.9), (2.0, 0.05, 0.93), (10.0, 0.2, 0.7))
"""Starts of fits: ω, α and β for such returns; None is `arch`'s own."""
DOUBLINGS = 9
"""Rounds of the exported sum over time: at most 2^9 − 1 rows a call."""
_RETURN, _ELAPSED = NAMES.index("mid_return"), NAMES.index("elapsed")
_LONGEST = 16.0
"""ln(1 + ms) of some 2.5 hours, at which longer gaps are clipped."""
_LEAST_RATE = 1e-9
_QUIET = 0.1
_LEAST_STEP_S = 1e-7
_SMALL = 0.25
_LEAST_BETA = 1e-4
_LARGEST_INPUT = 8.0
"""Standardised features are clipped for the LSTM, not for the forecasts."""
_NS_PER_CELL = 100 * NS_PER_MS


class GarchStatus(IntEnum):
    """Whether GARCH forecasts, or why EWMA replaces it."""

    UNFITTED = 0
    FITTED = 1
    TOO_FEW_CELLS = 2
    NO_VARIATION = 3
    NOT_CONVERGED = 4
    NOT_STATIONARY = 5


@dataclass(frozen=True)
class Garch:
    """A GARCH(1,1) of returns on the grid; `omega` in bps² a cell. All are 0 without an estimate."""

    status: GarchStatus
    omega: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    cells: int = 0

    @property
    def usable(self) -> bool:
        """Whether the fit converged and is stationary."""
        return self.status is GarchStatus.FITTED


@dataclass(frozen=True)
class VolatilityFit:
    """A fit; `horizon_fitted` bool [H]: EWMA and HAR are not at their defaults."""

    garch: Garch
    horizon_fitted: npt.NDArray[np.bool_]


class Volatility(nn.Module):
    """An LSTM's output and, for each horizon, the logarithms of three classical forecasts.

    The representation is [LSTM: hidden, EWMA: H, HAR: H, GARCH: H]. Before `fit`, EWMA runs at 10 s and HAR is the
    geometric mean of its components. EWMA replaces GARCH unless `garch_status` is FITTED.

    Args:
        location: float32 [F], subtracted from each feature.
        scale: float32 [F], then their divisor.
        horizons_ms: the H horizons, milliseconds.
        hidden: units of an LSTM layer.
        layers: LSTM layers.
    """

    location: Tensor
    scale: Tensor
    horizon: Tensor
    tau: Tensor
    long_run: Tensor
    har: Tensor
    horizon_fitted: Tensor
    garch: Tensor
    garch_status: Tensor
    reach: Tensor

    def __init__(
        self, location: Tensor, scale: Tensor, horizons_ms: tuple[int, ...], *, hidden: int = 64, layers: int = 2
    ) -> None:
        super().__init__()
        self.horizons, self.hidden, self.layers = len(horizons_ms), hidden, layers
        self.sums = self.horizons + len(COMPONENTS_S)
        self.width = hidden + 3 * self.horizons
        self.state_size = 2 * layers * hidden + self.sums + 2
        self.register_buffer("location", location.detach().clone().float())
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("horizon", torch.tensor(horizons_ms, dtype=torch.float32) / 1e3)
        self.register_buffer("tau", torch.tensor([DEFAULT_S] * self.horizons + list(COMPONENTS_S)))
        self.register_buffer("long_run", torch.tensor(1.0))
        self.register_buffer("har", _default_har().repeat(self.horizons, 1))
        self.register_buffer("horizon_fitted", torch.zeros(self.horizons, dtype=torch.bool))
        self.register_buffer("garch", torch.ones(3))  # V bps²/s, ρ 1/s, η 1/s
        self.register_buffer("garch_status", torch.tensor(int(GarchStatus.UNFITTED)))
        self.register_buffer("reach", torch.zeros(2**DOUBLINGS - 1), persistent=False)
        self.lstm = nn.LSTM(len(location), hidden, layers, batch_first=True)

    def cold_state(self, batch: int) -> Tensor:
        """Return a new stream's state: zeros [B, S]."""
        return torch.zeros(batch, self.state_size, device=self.scale.device)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows, if exported at most 511: [B, T, F], [B, S] to [B, T, width], [B, S]."""
        batch, memory = features.shape[0], self.layers * self.hidden
        hidden, cell, variances = torch.split(state, [memory, memory, self.sums + 2], dim=1)
        clipped = torch.clamp(features, -_LARGEST_INPUT, _LARGEST_INPUT)
        recurrent, (hidden, cell) = self.lstm(clipped, (self._layered(hidden), self._layered(cell)))
        forecasts, variances = self.forecast(features.detach(), variances.detach())
        next_state = torch.cat(
            [
                hidden.transpose(0, 1).reshape(batch, memory),
                cell.transpose(0, 1).reshape(batch, memory),
                variances,
            ],
            dim=1,
        )
        return torch.cat([recurrent, forecasts], dim=2), next_state

    def forecast(self, features: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log forecasts, ln bps [B, T, 3 H], and the last part of the state, [B, H + 5]."""
        returns, elapsed = self._returns(features)
        gain, drift = self._garch_terms(elapsed)
        squares = returns * returns
        rate = (self.garch[1] + self.garch[2]).reshape(1)
        decay = torch.cat([1 / self.tau, rate])
        news = torch.cat([squares.unsqueeze(2).repeat(1, 1, self.sums), (drift + gain * squares).unsqueeze(2)], dim=2)
        start, age = torch.split(variances, [self.sums + 1, 1], dim=1)
        sums = self._decayed(start, torch.exp(-elapsed.unsqueeze(2) * decay), news)
        age = torch.clamp(age.unsqueeze(1) + torch.cumsum(elapsed, dim=1).unsqueeze(2), max=OLDEST)
        cold = torch.exp(-age * decay)
        rates = sums[:, :, : self.sums] / self.tau + self.long_run * cold[:, :, : self.sums]
        garch_rate = sums[:, :, self.sums :] + self.long_run * cold[:, :, self.sums :]
        forecasts = self._forecasts(rates, garch_rate)
        return forecasts, torch.cat([sums[:, -1], age[:, -1]], dim=1)

    def _decayed(self, start: Tensor, kept: Tensor, news: Tensor) -> Tensor:
        """Return x_i = kept_i x_{i-1} + news_i from x_{-1} = start, [B, T, K], in log T rounds (Hillis & Steele, 1986).

        After k rounds, row i holds the news of the last 2^k rows and what is kept over them; no factor is above one.
        """
        sums = torch.cat([start.unsqueeze(1), news], dim=1)
        kept = nn.functional.pad(kept, (0, 0, 1, 0))
        length = news.shape[1]
        exported = torch.onnx.is_in_onnx_export()
        for doubling in range(DOUBLINGS if exported else int(length).bit_length()):
            back = (0, 0, 2**doubling, 0)
            sums = sums + kept * nn.functional.pad(sums, back)[:, : length + 1]
            kept = kept * nn.functional.pad(kept, back)[:, : length + 1]
        sums = sums[:, 1:]
        if exported:  # more rows than the doublings reach make shapes that do not fit, not a wrong sum
            sums = sums + self.reach[:length].unsqueeze(1)
        return sums

    def _layered(self, state: Tensor) -> Tensor:
        return state.reshape(state.shape[0], self.layers, self.hidden).transpose(0, 1).contiguous()

    def _returns(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the scaling: the returns, bps, and the times since the row before, s, each [B, T]."""
        returns = features[:, :, _RETURN] * self.scale[_RETURN] + self.location[_RETURN]
        elapsed = features[:, :, _ELAPSED] * self.scale[_ELAPSED] + self.location[_ELAPSED]
        return torch.clamp(returns, -CEILING, CEILING), _grown(torch.clamp(elapsed, 0.0, _LONGEST)) / 1e3

    def _garch_terms(self, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Return a row's effect on the rate: g, 1/s, times its squared return, and V (…), bps²/s."""
        elapsed_s = torch.clamp(elapsed, min=_LEAST_STEP_S)
        long_run, rho, eta = self.garch[0], self.garch[1], self.garch[2]
        reverted, pushed, kept = _rise(rho * elapsed_s), _rise(eta * elapsed_s), torch.exp(-rho * elapsed_s)
        gain = rho * kept * pushed / reverted
        # 1 − exp(−(ρ + η) d) − g d without cancellation.
        x = rho * elapsed_s
        small = x * (1 / 2 - x * (1 / 12 - x * x / 720))
        short = torch.where(x < _SMALL, small, 1 - x * kept / reverted)
        drift = pushed * short + (1 - pushed) * reverted
        return gain, long_run * drift

    def _forecasts(self, rates: Tensor, garch_rate: Tensor) -> Tensor:
        """Turn variance rates [B, T, H + 3] and [B, T, 1], bps²/s, into logarithms of volatility [B, T, 3 H]."""
        ewma = _log_root(rates[:, :, : self.horizons] * self.horizon)
        components = rates[:, :, self.horizons :].unsqueeze(2) * self.horizon.reshape(1, 1, -1, 1)
        har = (_log_root(components) * self.har[:, 1:]).sum(dim=3) + self.har[:, 0]
        har = torch.clamp(har, math.log(FLOOR), math.log(CEILING))
        rho = self.garch[1]
        lasting = _rise(rho * self.horizon) / rho
        garch = _log_root(self.garch[0] * torch.clamp(self.horizon - lasting, min=0.0) + garch_rate * lasting)
        garch = torch.where(self.garch_status == int(GarchStatus.FITTED), garch, ewma)
        return torch.cat([ewma, har, garch], dim=2)

    def fit(self, rows: Rows, train_rows: npt.NDArray[np.int64], volatility: npt.NDArray[np.float32]) -> VolatilityFit:
        """Set the forecasts' buffers from training rows only; each consecutive run is a stream, cold at its start.

        Args:
            rows: N rows.
            train_rows: int64 [M], indices of the training rows.
            volatility: float32 [N, H], realised volatility of each horizon, bps; NaN unknown.
        """
        train = np.unique(train_rows)
        returns, elapsed = training_returns(rows, train)
        starts = run_starts(rows, train)
        span = elapsed.sum()
        long_run = max(float((returns**2).sum() / span) if span > 0 else 0.0, _LEAST_RATE)
        horizons = self.horizon.cpu().numpy().astype(np.float64)
        known = np.isfinite(volatility[train])
        fitted = known.sum(axis=0) >= LEAST_ROWS
        grid = np.stack([variance_rate(returns, elapsed, starts, tau, long_run) for tau in GRID_S])
        components = np.stack([variance_rate(returns, elapsed, starts, tau, long_run) for tau in COMPONENTS_S], axis=1)
        self.tau[: self.horizons] = DEFAULT_S
        self.har.copy_(_default_har().repeat(self.horizons, 1))
        for h in np.flatnonzero(fitted).tolist():
            rows_h, target = known[:, h], volatility[train, h].astype(np.float64)[known[:, h]]
            losses = [qlike(target, _bounded(rate[rows_h] * horizons[h])) for rate in grid]
            self.tau[h] = GRID_S[int(np.argmin(losses))]
            self.har[h] = torch.from_numpy(fit_har(components[rows_h] * horizons[h], target))
        self.long_run.fill_(long_run)
        self.horizon_fitted.copy_(torch.from_numpy(fitted))
        garch = fit_garch(grid_returns(rows.time[train], returns, starts))
        self.garch_status.fill_(int(garch.status))
        if garch.usable:
            beta = max(garch.beta, _LEAST_BETA)
            persistence = garch.alpha + beta
            rate = garch.omega / (1 - persistence) / CELL_S
            derived = [rate, -math.log(persistence) / CELL_S, math.log(persistence / beta) / CELL_S]
            self.garch.copy_(torch.tensor(derived))
        else:
            self.garch.fill_(1.0)
        return VolatilityFit(garch, fitted)


def training_returns(
    rows: Rows, train: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the training rows' returns, bps, and times since the row before, s, clipped as in the network."""
    raw = rows.raw[train][:, [_RETURN, _ELAPSED]].astype(np.float64)
    return np.clip(raw[:, 0], -CEILING, CEILING), np.expm1(np.clip(raw[:, 1], 0.0, _LONGEST)) / 1e3


def run_starts(rows: Rows, train: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return bool [M]: the training row does not follow its predecessor within a segment."""
    starts = np.ones(len(train), np.bool_)
    starts[1:] = (np.diff(train) != 1) | (np.diff(rows.segment[train]) != 0)
    return starts


def variance_rate(
    returns: npt.NDArray[np.float64],
    elapsed: npt.NDArray[np.float64],
    starts: npt.NDArray[np.bool_],
    tau: float,
    long_run: float,
) -> npt.NDArray[np.float64]:
    """Return the variance rate over `tau` seconds at each row, bps²/s."""
    rate = np.empty(len(returns))
    _decay(returns, elapsed, starts, tau, long_run, rate)
    return rate


@numba.njit(cache=True)
def _decay(
    returns: npt.NDArray[np.float64],
    elapsed: npt.NDArray[np.float64],
    starts: npt.NDArray[np.bool_],
    tau: float,
    long_run: float,
    out: npt.NDArray[np.float64],
) -> None:
    rate = long_run
    for row in range(returns.shape[0]):
        if starts[row]:
            rate = long_run
        rate = rate * np.exp(-elapsed[row] / tau) + returns[row] * returns[row] / tau
        out[row] = rate


def qlike(volatility: npt.NDArray[np.float64], variance: npt.NDArray[np.float64]) -> float:
    """Return the mean QLIKE of forecasts of variance, bps², of realised volatility, bps."""
    return float(np.mean(volatility**2 / variance + np.log(variance)))


def fit_har(components: npt.NDArray[np.float64], volatility: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Regress realised volatility on its components, both as logarithms.

    Args:
        components: float64 [N, 3], variance rates times the horizon, bps².
        volatility: float64 [N], bps.

    Returns:
        b_0 to b_3, float32 [4]; of least norm where the components are collinear.
    """
    inputs = np.column_stack([np.ones(len(volatility)), 0.5 * np.log(_bounded(components))])
    least = max(FLOOR, _QUIET * float(np.sqrt(np.mean(volatility**2))))
    coefficients = np.linalg.lstsq(inputs, np.log(np.maximum(volatility, least)), rcond=None)[0]
    forecast = _bounded(np.exp(2 * np.clip(inputs @ coefficients, math.log(FLOOR), math.log(CEILING))))
    coefficients[0] += 0.5 * math.log(max(float(np.mean(volatility**2 / forecast)), FLOOR**2))
    return np.asarray(coefficients, np.float32)


def grid_returns(
    time: npt.NDArray[np.int64], returns: npt.NDArray[np.float64], starts: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the returns of a grid of 0.1 s, bps: each run on its own, concatenated.

    A run's grid begins with its first row, without its return; an incomplete last cell is left out.
    """
    edges = [*np.flatnonzero(starts).tolist(), len(time)]
    parts: list[npt.NDArray[np.float64]] = [np.empty(0)]
    for start, stop in itertools.pairwise(edges):
        cell = (time[start + 1 : stop] - time[start] - 1) // _NS_PER_CELL
        cells = int((time[stop - 1] - time[start]) // _NS_PER_CELL)
        sums = np.bincount(np.maximum(cell, 0), returns[start + 1 : stop], cells)[:cells]
        parts.append(sums.astype(np.float64))
    return np.concatenate(parts)


def fit_garch(returns: npt.NDArray[np.float64]) -> Garch:
    """Fit a GARCH(1,1) of mean zero with normal innovations by maximum likelihood, confirmed from two starts.

    Args:
        returns: float64 [N], of the grid's cells, bps.
    """
    from arch import arch_model  # serving needs neither it nor its dependencies

    returns = returns[-MOST_CELLS:]
    cells = len(returns)
    if cells < LEAST_CELLS:
        return Garch(GarchStatus.TOO_FEW_CELLS, cells=cells)
    unit = float(np.std(returns)) / _DEVIATION
    if not unit > 0:
        return Garch(GarchStatus.NO_VARIATION, cells=cells)
    model = arch_model(returns / unit, mean="Zero", vol="GARCH", p=1, q=1, dist="normal", rescale=False)
    fits: list[tuple[float, float, float, float]] = []
    for start in _STARTS:
        values = None if start is None else np.array(start)
        try:
            result = model.fit(disp="off", show_warning=False, starting_values=values)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            continue
        omega, alpha, beta = (float(result.params[name]) for name in ("omega", "alpha[1]", "beta[1]"))
        likelihood = float(result.loglikelihood)
        if result.convergence_flag == 0 and np.isfinite([likelihood, omega, alpha, beta]).all() and omega > 0:
            fits = sorted([*fits, (likelihood, omega * unit**2, alpha, beta)], reverse=True)
        if len(fits) > 1 and fits[0][0] - fits[1][0] <= AGREEMENT:
            _, omega, alpha, beta = fits[0]
            stationary = alpha + max(beta, _LEAST_BETA) < 1 - UNIT_ROOT
            status = GarchStatus.FITTED if stationary else GarchStatus.NOT_STATIONARY
            return Garch(status, omega, alpha, beta, cells)
    return Garch(GarchStatus.NOT_CONVERGED, cells=cells)


def _default_har() -> Tensor:
    return torch.tensor([0.0] + [1 / len(COMPONENTS_S)] * len(COMPONENTS_S))


def _bounded(variance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.clip(variance, FLOOR**2, CEILING**2), np.float64)


def _log_root(variance: Tensor) -> Tensor:
    return 0.5 * torch.log(torch.clamp(variance, FLOOR**2, CEILING**2))


def _rise(x: Tensor) -> Tensor:
    """Return 1 − exp(−x) for x >= 0, exact for small x: ONNX has no expm1."""
    half = torch.tanh(0.5 * x)
    return 2 * half / (1 + half)


def _grown(x: Tensor) -> Tensor:
    """Return exp(x) − 1 for x >= 0, exact for small x."""
    return torch.exp(x) * _rise(x)


ARCHITECTURE = Architecture(
    encoder=lambda _params, horizons, location, scale: Volatility(location, scale, horizons, hidden=64, layers=2),
    undoes_scaling=True,
    about="LSTM of 2 × 64 units beside EWMA, HAR and GARCH(1,1)",
)
