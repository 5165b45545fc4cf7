"""The arguments of a recipe stand once, and every class that takes them lists them."""

import doctest
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.bundle.config_parser import ConfigParser

from medssl_monai.errors import ConfigError
from medssl_monai.transforms import (
    LabelledView,
    LabelledViewd,
    MultiCropViews,
    MultiCropViewsd,
    SparKViews,
    SparKViewsd,
    TwoViews,
    TwoViewsd,
    ViewRecipe,
    multi_crop,
    sample_generator,
)

FORMS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (LabelledView, LabelledViewd),
    (MultiCropViews, MultiCropViewsd),
    (SparKViews, SparKViewsd),
    (TwoViews, TwoViewsd),
    (ViewRecipe, MultiCropViews),
]
TAKING = [form for _, form in FORMS]


def arguments(of: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(of).parameters)


@pytest.mark.parametrize(("array", "form"), FORMS)
def test_signatures_list_every_argument_with_its_default(array: Callable[..., Any], form: Callable[..., Any]) -> None:
    own, listed = arguments(array), arguments(form)
    assert {name: listed[name].default for name in own} == {name: p.default for name, p in own.items()}
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in listed.values())
    assert set(listed) - set(own) <= {"keys", "seed", "keep_image", "augment", "counts", "sizes", "scales"}


def test_two_views_have_defaults_of_their_own() -> None:
    own, general = arguments(TwoViews), arguments(ViewRecipe)
    changed = {name: own[name].default for name in general if own[name].default != general[name].default}
    assert changed == {"rotation": 0.5, "flip_vertical": 0.5, "jitter": 1.0}
    assert set(arguments(TwoViews)) == {"image_size", "scale", *general}
    assert TwoViews(32).recipe.rotation == 0.5 and TwoViews(32, rotation=0.1).recipe.rotation == 0.1


@pytest.mark.parametrize("form", TAKING)
def test_an_unknown_argument_is_named(form: Callable[..., Any]) -> None:
    given = {"seed": 0} if "seed" in arguments(form) else {}
    name = form.__name__
    with pytest.raises(ConfigError, match=f"^{name}: there is no argument 'windows'; choose from .*window"):
        form(**given, windows="lung")
    with pytest.raises(TypeError):
        inspect.signature(form).bind_partial(windows="lung")


def test_a_configuration_makes_them_by_the_same_keys() -> None:
    config = {
        "_target_": "medssl_monai.transforms.TwoViewsd",
        "keys": "image",
        "seed": 3,
        "image_size": 16,
        "blur": 0.0,
    }
    made = ConfigParser({"views": config}).get_parsed_content("views")
    plain = TwoViewsd("image", seed=3, image_size=16, blur=0.0)
    item = {"image": torch.arange(400).reshape(1, 20, 20), "index": 4, "epoch": 1}
    for one, other in zip(made(item)["views"], plain(item)["views"], strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError) as failed:
        ConfigParser({"views": {**config, "rotaton": 0.5}}).get_parsed_content("views")
    assert "no argument 'rotaton'" in str(failed.value.__cause__)


def test_examples_in_the_docstrings() -> None:
    names = {"torch": torch, "sample_generator": sample_generator}
    assert doctest.testmod(multi_crop, extraglobs=names) == doctest.TestResults(failed=0, attempted=3)
