"""The classifier of a server: a picture in, the name of its class and how sure that is."""

from __future__ import annotations

import threading

from runtime.errors import ConfigurationError
from runtime.evaluate.accuracy.classifier import Classifier, Preparation, prepared
from runtime.evaluate.accuracy.labels import Labels
from runtime.picture import Image
from runtime.serve.labeller import Classify, Label
from runtime.serve.settings import ClassifierSettings


def open_classifier(settings: ClassifierSettings) -> Classify:
    """Return a function that labels pictures; several threads may call it, one at a time runs.

    Raises:
        ConfigurationError: the file cannot be read.
        DataError: it is no classifier, or the labels are not its.
    """
    labels = Labels.read(settings.labels)
    try:
        model = settings.file.read_bytes()
    except OSError as fault:
        raise ConfigurationError(f"classifier: {settings.file}: {fault.strerror}") from fault
    preparation = Preparation(settings.side, settings.mean, settings.deviation)
    classifier = Classifier(model, str(settings.file), len(labels.wnids), preparation, settings.threads)
    turn = threading.Lock()

    def classify(image: Image) -> Label:
        with turn:
            label, confidence = classifier.best(prepared(image, settings.side))
        return Label(labels.names[label], confidence)

    return classify
