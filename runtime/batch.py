"""Several decoders finished together: those whose pictures have one size share a run of each network.

for decoder, result in finish_together(decoders):
    ...                                             # a Picture, or the CutoffError that this one ended in
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.decoder import Decoder, Picture
from runtime.errors import CutoffError
from runtime.render import Rendering, render
from runtime.render import start_by as _start_by


def finish_together(decoders: Sequence[Decoder]) -> Iterator[tuple[Decoder, Picture | CutoffError]]:
    """Make the pictures of *decoders*, all of one codec; yield each as soon as it is there, the most urgent first.

    What `Decoder.finish` would raise for one is its result, and concerns none of the others. Pictures share a run of
    their networks only where measured costs say that it is faster than one by one, and that no deadline suffers. The
    next picture is begun when it is asked for: whoever hands them on must not take long.
    """
    waiting: dict[Rendering, Decoder] = {}
    for decoder in decoders:
        try:
            waiting[decoder.rendering()] = decoder
        except CutoffError as fault:
            yield decoder, fault
    if not waiting:
        return
    for rendering, outcome in render(next(iter(waiting.values())).model, list(waiting)):
        decoder = waiting.pop(rendering)
        if isinstance(outcome, CutoffError):
            yield decoder, outcome
            continue
        try:
            result: Picture | CutoffError = decoder.picture(outcome)
        except CutoffError as fault:
            result = fault
        yield decoder, result


def start_by(decoders: Sequence[Decoder]) -> float | None:
    """Return the latest instant at which `finish_together` can still make full pictures of all in time.

    An instant on the deadlines' clock; None if none of *decoders*, all of one codec, has a deadline.
    """
    renderings, instants = [], []
    for decoder in decoders:
        alone = decoder.finish_by()
        try:
            renderings.append(decoder.rendering())
        except CutoffError:
            instants += [] if alone is None else [alone]
    together = _start_by(decoders[0].model, renderings) if renderings else None
    return min([*instants, *([] if together is None else [together])], default=None)
