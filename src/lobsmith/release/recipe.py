"""The recipe of a version: the data and the parameters that its bits, and the verdicts on them, follow from."""

from collections.abc import Mapping
from typing import Any

import msgspec

from lobsmith.errors import ReleaseError
from lobsmith.params import Params, as_table
from lobsmith.release.manifest import Manifest

BITS = ("window", "features", "labels", "split", "model", "train", "compress")
"""Sections of `params.yaml` that the bits of a model depend on besides its data."""
VERDICTS = ("contract", "evaluation", "walk_forward", "gates")
"""Sections that the verdicts on those bits depend on."""


def same_recipe(manifest: Manifest, fingerprint: str, params: Params) -> bool:
    """Say whether a retrain would make the version again and judge it by the same rules.

    Parameters of what comes after that (serving, client, engines, retention) make no difference. Nor does `data`: the
    fingerprint says what was read. It is of one instrument, so with `train.pool` the answer is always no.

    Args:
        manifest: of the version.
        fingerprint: of the data that would be trained on.
        params: that it would be trained with.
    """
    if params.train.pool or manifest.data_fingerprint != fingerprint:
        return False
    wanted = sections(as_table(params), *BITS, *VERDICTS)
    return bool(sections(manifest.params, *BITS, *VERDICTS) == wanted)


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
