"""Records that lie in files as JSON, which a crash, a failing disk or a person may have spoilt."""

from typing import TypeVar

import msgspec

_Record = TypeVar("_Record")


def decode(content: bytes, kind: type[_Record]) -> _Record:
    """Return the record that a file's content is.

    Raises:
        msgspec.DecodeError: it is none; a byte within a string that is no UTF-8 counts too, which msgspec alone reports
            as an error of another kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error
