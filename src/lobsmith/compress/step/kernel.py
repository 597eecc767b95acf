"""One row of the attention network as one compiled call, on one block of memory.

All numbers are in one float32 array, the arena, at offsets in `layout`, zero-padded to a multiple of `LANES`: no loop
has a remainder. Layers write where the next reads: [embedding | h of layer 1 | h of layer 2 | …] and [h of the last
layer | attended | inputs]. Keys are columns: attention logits are an ordinary product. A step shifts the ring by a row,
a tenth of the call, so that the order of sums does not depend on a stream's start.

Sums may be reordered and contracted, but NaN and infinity are respected (unlike `fastmath=True`): a NaN input makes a
NaN output. Comparisons are written so that NaN passes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic

LANES = 8
"""Multiple that vectors are padded to: inputs a pass of a product, floats in an AVX register."""
MASKED = np.float32(-1e30)
"""Attention logit of a missing row."""
CLASSES, OUTLOOK = 3, 5
"""Outputs of a horizon: directions, and three more probabilities, a move and a volatility."""
SLOPE, LARGEST_INPUT = np.float32(0.01), np.float32(8.0)
"""Of the LeakyReLUs; clip of standardised inputs."""
PLACES = (
    "features", "inputs", "location", "scale", "first", "second", "embedding", "hidden", "cell", "gates", "query",
    "scores", "keys", "values", "age_bias", "attended", "logits", "volatility_scale", "probabilities",
    "outlook", "count", "state", "weights",
)  # fmt: skip
"""Offsets in the arena, the first numbers of `layout`."""
SIZES = ("F", "C", "H", "L", "K", "A", "horizons", "S", "padded_F", "padded_C", "padded_H", "padded_K", "padded_A", "O")
"""Lengths, the next ones; `O` is the padded number of logits."""
MARKS = ("lent",)
"""Whether the caller may have changed the lent state; the last number."""

(
    _FEATURES, _INPUTS, _LOCATION, _SCALE, _FIRST, _SECOND, _EMBEDDING, _HIDDEN, _CELL, _GATES, _QUERY,
    _SCORES, _KEYS, _VALUES, _AGE_BIAS, _ATTENDED, _LOGITS, _VOLATILITY_SCALE, _PROBABILITIES,
    _OUTLOOK, _COUNT, _STATE, _WEIGHTS,
    _F, _C, _H, _L, _K, _A, _HORIZONS, _S, _PADDED_F, _PADDED_C, _PADDED_H, _PADDED_K, _PADDED_A, _O,
    _LENT,
) = range(len(PLACES) + len(SIZES) + len(MARKS))  # fmt: skip

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_0, _1, _2, _3, _4, _5, _6, _7, _8 = (np.uint64(number) for number in range(9))
_ZERO, _ONE, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)

# tanh x = x P(x²) / Q(x²) on |x| <= 7.998, beyond which it is ±1 to float32: the rational function of Eigen and MLAS.
_TANH_LARGEST = np.float32(7.99881172180175781)
_P1, _P3, _P5, _P7, _P9, _P11, _P13 = (
    np.float32(coefficient)
    for coefficient in (
        4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
        -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16,
    )
)  # fmt: skip
_Q0, _Q2, _Q4, _Q6 = (
    np.float32(coefficient)
    for coefficient in (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
)
# e^x = 2^n e^r, |r| <= ln 2 / 2, with the polynomial of Cephes' expf.
_LEAST = np.float32(-87.0)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E2, _E3, _E4, _E5, _E6, _E7 = (
    np.float32(coefficient)
    for coefficient in (
        5.0000001201e-1,
        1.6666665459e-1,
        4.1665795894e-2,
        8.3334519073e-3,
        1.3981999507e-3,
        1.9875691500e-4,
    )
)
_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, in the low bits
_EXPONENT = np.int32(23)
_ONE_BITS = np.int32(0x3F800000)


@intrinsic
def _bits(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _number(typing_context: Any, bits: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(cache=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def exp(x):  # type: ignore[no-untyped-def]
    """Return e^x of a float32 x <= 88; e^-87 below -87."""
    x = _LEAST if x < _LEAST else x
    shifted = x * _LOG2_E + _MAGIC  # sums that reordering would undo
    n = shifted - _MAGIC
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * (_E6 + r * _E7))))
    scale = types.int32(types.int32(_bits(shifted) << _EXPONENT) + _ONE_BITS)
    return (_ONE + (r + r * r * series)) * _number(scale)


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def tanh(x):  # type: ignore[no-untyped-def]
    """Return tanh x of a float32, to 3e-7."""
    x = _TANH_LARGEST if x > _TANH_LARGEST else x
    x = -_TANH_LARGEST if x < -_TANH_LARGEST else x
    s = x * x
    p = _P1 + s * (_P3 + s * (_P5 + s * (_P7 + s * (_P9 + s * (_P11 + s * _P13)))))
    return x * p / (_Q0 + s * (_Q2 + s * (_Q4 + s * _Q6)))


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _add_product(a, x, count, matrix, y, width):  # type: ignore[no-untyped-def]
    """Add x [count] times a matrix [count, width] to y [width]; return the matrix's end."""
    for i in range(_0, count, _8):
        x0, x1, x2, x3 = a[x + i], a[x + i + _1], a[x + i + _2], a[x + i + _3]
        x4, x5, x6, x7 = a[x + i + _4], a[x + i + _5], a[x + i + _6], a[x + i + _7]
        for j in range(width):
            w = matrix + j
            a[y + j] += (
                x0 * a[w]
                + x1 * a[w + width]
                + x2 * a[w + _2 * width]
                + x3 * a[w + _3 * width]
                + x4 * a[w + _4 * width]
                + x5 * a[w + _5 * width]
                + x6 * a[w + _6 * width]
                + x7 * a[w + _7 * width]
            )
        matrix += _8 * width
    return matrix


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _linear(a, x, count, weights, y, width):  # type: ignore[no-untyped-def]
    """Write a layer's bias [width] plus x [count] times its matrix [count, width] to y; return the matrix's end."""
    for j in range(width):
        a[y + j] = a[weights + j]
    return _add_product(a, x, count, weights + width, y, width)


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _leaky(a, x, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        value = a[x + i]
        a[x + i] = value * SLOPE if value < _ZERO else value


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _cell(a, gates, cell, hidden, units):  # type: ignore[no-untyped-def]
    """Step an LSTM layer with gates input, output, forget and new; the weights of the first three are halved.

    The logistic function is (1 + tanh(x / 2)) / 2, so that all four take one loop.
    """
    for j in range(_4 * units):
        a[gates + j] = tanh(a[gates + j])
    for j in range(units):
        opened = _HALF + _HALF * a[gates + j]
        kept = _HALF + _HALF * a[gates + _2 * units + j]
        a[cell + j] = kept * a[cell + j] + opened * a[gates + _3 * units + j]
    for j in range(units):
        a[hidden + j] = (_HALF + _HALF * a[gates + units + j]) * tanh(a[cell + j])


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _attend(a, layout):  # type: ignore[no-untyped-def]
    """Append the row's key and value to the ring, and write the attention's result."""
    ring, width, padded = layout[_K], layout[_PADDED_A], layout[_PADDED_K]
    query, scores, attended = layout[_QUERY], layout[_SCORES], layout[_ATTENDED]
    key, value = query + width, query + _2 * width
    newest = ring - _1
    for i in range(layout[_A]):
        keys = layout[_KEYS] + i * padded
        for s in range(newest):
            a[keys + s] = a[keys + s + _1]
        a[keys + newest] = a[key + i]
    values = layout[_VALUES]
    for i in range(newest * width):
        a[values + i] = a[values + i + width]
    for i in range(width):
        a[values + newest * width + i] = a[value + i]
        a[attended + i] = _ZERO
    bias, cold = layout[_AGE_BIAS], np.float32(newest) - a[layout[_COUNT]]
    for s in range(padded):
        a[scores + s] = a[bias + s] + (MASKED if np.float32(s) < cold else _ZERO)
    _add_product(a, query, width, layout[_KEYS], scores, padded)
    largest = MASKED
    for s in range(padded):
        largest = a[scores + s] if a[scores + s] > largest else largest
    for s in range(padded):
        a[scores + s] = exp(a[scores + s] - largest)
    total = _ZERO
    for s in range(padded):
        total += a[scores + s]
    _add_product(a, scores, padded, values, attended, width)
    share = _ONE / total
    for i in range(width):
        a[attended + i] *= share


@njit(cache=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _answer(a, layout):  # type: ignore[no-untyped-def]
    """Turn the logits [3 horizons | 3 horizons | horizons | horizons] into probabilities and auxiliary outputs."""
    horizons, logits = layout[_HORIZONS], layout[_LOGITS]
    probabilities, outlook = layout[_PROBABILITIES], layout[_OUTLOOK]
    for h in range(horizons):
        x = logits + _3 * h
        largest = a[x] if a[x] > a[x + _1] else a[x + _1]
        largest = a[x + _2] if a[x + _2] > largest else largest
        a[x] -= largest
        a[x + _1] -= largest
        a[x + _2] -= largest
    for i in range(_3 * horizons):
        a[logits + i] = exp(a[logits + i])
    binary = logits + _3 * horizons
    for i in range(_3 * horizons):
        a[binary + i] = _HALF + _HALF * tanh(_HALF * a[binary + i])
    move, volatility = binary + _3 * horizons, binary + _4 * horizons
    for h in range(horizons):
        x, p, o = logits + _3 * h, probabilities + _3 * h, outlook + _5 * h
        share = _ONE / (a[x] + a[x + _1] + a[x + _2])
        for i in range(_3):
            a[p + i] = a[x + i] * share
            a[o + i] = a[binary + _3 * h + i]
        a[o + _3] = a[move + h]
        v = a[volatility + h]
        softplus = (v if v > _ZERO else _ZERO) + np.log1p(exp(-np.abs(v)))
        a[o + _4] = softplus * a[layout[_VOLATILITY_SCALE] + h]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def step(a: npt.NDArray[np.float32], layout: npt.NDArray[np.uint64]) -> None:
    """Answer the row in the arena and update its state.

    `layout` is `PLACES`, `SIZES` and `MARKS`.
    """
    if layout[_LENT] != _0:
        take_state(a, layout)
    features, inputs, location, scale = layout[_FEATURES], layout[_INPUTS], layout[_LOCATION], layout[_SCALE]
    for i in range(layout[_F]):
        x = (a[features + i] - a[location + i]) * a[scale + i]
        x = LARGEST_INPUT if x > LARGEST_INPUT else x
        a[inputs + i] = -LARGEST_INPUT if x < -LARGEST_INPUT else x
    channels, units, width = layout[_PADDED_C], layout[_PADDED_H], layout[_PADDED_A]
    weights = _linear(a, inputs, layout[_PADDED_F], layout[_WEIGHTS], layout[_FIRST], channels)
    _leaky(a, layout[_FIRST], channels)
    weights = _linear(a, layout[_FIRST], channels, weights, layout[_SECOND], channels)
    _leaky(a, layout[_SECOND], channels)
    x = layout[_EMBEDDING]
    weights = _linear(a, layout[_SECOND], channels, weights, x, channels)
    _leaky(a, x, channels)
    hidden, cell, count = layout[_HIDDEN], layout[_CELL], channels + units
    for _ in range(layout[_L]):
        weights = _linear(a, x, count, weights, layout[_GATES], _4 * units)
        _cell(a, layout[_GATES], cell, hidden, units)
        x, count = hidden, _2 * units
        hidden += units
        cell += units
    weights = _linear(a, x, units, weights, layout[_QUERY], _3 * width)
    _attend(a, layout)
    _linear(a, x, units + width + layout[_PADDED_F], weights, layout[_LOGITS], layout[_O])
    _answer(a, layout)
    rows = a[layout[_COUNT]] + _ONE
    ring = np.float32(layout[_K])
    a[layout[_COUNT]] = ring if rows > ring else rows


@njit(cache=True, error_model="numpy")
def take_state(a: npt.NDArray[np.float32], layout: npt.NDArray[np.uint64]) -> None:
    """Read the wire's state: h and c of each layer, keys and values with the oldest first, count."""
    units, attention, place = layout[_H], layout[_A], layout[_STATE]
    for memory in (layout[_HIDDEN], layout[_CELL]):
        for layer in range(layout[_L]):
            _move(a, place, memory + layer * layout[_PADDED_H], units, layout[_PADDED_H])
            place += units
    for s in range(layout[_K]):
        for i in range(attention):
            a[layout[_KEYS] + i * layout[_PADDED_K] + s] = a[place + i]
        place += attention
    for s in range(layout[_K]):
        _move(a, place, layout[_VALUES] + s * layout[_PADDED_A], attention, layout[_PADDED_A])
        place += attention
    a[layout[_COUNT]] = a[place]
    layout[_LENT] = _0


@njit(cache=True, error_model="numpy")
def lend_state(a: npt.NDArray[np.float32], layout: npt.NDArray[np.uint64]) -> None:
    """Write the wire's state; the next step reads it back, changed or not."""
    if layout[_LENT] != _0:
        return
    units, attention, place = layout[_H], layout[_A], layout[_STATE]
    for memory in (layout[_HIDDEN], layout[_CELL]):
        for layer in range(layout[_L]):
            _move(a, memory + layer * layout[_PADDED_H], place, units, units)
            place += units
    for s in range(layout[_K]):
        for i in range(attention):
            a[place + i] = a[layout[_KEYS] + i * layout[_PADDED_K] + s]
        place += attention
    for s in range(layout[_K]):
        _move(a, layout[_VALUES] + s * layout[_PADDED_A], place, attention, attention)
        place += attention
    a[place] = a[layout[_COUNT]]
    for i in range(place + _1, layout[_STATE] + layout[_S]):
        a[i] = _ZERO
    layout[_LENT] = _1


@njit(cache=True, error_model="numpy", forceinline=True)
def _move(a, source, destination, count, padded):  # type: ignore[no-untyped-def]
    """Copy a vector and write zeros after it: NaN in the padding would persist."""
    for i in range(count):
        a[destination + i] = a[source + i]
    for i in range(count, padded):
        a[destination + i] = _ZERO
