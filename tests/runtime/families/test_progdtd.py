"""progdtd: one stream of channels that serves every cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.decoder import Decoder, Picture
from runtime.encoder import encode
from runtime.entropy.plan import Step
from runtime.errors import BundleError
from runtime.families.progdtd import ProgDtd, ProgDtdLatents
from runtime.model import Model
from runtime.picture import tensor_from_image

MakeModel = Callable[..., Model]
GROUPS = pytest.mark.parametrize("groups", [1, 2])


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A picture with some structure, 120x100, padded to 128x128."""
    row, column = np.mgrid[0:100, 0:120]
    waves = [
        128 + 90 * np.sin(row / (7 + c)) * np.cos(column / (11 - 2 * c)) + (row * column * 7 % 31) for c in range(3)
    ]
    return np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def decoded(model: Model, stream: bytes) -> tuple[Picture, ProgDtdLatents]:
    decoder = Decoder(model, None, strict=False)
    decoder.feed(stream)
    picture = decoder.finish()
    latents = decoder._latents
    assert isinstance(latents, ProgDtdLatents)
    return picture, latents


def truth(model: Model, image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the symbols of y as the encoder codes them, (channels, h, w)."""
    latents = model.family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, ProgDtdLatents)
    walked(latents)
    symbols = [group.symbols for group in latents._groups if group.symbols is not None]
    return np.concatenate(symbols).reshape(latents.y_shape)


def walked(latents: ProgDtdLatents) -> list[Step]:
    """Receive every trit of an encoder's latents; return the steps of the body."""
    for step in latents.head():
        step.receive(step.trits())
    steps = []
    for step in latents.body():
        step.receive(step.trits())
        steps.append(step)
    return steps


@GROUPS
@pytest.mark.parametrize("coder", ["constriction", "compiled", "plain"])
def test_a_whole_stream_gives_every_symbol_back(
    make_model: MakeModel, image: NDArray[np.uint8], groups: int, coder: str
) -> None:
    """Complete symbols are reconstructed as themselves, by every coder from the stream of any other."""
    stream = encode(make_model(groups), image).stream
    model = make_model(groups, coder)
    assert encode(model, image).stream == stream
    picture, latents = decoded(model, stream)
    assert picture.complete and picture.steps == picture.steps_total == 8 and picture.planes is None
    assert (latents.reconstruct().tensors["y_hat"][0] == truth(model, image)).all()
    assert latents.error_left() == 0


@GROUPS
def test_every_cut_decodes_to_what_its_trits_say(make_model: MakeModel, image: NDArray[np.uint8], groups: int) -> None:
    """At every byte: channels before the cut are complete, those behind zero, and one between is nearer than zero."""
    model = make_model(groups)
    encoding = encode(model, image)
    symbols = truth(model, image)
    before = 0.0
    errors = []
    for size in range(int(encoding.value.offsets[0]), len(encoding.stream) + 1):
        picture, latents = decoded(model, encoding.stream[:size])
        y_hat = latents.reconstruct().tensors["y_hat"][0]
        known = int(picture.steps)
        assert picture.image is not None and before <= picture.steps <= 8
        assert (y_hat[:known] == symbols[:known]).all()
        assert not y_hat[known + 1 :].any()
        if picture.steps != known:
            errors.append((np.square(y_hat[known] - symbols[known]).sum(), np.square(symbols[known]).sum()))
        before = picture.steps
    partial, zero = np.sum(errors, axis=0)
    assert before == 8 and len(errors) > 20 and partial < 0.7 * zero


@GROUPS
def test_bytes_in_any_portions_give_the_same(make_model: MakeModel, image: NDArray[np.uint8], groups: int) -> None:
    """Fed byte by byte, through the start of a group too, the decoder knows what it knows of the whole."""
    model = make_model(groups)
    stream = encode(model, image).stream
    decoder = Decoder(model, None, strict=False)
    for byte in stream:
        decoder.feed(bytes([byte]))
    picture, expected = decoder.finish(), decoded(model, stream)[0]
    assert picture.complete and picture.image is not None and expected.image is not None
    assert (picture.image == expected.image).all()


def test_scales_of_a_group_follow_from_hyper_channels_sent_before_it(
    make_model: MakeModel, image: NDArray[np.uint8]
) -> None:
    """The first group's models are those of h_s on its hyper channel alone, the second's those on all of z."""
    model = make_model(2)
    latents = model.family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, ProgDtdLatents)
    walked(latents)
    z = latents._z.known_symbols().astype(np.float32).reshape(1, *latents.z_shape)
    first = z * np.array([1, 0], np.float32).reshape(1, 2, 1, 1)
    level_of_code = model.family.level_of_code  # type: ignore[attr-defined]
    expected = [level_of_code[model.run("h_s", one)[0].astype(int)][0] for one in (first, z)]
    found = [group.models.reshape(-1, *latents.y_shape[1:]) for group in latents._groups]
    assert (found[0] == expected[0][:3]).all() and (found[1] == expected[1][3:]).all()
    assert z[0, 1].any() and (expected[0] != expected[1]).any()


