"""The recipe of a version: the data and the parameters that its bits, and the verdicts on them, follow from."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from lobsmith.errors import ReleaseError
from lobsmith.params import Params, as_table
from lobsmith.release.manifest import Manifest

BITS = ("window", "features", "labels", "split", "model", "train", "compress", "reference")
"""Sections of `params.yaml` that the bits of a version depend on besides its data."""
VERDICTS = ("contract", "evaluation", "walk_forward", "gates", "drift")
"""Sections that the verdicts on those bits depend on; of `drift` the rows of the reference do, too."""


def window_id(params: Params, fingerprints: Iterable[str], commit: str | None) -> str:
    """Return what tells one training from another: the data, the code, and the parameters that it depends on.

    Parameters of what comes after the verdicts (serving, client, engines, retention) make no difference. Nor does
    `data`: the fingerprints say what was read.

    Args:
        params: all of `params.yaml`.
        fingerprints: of the datasets that are trained on.
        commit: of the code, None where it is unknown.
    """
    recipe = sections(as_table(params), *BITS, *VERDICTS)
    content = msgspec.json.encode([sorted(fingerprints), commit, recipe], order="sorted")
    return hashlib.sha256(content).hexdigest()


def recorded_params(manifest: Manifest, here: Params) -> Params:
    """Return the parameters that a version was made with; sections that make no difference are those of `here`.

    Raises:
        ReleaseError: this release of lobsmith has other parameters.
    """
    names = ("data", *BITS, *VERDICTS)
    kept = {name: manifest.params.get(name) for name in names}
    try:
        return msgspec.convert(as_table(here) | kept, Params)
    except msgspec.ValidationError as error:
        raise ReleaseError(
            f"{manifest.model} {manifest.version}: its parameters are of another release of lobsmith: {error}; "
            f"check out the commit that it was made with, {manifest.git_commit or 'which was not recorded'}"
        ) from error


def sections(table: Mapping[str, Any], *names: str) -> Any:
    """Return sections of a table of parameters as a manifest holds them; None for one that it lacks."""
    return msgspec.json.decode(msgspec.json.encode({name: table.get(name) for name in names}))
