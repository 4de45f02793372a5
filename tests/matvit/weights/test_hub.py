"""The hub: what is in its cache needs no network, and what is not says at once that it cannot be had."""

import logging
import time

import pytest
from huggingface_hub import constants

import matvit
from matvit import CheckpointError
from matvit.weights import hub


@pytest.fixture
def nowhere(monkeypatch):
    """A hub that nobody can reach."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_without_a_network_one_line_says_so_at_once(nowhere, tmp_path, monkeypatch, caplog, name):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    caplog.set_level(logging.WARNING)
    before = time.monotonic()
    with pytest.raises(
        CheckpointError, match=f"^cannot download {name}: no connection to http://127"
    ) as caught:
        matvit.load(name)
    assert time.monotonic() - before < 10
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_what_is_in_the_cache_is_taken_without_asking():
    before = constants.HF_HUB_OFFLINE
    with hub.from_cache():
        assert constants.HF_HUB_OFFLINE
        with pytest.raises(CheckpointError, match="offline mode"):
            hub.check_reached("x")
    assert before == constants.HF_HUB_OFFLINE


def test_no_repository_has_a_name_like_that():
    assert hub.cached("../..", "config.json") is None
