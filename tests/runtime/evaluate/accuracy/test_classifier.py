from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from runtime.errors import DataError, UsageError
from runtime.evaluate.accuracy.classifier import Answer, Classifier, Preparation, check_side, prepared

PLAIN = Preparation(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def blue(side: int = 64) -> NDArray[np.uint8]:
    picture = np.full((side, side, 3), 51, np.uint8)
    picture[..., 2] = 204
    return picture


def opened(model: bytes, classes: int = 3, preparation: Preparation = PLAIN) -> Classifier:
    return Classifier(model, "colours.onnx", classes, preparation, 1)


def test_the_highest_score_answers(classifier_of_colours: bytes) -> None:
    """Scores are 2, 2 and 8: confidence is their softmax, and the rank of ties counts against the true class."""
    classifier = opened(classifier_of_colours)
    sure = np.exp(8) / (np.exp(8) + 2 * np.exp(2))
    answer = classifier.classify(blue(), 2)
    assert (answer.label, answer.rank) == (2, 1) and answer.confidence == pytest.approx(sure, abs=1e-6)
    assert classifier.classify(blue(), 0) == Answer(2, answer.confidence, 3)


def test_samples_are_normalised_as_asked(classifier_of_colours: bytes) -> None:
    shifted = opened(classifier_of_colours, preparation=Preparation(64, (0.0, 0.0, 0.9), (0.1, 1.0, 1.0)))
    assert shifted.classify(blue(), 0).label == 0


def test_probabilities_are_taken_as_they_are(onnx_writer: ModuleType, classifier_of_colours: bytes) -> None:
    w = onnx_writer
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    nodes = [
        w.node("GlobalAveragePool", ["image"], ["mean"]),
        w.node("Conv", ["mean", "weight"], ["scores"], {"kernel_shape": [1, 1]}),
        w.node("Flatten", ["scores"], ["flat"]),
        w.node("Softmax", ["flat"], ["shares"]),
    ]
    dims = b"".join(w.field(1, w.field(1 if isinstance(size, int) else 2, size)) for size in ("B", 3))
    shares = w.field(1, "shares") + w.field(2, w.field(1, w.field(1, w.FLOAT) + w.field(2, dims)))
    model = w.model(nodes, [w.tensor("weight", weight)], [w.port("image", 3)], [shares])
    expected = np.exp(0.8) / (np.exp(0.8) + 2 * np.exp(0.2))
    assert opened(model).classify(blue(), 2).confidence == pytest.approx(expected, abs=1e-5)


def test_another_number_of_classes(classifier_of_colours: bytes) -> None:
    with pytest.raises(
        DataError, match=r"colours\.onnx: gives scores of shape \(1, 3\) for one picture, not \(1, 1000\)"
    ):
        opened(classifier_of_colours, classes=1000)


def test_not_an_onnx_file() -> None:
    with pytest.raises(DataError, match="cannot be opened as an ONNX classifier"):
        opened(b"no network")


def test_unknown_shape_of_input(onnx_writer: ModuleType) -> None:
    """One channel, or two inputs, is no classifier of RGB pictures; the message says what is asked for."""
    w = onnx_writer
    grey = w.model([w.node("Relu", ["image"], ["y"])], [], [w.port("image", 1)], [w.port("y", 1)])
    with pytest.raises(DataError, match=r"has one input, float32 \(N, 3, 64, 64\), not image tensor\(float\)"):
        opened(grey)
    two = w.model([w.node("Add", ["a", "b"], ["y"])], [], [w.port("a", 3), w.port("b", 3)], [w.port("y", 3)])
    with pytest.raises(DataError, match="has one input"):
        opened(two)


def test_scores_that_are_a_picture(onnx_writer: ModuleType) -> None:
    w = onnx_writer
    model = w.model([w.node("Relu", ["image"], ["y"])], [], [w.port("image", 3)], [w.port("y", 3)])
    with pytest.raises(DataError, match=r"gives scores of shape \(1, 3, 64, 64\)"):
        opened(model)


def test_pictures_of_the_right_size_stay_as_they_are() -> None:
    picture = blue()
    assert prepared(picture, 64) is picture


@pytest.mark.parametrize("shape", [(100, 150, 3), (150, 100), (40, 30, 3), (65, 64, 3), (1, 500)])
def test_pictures_of_any_size_are_resized_and_cropped(shape: tuple[int, ...]) -> None:
    """To one size, alike for tall, wide, small and grey ones."""
    picture = (np.arange(int(np.prod(shape))) % 256).astype(np.uint8).reshape(shape)
    result = prepared(picture, 64)
    assert result.shape == (64, 64, 3) and result.dtype == np.uint8
    assert np.array_equal(result, prepared(picture, 64))


def test_the_middle_is_kept() -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[:, 100:200] = 255
    assert prepared(picture, 64).min() > 250


@pytest.mark.parametrize("side", [31, 2049])
def test_sides_that_no_classifier_has(side: int) -> None:
    with pytest.raises(UsageError, match="--side must be 32 to 2048"):
        check_side(side)


@pytest.mark.parametrize(("height", "width"), [(100, 150), (1, 450), (300, 70)])
def test_what_is_cropped_away_is_not_made(
    height: int, width: int, chelsea: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture 65,535 pixels wide and one high would be gigabytes before the crop; what is kept is the same."""
    picture = np.ascontiguousarray(chelsea[:height, :width])
    resize, sizes = PIL.Image.Image.resize, []

    def noted(self: PIL.Image.Image, size: tuple[int, int], *words: Any) -> PIL.Image.Image:
        sizes.append(size)
        return resize(self, size, *words)

    monkeypatch.setattr(PIL.Image.Image, "resize", noted)
    result = prepared(picture, 64)
    assert sizes == [(64, 64)]
    size = round(width * 73 / min(height, width)), round(height * 73 / min(height, width))
    whole = resize(PIL.Image.fromarray(picture), size, PIL.Image.Resampling.LANCZOS)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    expected = np.array(whole.crop((left, top, left + 64, top + 64)), np.int16)
    assert np.abs(result - expected).max() <= 3  # Pillow chooses which axis it resizes first, and rounds in between
