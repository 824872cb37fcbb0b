"""A classifier of ImageNet's kind, from an ONNX file: pictures of one size in, a score for each class out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError, UsageError
from runtime.picture import Image

_PLANES = 3
_RESIZE = 256 / 224  # the short side before the crop, relative to the crop, as ImageNet's classifiers are used to it
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes what the classifier sees.

    Attributes:
        side: height and width in pixels.
        mean, deviation: of each channel, subtracted from and divided out of samples of 0..1.
    """

    side: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """What a classifier says of a picture.

    Attributes:
        label: the class with the highest score.
        confidence: its probability, 0..1.
        rank: of the true class, 1 for the highest score; ties count against it.
    """

    label: int
    confidence: float
    rank: int


class Classifier:
    """An opened classifier. One thread runs it."""

    def __init__(self, model: bytes, name: str, classes: int, preparation: Preparation, threads: int) -> None:
        """Open the ONNX file *model*, which errors call *name*, and try it.

        Raises:
            DataError: it cannot be opened, does not take (N, 3, H, W) float32, or gives no score for each of *classes*.
        """
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # the binding's exceptions share no base class
            raise DataError(f"{name}: cannot be opened as an ONNX classifier: {_first_line(fault)}") from fault
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        side = preparation.side
        if len(inputs) != 1 or not outputs or not _takes(inputs[0], side):
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise DataError(
                f"{name}: a classifier has one input, float32 (N, 3, {side}, {side}), not {found}; "
                "--side gives another size; other layouts must be exported anew"
            )
        self._input, self._output, self._preparation = inputs[0].name, outputs[0].name, preparation
        try:
            (scores,) = self._run(np.zeros((side, side, 3), np.uint8))
        except Exception as fault:  # as above
            raise DataError(f"{name}: fails on a picture of {side}x{side}: {_first_line(fault)}") from fault
        if scores.shape != (1, classes):
            raise DataError(
                f"{name}: gives scores of shape {scores.shape} for one picture, not (1, {classes}), as the labels "
                "have classes: give the list that goes with the classifier"
            )

    def classify(self, image: Image, truth: int) -> Answer:
        """Return what the classifier says of *image*, uint8 (side, side, 3), whose class is *truth*."""
        scores = self._scores(image)
        label = int(scores.argmax())
        rank = 1 + int((np.delete(scores, truth) >= scores[truth]).sum())
        return Answer(label, float(_probabilities(scores)[label]), rank)

    def best(self, image: Image) -> tuple[int, float]:
        """Return the class with the highest score for *image*, uint8 (side, side, 3), and its probability."""
        scores = self._scores(image)
        label = int(scores.argmax())
        return label, float(_probabilities(scores)[label])

    def _scores(self, image: Image) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self._run(image)[0][0].astype(np.float64)
        return scores

    def _run(self, image: Image) -> list[NDArray[np.float32]]:
        mean, deviation = (
            np.array(values, np.float32) for values in (self._preparation.mean, self._preparation.deviation)
        )
        x = (image.astype(np.float32) / 255 - mean) / deviation
        result: list[NDArray[np.float32]] = self._session.run(
            [self._output], {self._input: np.ascontiguousarray(x.transpose(2, 0, 1))[None]}
        )
        return result


def prepared(image: Image, side: int) -> Image:
    """Return *image*, uint8 (H, W, 3) or (H, W), resized by Lanczos and centre cropped: uint8 (side, side, 3).

    A picture that has this size already is left as it is; grey is repeated.
    """
    import PIL.Image

    if image.ndim == 2:
        image = np.repeat(image[..., None], _PLANES, axis=2)
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    scale = round(_RESIZE * side) / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    across, down = width / size[0], height / size[1]
    # What is cropped away is not made: of a picture as wide as it may be and a pixel high it would be gigabytes.
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return np.array(PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.LANCZOS, box), np.uint8)


def check_side(side: int) -> None:
    """UsageError if a classifier cannot want pictures of this size."""
    if not 32 <= side <= 2048:
        raise UsageError(f"--side must be 32 to 2048, not {side}")


def _takes(tensor: Any, side: int) -> bool:
    shape = tensor.shape
    return (
        tensor.type == "tensor(float)"
        and len(shape) == 4
        and all(
            not isinstance(found, int) or found in (wanted, -1)
            for found, wanted in zip(shape[1:], (_PLANES, side, side), strict=True)
        )
        and shape[1] == _PLANES
        and not (isinstance(shape[0], int) and shape[0] not in (1, -1))
    )


def _probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return *scores* as they are where they are probabilities already, otherwise their softmax."""
    if (scores >= 0).all() and abs(scores.sum() - 1) < _SUM_TOLERANCE:
        return scores
    exponentials = np.exp(scores - scores.max())
    result: NDArray[np.float64] = exponentials / exponentials.sum()
    return result


def _first_line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0]
