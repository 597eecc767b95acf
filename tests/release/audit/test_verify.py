import shutil

import pytest

from lobsmith.errors import LobsmithError
from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import IntegrityKind, verify
from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.signing import Trust
from tests.release import toy
from tests.release.in_process import promote
from tests.release.stand_in import StandIn

PARAMS = toy.params()


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy", "toy", "toy_candidate", plans=True)


def kinds(findings):
    return [(finding.kind, finding.model, finding.version, finding.safe) for finding in findings]


def mend(workspace):
    return repair(Release(workspace, PARAMS, StandIn(workspace)), verify(workspace))


def test_a_valid_repository_has_no_findings_and_no_server_is_needed(workspace, repository):
    served = {model: repository.listed(model) for model in repository.models()}
    assert verify(workspace) == verify(workspace, served) == []
    # Which plans a machine can run is its own affair.
    assert verify(workspace, {**served, "toy_trt": []}) == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_corrupt_version_leaves_while_a_valid_version_remains(workspace, repository, which):
    listed = repository.listed("toy")
    bad = listed[which]
    (repository.directory("toy", bad) / "golden.safetensors").write_bytes(b"")
    findings = verify(workspace)
    assert (IntegrityKind.CORRUPT, "toy", bad, True) in kinds(findings)
    assert "golden.safetensors: changed" in findings[0].message or "golden.safetensors: changed" in findings[1].message
    assert mend(workspace) == []
    assert repository.listed("toy") == [version for version in listed if version != bad]
    assert verify(workspace) == []
    actions = [(entry.action, entry.version_to) for entry in journal.read(workspace.journal) if entry.model == "toy"][
        3:
    ]
    assert actions == [("repaired", repository.active("toy")), ("set aside", bad)]
    assert any(path.name.startswith(f"toy-{bad}-") for path in workspace.quarantine.iterdir())


def test_the_last_good_version_is_never_taken_away(workspace, repository):
    for version in repository.versions("toy"):
        (repository.directory("toy", version) / "model.onnx").unlink()
    before = repository.listed("toy")
    findings = verify(workspace)
    assert {
        finding.safe for finding in findings if (finding.kind, finding.model) == (IntegrityKind.CORRUPT, "toy")
    } == {False}
    mend(workspace)
    assert repository.listed("toy") == repository.versions("toy") == before
    assert verify(workspace) != []


def test_an_untrusted_key_takes_nothing_away(workspace, repository):
    Trust.of(workspace).path.write_text("0" * 64 + "\n")
    before = repository.versions("toy"), repository.listed("toy")
    findings = verify(workspace)
    assert {finding.safe for finding in findings if finding.model in ("toy", "toy_candidate")} == {False}
    mend(workspace)
    assert (repository.versions("toy"), repository.listed("toy")) == before


def test_foreign_files_are_quarantined(workspace, repository):
    home = repository.root / "toy"
    places = [repository.root / "staging", repository.root / ".hidden", home / "01", home / "notes", home / "9.x"]
    for place in places:
        place.mkdir()
        (place / "file").write_text("somebody's")
    (home / "99").symlink_to("01")
    assert kinds(verify(workspace)) == [
        *[(IntegrityKind.FOREIGN, None, None, True)] * 2,
        *[(IntegrityKind.FOREIGN, "toy", None, True)] * 4,
    ]
    assert mend(workspace) == []
    assert not any(place.exists() for place in places)
    assert len(list(workspace.quarantine.glob("*/file"))) == 5
    assert verify(workspace) == []


def test_a_model_of_another_program_is_named_and_left_alone(workspace, repository):
    folder = repository.root / "tokenizer"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "tokenizer"\nbackend: "python"\n')
    assert kinds(verify(workspace)) == [(IntegrityKind.POLICY, "tokenizer", None, False)]
    mend(workspace)
    assert (folder / "config.pbtxt").is_file()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("nonsense {")])
def test_a_lost_configuration_is_written_anew(workspace, repository, damage):
    path = repository.config_path("toy")
    before = path.read_bytes()
    damage(path)
    findings = verify(workspace)
    assert (IntegrityKind.POLICY, "toy", None, True) in kinds(findings)
    repair(Release(workspace, PARAMS), [finding for finding in findings if finding.kind is IntegrityKind.POLICY])
    assert path.read_bytes() == before
    assert verify(workspace) == []


def test_leftovers_of_crashed_writers_are_cleared_and_those_of_live_ones_left(workspace, repository):
    (workspace.staging / "toy-1-abcd" / "1").mkdir(parents=True)
    repository.config_path("toy").with_name(".config.pbtxt.x1").write_text("half")
    shutil.copytree(repository.directory("toy", repository.active("toy")), repository.root / "toy" / "20990101000000")
    with sole_writer(Release(workspace, PARAMS), "publish toy"):
        assert {finding.kind for finding in verify(workspace)} == {IntegrityKind.CORRUPT}
    assert {IntegrityKind.LEFTOVER, IntegrityKind.CORRUPT} == {finding.kind for finding in verify(workspace)}
    assert mend(workspace) == []
    assert verify(workspace) == []
    assert list(workspace.staging.iterdir()) == []


