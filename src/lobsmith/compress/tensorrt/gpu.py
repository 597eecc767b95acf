"""This machine's GPU, read from CUDA's driver without any package."""

import ctypes

from msgspec import Struct

_MAJOR, _MINOR = 75, 76
"""`CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR` of cuda.h."""
_NAME_BYTES = 256


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU: its name and compute capability, as "8.9"."""

    name: str
    capability: str


def this_gpu() -> Gpu | None:
    """Return this process's first GPU; None without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    failed = cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    if failed:
        return None
    return Gpu(name=name.value.decode(errors="replace"), capability=".".join(str(number.value) for number in numbers))
