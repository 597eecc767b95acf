import pytest
from msgspec import structs

from lobsmith.errors import ReleaseError
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import MANIFEST, check_files, read_manifest, write_manifest
from lobsmith.release.version.signing import SIGNATURE, SIGNING_KEY_FILE, TRUSTED_KEYS_FILE, Trust, signer
from lobsmith.workspace import Workspace
from tests.release import toy


@pytest.fixture(scope="module")
def template(published):
    return published("toy")


@pytest.fixture
def version(repository):
    return repository.directory("toy", repository.active("toy"))


def test_what_was_published_is_trusted(version):
    assert check_files(version, toy.trust_of(version)).model == "toy"


def test_an_unsigned_version_is_refused(workspace, version):
    (version / SIGNATURE).unlink()
    with pytest.raises(ReleaseError, match=r"manifest.json: not signed"):
        check_files(version, toy.trust_of(version))
    assert Repository.of(workspace).valid("toy")[0] == []


@pytest.mark.parametrize("change", [b" ", b"\n"])
def test_one_byte_of_the_manifest_voids_the_signature(version, change):
    (version / MANIFEST).write_bytes((version / MANIFEST).read_bytes() + change)
    with pytest.raises(ReleaseError, match="changed after it was signed"):
        check_files(version, toy.trust_of(version))


@pytest.mark.parametrize("signature", ["", "zz", "ab", "00" * 64])
def test_a_signature_that_is_none_is_refused(version, signature):
    (version / SIGNATURE).write_text(signature)
    with pytest.raises(ReleaseError, match="not a signature|changed after it was signed"):
        check_files(version, toy.trust_of(version))


def test_an_unknown_key_is_not_trusted(version, tmp_path):
    stranger = signer(Workspace(tmp_path / "elsewhere"))
    write_manifest(version, structs.replace(read_manifest(version), metrics={"log_loss_100": 0.1}), stranger)
    with pytest.raises(ReleaseError, match="does not trust"):
        check_files(version, toy.trust_of(version))
    trusted = toy.trust_of(version).path
    trusted.write_text(f"{trusted.read_text()}\n{stranger.public_key} desk two\n")
    assert check_files(version, toy.trust_of(version)).metrics == {"log_loss_100": 0.1}


def test_without_a_trusted_key_nothing_holds(version):
    trust = toy.trust_of(version)
    for content in ("", "abcd\n", "no key\n"):
        trust.path.write_text(content)
        with pytest.raises(ReleaseError, match=r"trusted.pub"):
            check_files(version, trust)
    trust.path.unlink()
    with pytest.raises(ReleaseError, match=TRUSTED_KEYS_FILE):
        check_files(version, trust)


def test_the_key_is_its_owners_and_stays_the_same(workspace):
    path = workspace.keys / "publisher.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signer(workspace).public_key == signer(workspace).public_key
    secret = path.read_text().strip()
    assert secret not in repr(signer(workspace)) + Trust.of(workspace).path.read_text()
    path.chmod(0o640)
    with pytest.raises(ReleaseError, match="others may read"):
        signer(workspace)


def test_a_garbled_key_is_not_quoted(workspace):
    path = workspace.keys / "publisher.key"
    path.write_text("sesame")
    with pytest.raises(ReleaseError, match="not an Ed25519 key") as refused:
        signer(workspace)
    assert "sesame" not in str(refused.value)


def test_keys_can_lie_elsewhere(workspace, version, tmp_path, monkeypatch):
    other = Workspace(tmp_path / "other")
    elsewhere = signer(other)
    monkeypatch.setenv(SIGNING_KEY_FILE, str(other.keys / "publisher.key"))
    monkeypatch.setenv(TRUSTED_KEYS_FILE, str(other.keys / "trusted.pub"))
    assert signer(workspace).public_key == elsewhere.public_key
    with pytest.raises(ReleaseError, match="does not trust"):
        check_files(version, Trust.of(workspace))
    monkeypatch.setenv(SIGNING_KEY_FILE, str(tmp_path / "absent"))
    with pytest.raises(ReleaseError, match="must name the signing key"):
        signer(workspace)
