"""Preprocessing travels with the weights; a transform that differs is an error."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import load_encoder, preprocessing_of
from medssl_monai.checkpoints.preprocessing import (
    IMAGENET,
    PICTURES,
    REFERENCE,
    REFERENCE_SPARK,
    Preprocessing,
    check_preprocessing,
    with_window_limits,
)
from medssl_monai.checkpoints.start import NetworkStart, start_from
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.windows import fixed_limits, window_presets

TRAINED = {"window": '"lung"', "mean": "0.25", "std": "[0.2, 0.3, 0.2]", "channels": "1", "method": "spark"}
SPACED = {**TRAINED, "channel_spacing_mm": "5"}
limits = st.tuples(st.floats(-2000, 0, allow_nan=False), st.floats(1, 3000, allow_nan=False))
constants = st.one_of(st.floats(0.01, 1), st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(tuple))


@given(
    window=st.one_of(st.none(), st.sampled_from(["lung", "minmax"]), limits, st.tuples(limits, limits, limits)),
    mean=st.one_of(st.none(), constants),
    std=st.one_of(st.none(), constants),
    channels=st.sampled_from([None, 1, 3]),
    size=st.sampled_from([None, 64, (64, 96)]),
    spacing=st.sampled_from([None, 0, 2.5]),
)
def test_there_and_back_through_a_header(
    window: Any, mean: Any, std: Any, channels: Any, size: Any, spacing: float | None
) -> None:
    stated = Preprocessing(window, mean, std, channels, size, spacing)
    assert Preprocessing.from_metadata({**stated.to_metadata(), "method": "x"}) == stated
    check_preprocessing(stated, window=window, mean=mean, std=std, channels=channels, channel_spacing_mm=spacing)


def test_a_file_brings_what_its_run_knew(tmp_path: Path) -> None:
    export_encoder(resnet_encoder("resnet18"), tmp_path / "encoder.safetensors", metadata=TRAINED)
    found = preprocessing_of(tmp_path / "encoder.safetensors")
    assert found == Preprocessing("lung", 0.25, (0.2, 0.3, 0.2), 1)
    check_preprocessing(found, window="lung", mean=[0.25], std=(0.2, 0.3, 0.2), channels=1)
    check_preprocessing(load_encoder(tmp_path / "encoder.safetensors")[1].metadata, window="lung")


def test_a_network_takes_what_the_weights_had_unless_told_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, default = tmp_path / "encoder.safetensors", {"arch": "resnet50", "window": "wide", "mean": 0.5, "std": 0.5}
    metadata = {"window": '"lung"', "mean": "0.25", "image_size": "64"}
    export_encoder(resnet_encoder("resnet18"), path, metadata=metadata)
    with caplog.at_level(logging.INFO, "medssl_monai"):
        start = start_from(path, default=default)
    assert start == NetworkStart("resnet18", Preprocessing("lung", 0.25, 0.5, image_size=64))
    told = ["as the weights were trained: arch resnet18, image_size 64, window lung, mean 0.25"]
    assert [record.getMessage() for record in caplog.records if record.name.endswith("start")] == told
    asked = start_from(path, arch="resnet50", image_size=96, std=0.3, window="lung")
    assert asked == NetworkStart("resnet50", Preprocessing("lung", 0.25, 0.3, image_size=96))
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: images must be .* window lung, not bone"):
        start_from(path, window="bone")
    assert start_from(path, window="bone", check=False).prepared == Preprocessing("bone", 0.25, image_size=64)
    for nothing in (None, ""):
        assert start_from(nothing, mean=0.1, default=default) == NetworkStart(
            "resnet50", Preprocessing("wide", 0.1, 0.5)
        )


@pytest.mark.parametrize(
    ("trained", "window", "default", "refused"),
    [
        (
            "picture",
            None,
            "wide",
            "was trained on 8-bit pictures, .* and the images are Hounsfield units",
        ),
        (
            "picture",
            "lung",
            "wide",
            "was trained on 8-bit pictures, .* and the images are Hounsfield units",
        ),
        ("wide", "picture", "picture", "was trained on Hounsfield units, and the images are 8-bit pictures"),
        ("picture", "picture", "picture", ""),
        ("minmax", "picture", "picture", ""),
        ("minmax", None, "wide", ""),
        (None, "picture", "picture", ""),
        ("wide", None, "wide", ""),
    ],
)
def test_weights_of_pictures_are_not_for_hounsfield_units(
    tmp_path: Path, trained: str | None, window: str | None, default: str, refused: str
) -> None:
    path, told = tmp_path / "encoder.safetensors", {"arch": "resnet50", "window": default, "mean": 0.5, "std": 0.5}
    known = Preprocessing(trained, 0.2, 0.3, image_size=64)
    export_encoder(resnet_encoder("resnet18"), path, metadata=known.to_metadata())
    assert load_encoder(path)[1].metadata.get("intensities") == (PICTURES if trained == "picture" else None)
    if refused:
        with pytest.raises(CheckpointError, match=rf"encoder\.safetensors: {refused}.*check_weights=false"):
            start_from(path, window=window, default=told, pictures=default == "picture")
        crossed = start_from(path, window=window, default=told, pictures=default == "picture", check=False)
        assert start_from(path, default=told).prepared.window == trained, (
            "who shows what the weights know refuses nothing"
        )
        assert crossed == NetworkStart("resnet18", Preprocessing(window or default, 0.5, 0.5, image_size=64))
    else:
        prepared = start_from(path, window=window, default=told, pictures=default == "picture").prepared
        assert (prepared.mean, prepared.std, prepared.window) == (0.2, 0.3, window or trained or default)


@pytest.mark.parametrize("name", [name for name in window_presets() if name not in {"tags", "minmax", "picture"}])
def test_a_window_equals_the_limits_it_stands_for(name: str) -> None:
    found = fixed_limits(name)
    assert found is not None
    pair: Any = found[0]
    trained = {"window": f'"{name}"'}
    check_preprocessing(trained, window=list(pair))
    check_preprocessing(trained, window=[name])
    check_preprocessing(trained, window=[list(pair), name, name])
    with pytest.raises(CheckpointError, match=f"window {name}, not "):
        check_preprocessing(trained, window=[pair[0] + 1, pair[1]])


def test_the_name_of_several_windows_equals_their_limits() -> None:
    trained = {"window": '"medgemma"'}
    check_preprocessing(trained, window=fixed_limits("medgemma"))
    check_preprocessing({"window": json.dumps(fixed_limits("medgemma"))}, window="medgemma")
    assert with_window_limits(trained)["window_hu"] == json.dumps(fixed_limits("medgemma"))
    with pytest.raises(CheckpointError, match="window medgemma, not "):
        check_preprocessing(trained, window="wide")
    assert not Preprocessing("medgemma", 0.5, 0.5).same_in_all_channels


def test_slices_as_channels_are_followed_and_no_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, default = tmp_path / "encoder.safetensors", {"window": "wide", "mean": 0.5, "std": 0.5}
    spaced = Preprocessing("minmax", 0.25, 0.25, 3, 64, 5.0)
    assert not spaced.same_in_all_channels and Preprocessing("minmax", channel_spacing_mm=0).same_in_all_channels
    export_encoder(resnet_encoder("resnet18"), path, metadata=spaced.to_metadata())
    with caplog.at_level(logging.INFO, "medssl_monai"):
        assert start_from(path, default=default, pictures=False).prepared.channel_spacing_mm == 5
    assert "channel_spacing_mm 5.0" in caplog.text
    assert start_from(path, default=default, channel_spacing_mm=0, check=False).prepared.channel_spacing_mm == 0
    with pytest.raises(CheckpointError, match=r"channel_spacing_mm 5, not 0.*"):
        start_from(path, default=default, channel_spacing_mm=0)
    assert start_from(path, default=default, pictures=True).prepared.channel_spacing_mm is None
    assert "a picture has no neighbours: it is repeated in all three" in caplog.text
    with pytest.raises(ConfigError, match="pictures have no neighbouring slices, found 5"):
        start_from(path, default=default, pictures=True, channel_spacing_mm=5)


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"window": "wide"}, "window lung, not wide"),
        ({"window": "minmax"}, "window lung, not minmax"),
        ({"window": ["lung", "bone", "wide"]}, "window lung, not"),
        ({"mean": 0.3}, "mean 0.25, not 0.3"),
        ({"mean": [0.25, 0.25, 0.26]}, r"mean 0.25, not \[0.25, 0.25, 0.26\]"),
        ({"std": 0.2}, r"std \[0.2, 0.3, 0.2\], not 0.2"),
        ({"channels": 3}, "channels 1, not 3"),
        ({"channel_spacing_mm": 0}, "channel_spacing_mm 5, not 0"),
        ({"window": "wide", "mean": 0.1}, "window lung, not wide; mean 0.25, not 0.1"),
    ],
)
def test_a_difference_is_an_error_that_names_both(here: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"enc: images must be prepared as in pre-training, found {words}"):
        check_preprocessing(SPACED, **here, source="enc")


def test_what_is_not_known_is_not_compared() -> None:
    check_preprocessing({}, window="lung", mean=0.1, std=0.3, channels=3, channel_spacing_mm=5)
    check_preprocessing(TRAINED)
    check_preprocessing({"mean": "0.25"}, window="bone", mean=0.25)
    check_preprocessing(TRAINED, mean=0.25 + 1e-9)


def test_a_header_that_is_no_json_is_named() -> None:
    for key, text in (
        ("window", "lung"),
        ("mean", "a quarter"),
        ("std", '"x"'),
        ("channel_spacing_mm", "[5]"),
        ("channels", "1.5"),
        ("window", "3"),
    ):
        with pytest.raises(CheckpointError, match=f"{key} in the header"):
            Preprocessing.from_metadata({key: text})


def test_the_published_recipes() -> None:
    assert REFERENCE.mean == (0.1806,) * 3 and REFERENCE.std == (0.1907,) * 3 and REFERENCE.window == "minmax"
    assert REFERENCE_SPARK.mean == IMAGENET.mean and REFERENCE_SPARK.channels == 1
