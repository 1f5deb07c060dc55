from unittest import mock

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from backend.data.hub import fetch
from backend.errors import DataError


@pytest.fixture
def client(tmp_path):
    with (
        mock.patch.object(huggingface_hub.HfApi, "list_repo_files", autospec=True) as names,
        mock.patch.object(huggingface_hub.HfApi, "dataset_info", autospec=True),
        mock.patch.object(huggingface_hub, "snapshot_download", autospec=True) as download,
    ):
        names.return_value = ["train.jsonl", "big.bin"]
        download.return_value = str(tmp_path)
        yield names, download


def only_jsonl(names):
    return [name for name in names if name.endswith(".jsonl")]


def test_only_the_chosen_files_are_fetched(client, tmp_path):
    _, download = client
    assert fetch("owner/name", "v1", only_jsonl) == tmp_path
    assert download.call_args.kwargs["allow_patterns"] == ["train.jsonl"]
    assert download.call_args.kwargs["revision"] == "v1"
    assert download.call_args.kwargs["repo_type"] == "dataset"


def test_offline_what_was_fetched_before_is_used(client, tmp_path):
    names, download = client
    names.side_effect = ConnectionError("no network")
    assert fetch("owner/name", None, only_jsonl) == tmp_path
    assert download.call_args.kwargs["local_files_only"] is True


def test_offline_the_hub_is_asked_once_and_says_nothing_of_retries(client, tmp_path):
    names, _ = client
    huggingface_hub.HfApi.dataset_info.side_effect = ConnectionError("no network")
    assert fetch("owner/name", None, only_jsonl) == tmp_path
    names.assert_not_called()


def test_offline_without_a_copy_the_remedy_is_named(client):
    names, download = client
    names.side_effect = ConnectionError("no network")
    download.side_effect = LocalEntryNotFoundError("nothing")
    with pytest.raises(DataError, match="cannot be reached") as caught:
        fetch("owner/name", None, only_jsonl)
    assert caught.value.code == "hub-dataset"


def test_a_name_that_cannot_exist_is_an_error(client):
    names, _ = client
    names.side_effect = HFValidationError("bad name")
    with pytest.raises(DataError, match="does not exist there, or is private"):
        fetch("owner/na--me", None, only_jsonl)
