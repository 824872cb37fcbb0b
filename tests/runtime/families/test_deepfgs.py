"""deepfgs: base planes, then scalable channels whose probabilities follow from the base."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.costs import TAIL, Costs
from runtime import Codec, Deadline
from runtime.decoder import Decoder, Picture
from runtime.encoder import encode
from runtime.entropy.choose import open_coder
from runtime.entropy.plan import Step
from runtime.errors import BundleError
from runtime.families.deepfgs import DeepFgs, DeepFgsLatents
from runtime.model import Model
from runtime.picture import tensor_from_image

CHANNELS, Z_CHANNELS, FEATURES = 8, 1, 1  # of each of the two latents
COARSER = np.float32(3.0)  # the base's step, in steps of the scalable part
SETTINGS = {
    "base_channels": CHANNELS,
    "scalable_channels": CHANNELS,
    "base_z_channels": Z_CHANNELS,
    "scalable_z_channels": Z_CHANNELS,
    "features": FEATURES,
    "frr": True,
    "ffm": True,
    "mutual": True,
    "base_worth": 9.0,
    "scalable_variance": 0.5,
    "value_gain": 1.0,
    "preview_share": 0.1,
}
MakeModel = Callable[..., Model]


class Networks:
    """The golden files' networks in the roles of the family; what is missing there, in numpy.

    The scalable part is what the same transform says of a picture less its base. `calls` keeps every role and input.
    """

    def __init__(self, codec: Codec) -> None:
        self._run = codec.model.run
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __call__(self, role: str, *inputs: Any, until: float | None = None, lazily: bool = False) -> Any:
        self.calls.append((role, tuple(map(np.asarray, inputs))))
        return getattr(self, role)(*self.calls[-1][1])

    def given(self, role: str) -> Any:
        """Return the first input of the last run of *role*."""
        return self.all_given(role)[0]

    def all_given(self, role: str) -> tuple[Any, ...]:
        """Return the inputs of the last run of *role*."""
        return next(inputs for name, inputs in reversed(self.calls) if name == role)

    def g_a(self, x: Any) -> Any:
        return [self._run("g_a", x)[0] / COARSER]

    def g_a_scalable(self, x: Any, x_base: Any) -> Any:
        return [self._run("g_a", x)[0] - self._run("g_a", x_base)[0]]

    def frr(self, l_s: Any, l_b: Any, l_b_means: Any) -> Any:
        return [l_s + 0 * (l_b - l_b_means)]

    def h_a(self, latent: Any) -> Any:
        return [self._run("h_a", COARSER * latent)[0][:, :Z_CHANNELS]]

    def h_a_scalable(self, latent: Any) -> Any:
        return [self._run("h_a", latent)[0][:, :Z_CHANNELS]]

    def h_s(self, z_hat: Any) -> Any:
        return self._run("h_s", np.concatenate([z_hat, np.zeros_like(z_hat)], axis=1))

    def h_s_scalable(self, z_hat: Any) -> Any:
        return [np.abs(z_hat).repeat(4, axis=2).repeat(4, axis=3)]

    def mutual(self, side: Any) -> Any:
        texture = np.abs(side[:, FEATURES:]).sum(axis=1, keepdims=True)
        codes = 60 * side[:, :FEATURES] + texture // 4 + 30 * np.arange(CHANNELS)[::-1].reshape(1, -1, 1, 1)
        mu = np.tile(texture % 5 - 2, (1, CHANNELS, 1, 1))
        return [mu.astype(np.float32), np.minimum(codes, 1023).astype(np.float32)]

    def ffm(self, l_b: Any, l_s: Any, l_s_means: Any) -> Any:
        return [np.concatenate([l_b, l_s + 0 * l_s_means], axis=1)]

    def g_s(self, fused: Any) -> Any:
        return self._run("g_s", COARSER * fused[:, :CHANNELS] + fused[:, CHANNELS:])

    def preview(self, latents: Any) -> Any:
        y_hat = COARSER * latents[:, :CHANNELS] + latents[:, CHANNELS:]
        return self._run("preview", y_hat, np.zeros_like(y_hat))


@pytest.fixture(scope="module")
def make_model(tiny_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A function (coder, changed settings) -> a model of the family."""
    kernels = tmp_path_factory.mktemp("kernels")

    def make(coder: str = "constriction", **changes: Any) -> Model:
        model = copy.copy(tiny_codec.model)
        model.coder = open_coder(model.tables, coder, kernels)
        networks = Networks(tiny_codec)
        model.run = networks  # type: ignore[method-assign, assignment]
        quick = replace(model.bundle.graphs["preview"], inputs=("latents",))
        model.bundle = replace(model.bundle, graphs={**model.bundle.graphs, "preview": quick})
        model.family = DeepFgs({**SETTINGS, **changes}, model.tables, networks, model.coder.plane)
        return model

    return make


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A picture with some structure, 120x100, padded to 128x128."""
    row, column = np.mgrid[0:100, 0:120]
    waves = [
        128 + 90 * np.sin(row / (7 + c)) * np.cos(column / (11 - 2 * c)) + (row * column * 7 % 31) for c in range(3)
    ]
    return np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def analysed(model: Model, image: NDArray[np.uint8]) -> DeepFgsLatents:
    latents = model.family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, DeepFgsLatents)
    return latents


def decoded(model: Model, stream: bytes, deadline: Deadline | None = None) -> tuple[Picture, DeepFgsLatents]:
    decoder = Decoder(model, deadline, strict=False)
    decoder.feed(stream)
    picture = decoder.finish()
    latents = decoder._latents
    assert isinstance(latents, DeepFgsLatents)
    return picture, latents


def walked(latents: DeepFgsLatents) -> list[Step]:
    """Receive every trit of an encoder's latents; return the steps of the body."""
    for step in latents.head():
        step.receive(step.trits())
    steps = []
    for step in latents.body():
        step.receive(step.trits())
        steps.append(step)
    return steps


