"""Verdicts on candidates during registrations and promotions; with a real MLflow on SQLite."""

import pytest

from lobsmith.online.evidence import PROMOTE, REJECT
from lobsmith.release.context import Release
from lobsmith.release.reconcile.reconcile import reconcile
from lobsmith.release.reconcile.requests import register_challenger
from lobsmith.release.reconcile.shadow_pair import VersionPair, apply_decision, pair_of
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, SERVING, SHADOW, alias_targets, registered, tag
from lobsmith.release.registry.runs import RunRef
from tests.release import toy
from tests.release.registrations import PARAMS, candidate, point_alias, register, workspace_with_mlflow
from tests.release.verdicts import verdict

pytestmark = pytest.mark.integration


@pytest.fixture
def workspace(tmp_path):
    return workspace_with_mlflow(tmp_path)


def challenged(workspace, scale):
    version = register(workspace, candidate(workspace, scale))
    point_alias(workspace, CHALLENGER, version)
    return version


def test_a_verdict_moves_the_aliases_of_the_pair_that_was_judged(workspace):
    point_alias(workspace, CHAMPION, register(workspace, candidate(workspace, 0.3)))
    reconcile(Release(workspace, PARAMS), "toy")
    first = challenged(workspace, 0.4)
    pair = pair_of(workspace, "toy")
    assert isinstance(pair, VersionPair)
    tag(workspace, "toy", first.version, {SHADOW: "noted meanwhile"})

    # A retrain ends while the old candidate is evaluated: the new challenger keeps its alias.
    second = challenged(workspace, 0.5)
    assert not apply_decision(workspace, PARAMS, "toy", pair, verdict(REJECT))
    assert alias_targets(workspace, "toy").challenger.version == second.version

    # Another promotion is requested meanwhile: the verdict does not overrule it.
    pair = pair_of(workspace, "toy")
    point_alias(workspace, CHAMPION, first)
    assert not apply_decision(workspace, PARAMS, "toy", pair, verdict(PROMOTE))
    assert alias_targets(workspace, "toy").champion.version == first.version
    assert pair_of(workspace, "toy") == "the champion is not what serves; reconcile first"

    reconcile(Release(workspace, PARAMS), "toy")
    assert apply_decision(workspace, PARAMS, "toy", pair_of(workspace, "toy"), verdict(PROMOTE))
    assert alias_targets(workspace, "toy").champion.version == second.version


def test_a_registration_that_is_killed_leaves_no_window_that_counts_as_trained(workspace, monkeypatch):
    """With a status before its alias, it would be retired and never trained again."""
    version = register(workspace, None)

    class Killed(BaseException):
        pass

    def crash(*_):
        raise Killed

    for name in ("request", "tag_status"):
        run, artifact = RunRef(version.run_id, "", version.version), toy.artifact(workspace.root / "run")
        with monkeypatch.context() as patch:
            patch.setattr(f"lobsmith.release.reconcile.requests.{name}", crash)
            with pytest.raises(Killed):
                register_challenger(Release(workspace, PARAMS), artifact, model="toy", contract=toy.CONTRACT, run=run)
        assert SERVING not in registered(workspace, "toy", version.version).tags
    assert alias_targets(workspace, "toy").challenger.version == version.version
