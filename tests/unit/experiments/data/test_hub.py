"""Claims about downloads, against a real HTTP server: pinned, checked, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hub_server import Hub, serving

from experiments.data import hub
from experiments.errors import BadRequest

PROBLEMS = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n), "id": n} for n in range(50)]
CONTENT = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS).encode()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("CTPO_CACHE", str(tmp_path / "cache"))
    lock = tmp_path / "hub_lock.yaml"
    lock.write_text("# a head\n{}\n")
    monkeypatch.setattr(hub, "LOCK", lock)
    with serving(Hub("org/sums", {"data/test-0.jsonl": CONTENT, "data/train-0.jsonl": b"{}"})) as server:
        use(monkeypatch, server.endpoint)
        yield server


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """As HF_ENDPOINT does, which the library reads once."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def fetched() -> tuple[tuple[Path, ...], str]:
    return hub.fetch("sums", "org/sums", "data/test-*.jsonl")


def on_disk(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path / "cache/hub")) for path in (tmp_path / "cache/hub").rglob("*.jsonl"))


def test_the_first_download_pins_revision_checksum_and_rows(remote: Hub, tmp_path: Path) -> None:
    (path,), revision = fetched()
    assert path.read_bytes() == CONTENT
    assert revision == remote.revision
    pinned = yaml.safe_load(hub.LOCK.read_text())["sums"]
    assert pinned["hub_id"] == "org/sums"
    assert pinned["files"] == {"data/test-0.jsonl": {"sha256": hub.sha256_of(path), "rows": 50}}
    assert hub.LOCK.read_text().startswith("# a head\n")
    assert on_disk(tmp_path) == [f"sums/{remote.revision}/data/test-0.jsonl"]


def test_a_pinned_file_that_is_here_needs_no_hub(remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetched()
    remote.requests.clear()
    assert fetched() == first
    assert remote.requests == []


def test_a_new_revision_is_taken_only_when_asked_for(remote: Hub) -> None:
    _, old = fetched()
    remote.revision, remote.files["data/test-0.jsonl"] = "b" * 40, CONTENT[: CONTENT.index(b"\n") + 1]
    assert fetched()[1] == old
    hub.forget("sums")
    (path,), new = fetched()
    assert new == "b" * 40
    assert yaml.safe_load(hub.LOCK.read_text())["sums"]["files"]["data/test-0.jsonl"]["rows"] == 1
    assert len(path.read_text().splitlines()) == 1


def test_content_that_changed_under_the_same_revision_is_refused_and_not_kept(remote: Hub, tmp_path: Path) -> None:
    (path,), _ = fetched()
    path.unlink()
    remote.files["data/test-0.jsonl"] = CONTENT.replace(b"1", b"7")
    with pytest.raises(BadRequest, match=r"its sha256 is .* changed or damaged.*prepare.py --pin sums"):
        fetched()
    assert on_disk(tmp_path) == []


def test_a_file_damaged_on_disk_is_refused(remote: Hub) -> None:
    (path,), _ = fetched()
    path.write_bytes(CONTENT[:100])
    with pytest.raises(BadRequest, match=r"changed or damaged. Delete .*sums and prepare again"):
        fetched()


def test_pinning_anew_replaces_a_damaged_file_by_what_the_hub_has(remote: Hub) -> None:
    (path,), _ = fetched()
    pinned = yaml.safe_load(hub.LOCK.read_text())["sums"]
    path.write_bytes(CONTENT[:100])
    hub.forget("sums")
    (path,), _ = fetched()
    assert path.read_bytes() == CONTENT
    assert yaml.safe_load(hub.LOCK.read_text())["sums"] == pinned


def test_a_download_that_breaks_off_leaves_nothing(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    remote.cut = 100
    remote.files["data/test-0.jsonl"] = CONTENT
    with pytest.raises(BadRequest, match=r"org/sums: .*try again, or get the file elsewhere and set"):
        hub._download("sums", "org/sums", remote.revision, ["data/test-0.jsonl"])
    assert [path for path in (tmp_path / "cache/hub").rglob("*") if path.is_file()] == []
    remote.cut = None
    assert fetched()[0][0].read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_one_clear_message(remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        BadRequest, match=r"org/sums: the hub cannot be reached .*data_catalog\.sums\.path=FILE"
    ) as raised:
        fetched()
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("hub_id", "pattern", "says"),
    [
        ("org/other", "*.jsonl", "the hub refused it"),
        ("org/sums", "*.csv", r"has no such file \(it has .gitattributes"),
    ],
)
def test_a_wrong_name_is_refused_with_the_field(remote: Hub, hub_id: str, pattern: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        hub.fetch("sums", hub_id, pattern)
    assert yaml.safe_load(hub.LOCK.read_text()) == {}


def test_the_shipped_lock_file_is_in_order() -> None:
    for entry in hub.read_lock().values():
        assert set(entry) == {"hub_id", "revision", "files"}
        assert len(entry["revision"]) == 40
        assert all(len(facts["sha256"]) == 64 and facts["rows"] > 0 for facts in entry["files"].values())