def test_lines_that_the_journal_lacks_are_written(workspace, repository):
    first, second, third = repository.listed("toy")
    entries = journal.read(workspace.journal)
    workspace.journal.unlink()
    for entry in entries:
        if (entry.model, entry.version_to) != ("toy", second):
            journal.append(workspace.journal, entry)
    shutil.rmtree(repository.directory("toy", first))
    repository.list_versions("toy", [second, third])
    assert kinds(verify(workspace)) == [
        (IntegrityKind.JOURNAL, "toy", second, True),
        (IntegrityKind.JOURNAL, "toy", first, True),
    ]
    assert mend(workspace) == []
    assert verify(workspace) == []
    version_status = journal.version_status(journal.read(workspace.journal), "toy")
    assert version_status == {first: "set aside", second: "published", third: "published"}


def test_an_edited_policy_is_journaled_and_unlisted_versions_quarantined(workspace, repository):
    _, second, third = repository.listed("toy")
    repository.list_versions("toy", [second])
    findings = verify(workspace)
    assert {finding.kind for finding in findings} == {
        IntegrityKind.UNLISTED,
        IntegrityKind.JOURNAL,
        IntegrityKind.LEFTOVER,
        IntegrityKind.COMPANION,
    } & {finding.kind for finding in findings}
    assert (IntegrityKind.UNLISTED, "toy", third, True) in kinds(findings)
    assert mend(workspace) == []
    assert verify(workspace) == []
    assert repository.versions("toy") == [second]
    assert journal.state_at(journal.read(workspace.journal), "toy", 2**62).version_to == second


def test_plans_without_their_model_are_quarantined(workspace, repository):
    shutil.rmtree(repository.root / "toy")
    assert IntegrityKind.COMPANION in {finding.kind for finding in verify(workspace)}
    assert mend(workspace) == []
    assert repository.models() == ["toy_candidate"]
    assert verify(workspace) == []


def test_a_server_that_serves_something_else_follows_the_listing(workspace, repository):
    listed = repository.listed("toy")
    served = {"toy": [7, listed[0]], "toy_candidate": repository.listed("toy_candidate"), "gone": [1], "toy_trt": []}
    findings = verify(workspace, served)
    assert kinds(findings) == [(IntegrityKind.SERVED, "toy", None, True)] * 2 + [
        (IntegrityKind.SERVED, "gone", None, True)
    ]
    failures = repair(Release(workspace, PARAMS), findings, served=served)
    assert {why for _, why in failures} == {"toy: no server runs here any more", "gone: no server runs here any more"}

    withdrawn = []

    class Server(StandIn):
        def withdraw(self, model, versions):
            withdrawn.append((model, versions))

    server = Server(workspace)
    assert repair(Release(workspace, PARAMS, server), findings, served=served) == []
    assert server.loaded["toy"] == listed
    assert ("toy", [7]) in withdrawn
    assert ("gone", [1]) in withdrawn


def test_a_journal_that_cannot_be_read_hides_nothing_else(workspace, repository):
    workspace.journal.write_text("nonsense\n")
    (repository.root / "toy" / "01").mkdir()
    assert kinds(verify(workspace)) == [
        (IntegrityKind.JOURNAL, None, None, False),
        (IntegrityKind.FOREIGN, "toy", None, True),
    ]
    with pytest.raises(LobsmithError, match="not a journal entry"):
        promote(Release(workspace, PARAMS), repository.directory("toy", repository.active("toy")), model="toy")


@pytest.mark.parametrize("number", [-5, 0, 10**18])
def test_a_policy_that_names_no_version_is_written_anew(workspace, repository, number):
    path, listed = repository.config_path("toy"), repository.listed("toy")
    path.write_text(path.read_text().replace("specific {", f"specific {{ versions: {number}"))
    assert kinds(verify(workspace)) == [(IntegrityKind.POLICY, "toy", None, True)]
    assert mend(workspace) == []
    assert repository.listed("toy") == listed
    assert verify(workspace) == []


def test_a_linked_version_is_corrupt_and_one_repair_is_enough(workspace, repository, tmp_path):
    newest = repository.active("toy")
    repository.directory("toy", newest).rename(tmp_path / "elsewhere")
    repository.directory("toy", newest).symlink_to(tmp_path / "elsewhere")
    assert "a link" in repository.integrity_error("toy", newest)
    assert mend(workspace) == []
    assert newest not in repository.listed("toy")
    assert verify(workspace) == []


@pytest.mark.parametrize("file", ["manifest", "journal", "intent"])
def test_bytes_that_are_no_text_are_found(workspace, repository, file):
    paths = {
        "manifest": repository.directory("toy", repository.listed("toy")[0]) / "manifest.json",
        "journal": workspace.journal,
        "intent": workspace.intent,
    }
    corrupt = (
        b'{"entry":{"action":"\xff"}}' if file == "intent" else paths[file].read_bytes().replace(b"toy", b"to\xff")
    )
    paths[file].write_bytes(corrupt)
    assert [
        finding.place
        for finding in verify(workspace)
        if str(paths[file]) in (finding.place, f"{finding.place}/manifest.json")
    ]
    mend(workspace)