def squared_error(picture: Picture, image: NDArray[np.uint8]) -> float:
    assert picture.image is not None
    return float(np.square(picture.image.astype(float) - image).sum())


@pytest.mark.parametrize("coder", ["constriction", "compiled", "plain"])
def test_a_whole_stream_gives_every_symbol_back(make_model: MakeModel, image: NDArray[np.uint8], coder: str) -> None:
    """Complete symbols are reconstructed as themselves, by every coder from the stream of any other."""
    stream = encode(make_model(), image).stream
    model = make_model(coder)
    assert encode(model, image).stream == stream
    picture, latents = decoded(model, stream)
    truth = analysed(model, image)
    assert picture.complete and picture.steps == picture.steps_total == 2 * CHANNELS and picture.planes is None
    known = latents.reconstruct().tensors
    assert (known["l_b"] == truth.base.complete() / 64).all() and (known["l_s"] == truth.scalable.complete() / 64).all()
    assert latents.error_left() == 0


def test_every_cut_decodes(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """At every byte: inside the base nothing scalable is there; behind it channels fill up one after the other."""
    model = make_model()
    encoding = encode(model, image)
    truth = analysed(model, image).scalable.complete()[0] / 64
    before = 0.0
    inside_base = inside_channel = 0
    for size in range(int(encoding.value.offsets[0]), len(encoding.stream) + 1):
        picture, latents = decoded(model, encoding.stream[:size])
        assert picture.image is not None and before <= picture.steps <= 2 * CHANNELS
        l_s = latents.reconstruct().tensors["l_s"][0]
        known = max(0, int(picture.steps) - CHANNELS)
        assert (l_s[:known] == truth[:known]).all()
        assert not l_s[known + 1 :].any()
        inside_base += 0 < picture.steps < CHANNELS
        inside_channel += picture.steps > CHANNELS and picture.steps % 1 > 0
        before = picture.steps
    assert before == 2 * CHANNELS and inside_base > 20 and inside_channel > 20


def test_more_bytes_make_better_pictures(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """From the head alone over half of the base and all of it to the whole stream the error falls at each step."""
    model = make_model()
    encoding = encode(model, image)
    sizes = np.linspace(int(encoding.value.offsets[0]), len(encoding.stream), 6).astype(int)
    errors = [squared_error(decoded(model, encoding.stream[:size])[0], image) for size in sizes]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


def test_bytes_in_any_portions_give_the_same(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Fed byte by byte, through the start of the scalable part too, the decoder knows what it knows of the whole."""
    model = make_model()
    stream = encode(model, image).stream
    decoder = Decoder(model, None, strict=False)
    for byte in stream:
        decoder.feed(bytes([byte]))
    picture, expected = decoder.finish(), decoded(model, stream)[0]
    assert picture.complete and picture.image is not None and expected.image is not None
    assert (picture.image == expected.image).all()


def networks_of(model: Model) -> Networks:
    """Return the double that runs the graphs of *model*."""
    family = model.family
    assert isinstance(family, DeepFgs)
    networks = family.run
    assert isinstance(networks, Networks)
    return networks


@pytest.mark.parametrize("part", ["frr", "ffm", "mutual"])
def test_each_part_can_be_left_out(make_model: MakeModel, image: NDArray[np.uint8], part: str) -> None:
    """Without one of its parts the family codes as well, and the part's graph gets nothing of it."""
    model = make_model(**{part: False})
    stream = encode(model, image).stream
    assert decoded(model, stream)[0].complete
    networks = networks_of(model)
    if part == "mutual":
        assert networks.given("mutual").shape[1] == FEATURES
        assert model.family.input_limits("mutual")["side"].tolist() == [2047]
    else:
        assert part not in {role for role, _ in networks.calls}
    assert model.family.synthesis == (("g_s",) if part == "ffm" else ("ffm", "g_s"))


def test_the_mutual_model_gets_the_same_integers_on_both_sides(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Features and decoded l_b in units of 1/8, clipped: encoder and decoder hand over the same, within its limits."""
    model = make_model()
    networks = networks_of(model)
    stream = encode(model, image).stream
    side = networks.given("mutual")
    _, latents = decoded(model, stream)
    assert (networks.given("mutual") == side).all()
    l_b = np.floor(latents.reconstruct().tensors["l_b"] * 8 + 0.5)
    assert (side[:, FEATURES:] == np.clip(l_b, -1023, 1023)).all() and np.abs(l_b).max() > 8
    limits = model.family.input_limits("mutual")["side"]
    assert limits.tolist() == [2047] * FEATURES + [1023] * CHANNELS
    assert (np.abs(side).max(axis=(0, 2, 3)) <= limits).all()


def test_gates_are_given_the_means_of_all_of_a_latent(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Redundancy removal gets those of decoded l_b; fusion those of l_s, zero where nothing arrived, cut or whole."""
    model = make_model()
    networks = networks_of(model)
    encoding = encode(model, image)
    _, l_b, means = networks.all_given("frr")
    assert means.shape == (1, CHANNELS, 1, 1) and means.dtype == np.float32
    np.testing.assert_allclose(means, l_b.mean(axis=(2, 3), keepdims=True, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert not networks.all_given("ffm")[2].any(), "in an encoder nothing scalable is there yet"
    begun = {}
    for share in (0.0, 0.8, 1.0):
        first = int(encoding.value.offsets[0])
        decoded(model, encoding.stream[: first + int(share * (len(encoding.stream) - first))])
        _, l_s, means = networks.all_given("ffm")
        np.testing.assert_allclose(means, l_s.mean(axis=(2, 3), keepdims=True, dtype=np.float64), rtol=1e-5, atol=1e-6)
        begun[share] = np.count_nonzero(means)
    assert begun[0.0] == 0 < begun[0.8] < begun[1.0] == CHANNELS


def test_large_values_of_the_base_are_clipped(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """What a graph makes of l_b never leaves the limits that its proof rests on."""
    model = make_model()
    latents = analysed(model, image)
    latents.base._mu = latents.base._mu.astype(np.int32) + 32767
    latents.start_scalable(None)
    assert networks_of(model).given("mutual")[:, FEATURES:].max() == 1023


def test_steps_say_what_they_are_worth_and_what_follows(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Base planes weigh as the bundle says, z of the scalable part nothing; its last step names the graphs."""
    steps = walked(analysed(make_model(), image))
    worths = [step.worth for step in steps]
    assert worths == sorted(worths, key=[9.0, 0.0, 1.0].index) and set(worths) == {9.0, 0.0, 1.0}
    side = [step for step in steps if step.side]
    assert [step.then for step in side] == [()] * (len(side) - 1) + [("h_s_scalable", "mutual")]
    assert all(step.then == () for step in steps if not step.side)
    assert all(len(step.field.nodes) == 64 for step in steps if step.worth == 1.0), "a scalable step is of one channel"


def test_error_left_counts_what_has_not_begun(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """Before the scalable part begins, the bundle's figure stands for it; the base weighs by its worth."""
    model = make_model()
    encoding = encode(model, image)
    _, latents = decoded(model, encoding.stream[: int(encoding.value.offsets[0])])
    assert latents.base.field is not None
    base = ((model.tables.deviation[latents.base.field.nodes] / 64.0) ** 2).sum()
    assert latents.error_left() == pytest.approx(9.0 * base + 0.5 * CHANNELS * 64, rel=1e-6)


def test_the_value_curve_is_the_error_that_falls(make_model: MakeModel, image: NDArray[np.uint8]) -> None:
    """The curve starts at all that the fields can lose, the base weighed by its worth, and ends at nothing."""
    model = make_model()
    curve = encode(model, image).value.squared_error
    latents = analysed(model, image)
    assert latents.base.field is not None and latents.scalable.field is not None
    base, scalable = (
        ((model.tables.deviation[model.tables.root[field.models]] / 64.0) ** 2).sum()
        for field in (latents.base.field, latents.scalable.field)
    )
    assert curve[0] == pytest.approx(9.0 * base + scalable, rel=1e-6) and curve[-1] == pytest.approx(0, abs=1e-9)


class FixedCosts(Costs):
    """Costs that are known and learn nothing."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self._seconds = seconds

    def record(self, stage: str, pixels: int, seconds: float) -> None:
        pass

    def estimate_s(self, stage: str, pixels: int, share: float = TAIL) -> float:
        return self._seconds.get(stage, 0.0)


@pytest.mark.parametrize("slow", ["g_s", "ffm"])
def test_without_time_for_synthesis_the_preview_answers(
    make_model: MakeModel, image: NDArray[np.uint8], slow: str
) -> None:
    """If fusion or g_s would take longer than there is, both are left out, and all is decoded for the preview."""
    model = make_model()
    stream = encode(model, image).stream
    model.costs = FixedCosts({slow: 1e6})
    picture, _ = decoded(model, stream, Deadline.after_ms(60_000))
    assert set(picture.skipped) == {"ffm", "g_s"} and not picture.missed
    assert picture.image is not None and picture.image.shape == image.shape


def test_graphs_of_the_scalable_part_that_come_too_late_do_not_start(
    make_model: MakeModel, image: NDArray[np.uint8]
) -> None:
    """A decoder that has no time for the mutual entropy model stops behind z of the scalable part, with the base."""
    model = make_model()
    stream = encode(model, image).stream
    model.costs = FixedCosts({"step_h_s_scalable_mutual": 1e6})
    picture, latents = decoded(model, stream, Deadline.after_ms(60_000))
    assert picture.steps == CHANNELS and latents.scalable.field is None and picture.skipped == ()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"base_channels": 0}, "base_channels must be 1 to"),
        ({"scalable_channels": "8"}, "scalable_channels must be 1 to"),
        ({"base_z_channels": None}, "base_z_channels must be 1 to"),
        ({"scalable_z_channels": 2}, "tables have"),
        ({"features": -1}, "features must be 1 to"),
        ({"base_worth": float("nan")}, "base_worth and scalable_variance"),
        ({"scalable_variance": -1.0}, "base_worth and scalable_variance"),
        ({"value_gain": "much"}, "ValueError"),
        ({"preview_share": None}, "TypeError"),
    ],
)
def test_wrong_settings_are_refused(make_model: MakeModel, change: dict[str, Any], fault: str) -> None:
    """Each ends in one error that names the setting and what it may be."""
    with pytest.raises(BundleError, match=fault):
        make_model(**change)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_missing_is_refused(make_model: MakeModel, name: str) -> None:
    """None has a default that could hide a bundle of another family."""
    model = make_model()
    settings = {key: value for key, value in SETTINGS.items() if key != name}
    with pytest.raises(BundleError, match=name):
        DeepFgs(settings, model.tables, model.run)


@pytest.mark.parametrize("role", ["g_a", "h_a", "h_s", "g_a_scalable", "frr", "h_a_scalable", "h_s_scalable", "mutual"])
def test_graphs_of_other_shapes_are_refused(make_model: MakeModel, image: NDArray[np.uint8], role: str) -> None:
    """Networks that do not give what the settings say end in one error, not inside the coder."""
    model = make_model()
    family = model.family
    assert isinstance(family, DeepFgs)
    run = family.run

    def narrower(name: str, *inputs: Any, lazily: bool = False) -> Any:
        return [output[..., :-1] if name == role else output for output in run(name, *inputs)]

    family.run = narrower
    with pytest.raises(BundleError, match=r"gives|is \("):
        encode(model, image)


@pytest.mark.parametrize("value", [-1.0, 2048.0])
def test_features_beyond_their_limit_are_refused(make_model: MakeModel, image: NDArray[np.uint8], value: float) -> None:
    """The proof of `mutual` rests on what `h_s_scalable` may give."""
    model = make_model()
    family = model.family
    assert isinstance(family, DeepFgs)
    run = family.run
    family.run = lambda role, *inputs, lazily=False: [
        np.full_like(o, value) if role == "h_s_scalable" else o for o in run(role, *inputs)
    ]
    with pytest.raises(BundleError, match=r"outside 0\.\.2047"):
        encode(model, image)


def test_only_its_own_graphs_have_limits(make_model: MakeModel) -> None:
    """h_s and h_s_scalable take what the tables can express, each of its own z."""
    family = make_model().family
    assert [family.input_limits(role)["z_hat"].tolist() for role in ("h_s", "h_s_scalable")] == [[13], [13]]
    with pytest.raises(BundleError, match="no exact graph 'g_s'"):
        family.input_limits("g_s")
