"""cutoff's codec: encode a picture once, decode whatever arrived.

`Codec.open(bundle)` gives an opened bundle; `Codec.encode`, `Codec.decode` and `Codec.decoder` do the work.
Importing this package imports neither torch nor a web framework nor OpenCV.
"""

from __future__ import annotations

from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Decoder, Picture
from runtime.encoder import Encoding, Value
from runtime.errors import CutoffError
from runtime.stream import Limits, trim

__all__ = ["Codec", "CutoffError", "Deadline", "Decoder", "Encoding", "Limits", "Picture", "Value", "trim"]
