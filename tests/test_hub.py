"""Uploads to the hub, with a hub of our own in place of the real one."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch

from xai_align.align import Masker, load_masker, push_masker
from xai_align.pinet import PiNet, conv_pinet


class Hub:
    """What uploads use of ``huggingface_hub.HfApi``."""

    def __init__(self, folder, known=()):
        self.folder, self.known, self.calls = folder, set(known), []

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok))
        return f"hub:{name}"

    def file_exists(self, name, file):
        return file in self.known

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id))
        for file in folder_path.iterdir():
            (self.folder / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    return made


def test_a_pinet_comes_back_from_what_was_uploaded(hub):
    torch.manual_seed(0)
    pinet = conv_pinet(3, in_channels=3).eval()
    assert pinet.push_to_hub("me/cats", private=True, token="secret") == "hub:me/cats"
    assert hub.calls == [("create", "me/cats", True, True), ("upload", "me/cats")]
    assert hub.token == "secret"
    again = PiNet.from_pretrained(hub.folder)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), pinet(x))
    card = (hub.folder / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: xai-align\n")
    assert 'PiNet.from_pretrained("me/cats")' in card


def test_a_masker_comes_back_and_a_page_that_is_there_is_kept(hub):
    hub.known.add("README.md")
    torch.manual_seed(0)
    masker = Masker().eval()
    push_masker(masker, "me/marks")
    assert sorted(file.name for file in hub.folder.iterdir()) == ["masker.safetensors"]
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_masker(hub.folder / "masker.safetensors")(x), masker(x))


@pytest.mark.parametrize("name", ["cats", "me/", "/cats", "a/b/c", ""])
def test_a_wrong_name_is_refused_before_anything_is_sent(hub, name):
    with pytest.raises(ValueError, match="give OWNER/MODEL"):
        push_masker(Masker(), name)
    assert hub.calls == []


def test_a_hub_that_refuses_is_named(hub, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("403: no access\nask the owner")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(OSError, match=r"'me/cats' could not be uploaded.*403: no access"):
        conv_pinet(3).push_to_hub("me/cats")