def test_the_plan_names_h_s_before_it_runs(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Hyper channels in the body are worth nothing by themselves, and the last step of them says that h_s follows."""
    latents = make_model(2).family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, ProgDtdLatents)
    steps = walked(latents)
    side = [step for step in steps if step.side]
    assert len(side) == 3 and [step.then for step in side] == [(), (), ("h_s",)]
    assert all(step.then == () for step in steps if not step.side)


def test_side_information_is_worth_nothing_by_itself(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """The value curve falls by what y gains alone: as much as the decoder's own count of the error that is left."""
    model = make_model(2)
    encoding = encode(model, image)
    latents = model.family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, ProgDtdLatents)
    walked(latents)
    nodes = np.concatenate([model.tables.root[group.models] for group in latents._groups])
    variance = (model.tables.deviation[nodes] / 64.0) ** 2
    assert encoding.value.squared_error[0] == pytest.approx(variance.sum(), rel=1e-6)


def test_error_left_counts_groups_that_have_not_begun(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Channels whose scale is not known yet count with the variance that the bundle states for them."""
    model = make_model(2)
    encoding = encode(model, image)
    head = int(encoding.value.offsets[0])
    _, latents = decoded(model, encoding.stream[:head])
    (group,) = latents._groups
    begun = ((model.tables.deviation[group.nodes] / 64.0) ** 2).sum()
    assert latents.error_left() == pytest.approx(begun + 5 * 2.0 * 64, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"y_channels": 0}, "y_channels must be 1 to"),
        ({"z_channels": "2"}, "z_channels must be 1 to"),
        ({"z_channels": 3, "z_ends": [1, 3]}, "tables have"),
        ({"y_ends": [3, 7]}, "y_ends must rise"),
        ({"y_ends": [3, 3, 8]}, "y_ends must rise"),
        ({"y_ends": [0, 8]}, "y_ends must rise"),
        ({"y_ends": [True, 8]}, "y_ends must rise"),
        ({"y_ends": []}, "y_ends must rise"),
        ({"y_ends": 8}, "y_ends must rise"),
        ({"z_ends": [2]}, "2 groups of y, but 1 of z"),
        ({"y_variance": [1.0] * 7}, "y_variance must be 8 numbers"),
        ({"y_variance": [-1.0] * 8}, "y_variance must be 8 numbers"),
        ({"y_variance": [float("nan")] * 8}, "y_variance must be 8 numbers"),
        ({"y_variance": None}, "y_variance|TypeError"),
        ({"value_gain": "much"}, "ValueError"),
        ({"preview_share": None}, "TypeError"),
    ],
)
def test_wrong_settings_are_refused(make_model: MakeModel, change: dict[str, Any], fault: str) -> None:
    """Each ends in one error that names the setting and what it may be."""
    model = make_model(2)
    settings = {
        "y_channels": 8,
        "z_channels": 2,
        "y_ends": [3, 8],
        "z_ends": [1, 2],
        "y_variance": [1.0] * 8,
        "value_gain": 1.0,
        "preview_share": 0.1,
    }
    with pytest.raises(BundleError, match=fault):
        ProgDtd(settings | change, model.tables, model.run)


def test_a_setting_that_is_missing_is_refused(make_model: MakeModel) -> None:
    """None has a default that could hide a bundle of another family."""
    model = make_model(1)
    with pytest.raises(BundleError, match="y_channels must be"):
        ProgDtd({}, model.tables, model.run)


def test_graphs_of_other_shapes_are_refused(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Networks that do not give what the settings say end in one error, not inside the coder."""
    model = make_model(1)
    family = model.family
    assert isinstance(family, ProgDtd)
    run = family.run
    family.run = lambda role, *inputs: [run(role, *inputs)[0][:, :, :-1] if role == "h_a" else run(role, *inputs)[0]]
    with pytest.raises(BundleError, match="g_a and h_a give"):
        family.analyse(tensor_from_image(image, 64))
    family.run = lambda role, *inputs: [run(role, *inputs)[0][:, :-1] if role == "h_s" else run(role, *inputs)[0]]
    with pytest.raises(BundleError, match="h_s gives sigma codes"):
        encode(model, image)
    assert family.input_limits("h_s")["z_hat"].tolist() == [13, 13]
    with pytest.raises(BundleError, match="no exact graph 'g_s'"):
        family.input_limits("g_s")
