"""What tests of decoding share: a decoder that was fed, and what it knows."""

from __future__ import annotations

from runtime import Codec, Decoder
from runtime.entropy.plan import Field
from runtime.families.planes import PlaneLatents
from runtime.stream import Header, Limits


def fed(codec: Codec, *portions: bytes, strict: bool = False) -> Decoder:
    decoder = codec.decoder(strict=strict)
    for portion in portions:
        decoder.feed(portion)
    return decoder


def header_of(stream: bytes) -> Header:
    return Header.from_bytes(stream, Limits())


def y_of(decoder: Decoder) -> Field:
    assert isinstance(decoder._latents, PlaneLatents) and decoder._latents.y is not None
    return decoder._latents.y


def nodes_of(decoder: Decoder) -> list[int]:
    """Return all that the decoder knows of y."""
    return y_of(decoder).nodes.tolist()
