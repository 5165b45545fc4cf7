"""The key of public images holds while it is asked for, and changes nothing else."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from medssl_monai.store.pseudonyms import KEY_VARIABLE, load_key, public_key


def test_a_public_key_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "the user's own key")
    with public_key("public images only"), ThreadPoolExecutor(1) as other:
        assert load_key() == b"public images only"
        assert other.submit(load_key).result() == b"the user's own key"
        assert os.environ[KEY_VARIABLE] == "the user's own key"
    assert load_key() == b"the user's own key"
