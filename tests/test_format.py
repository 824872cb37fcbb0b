"""FORMAT.md: its example is the file on disk, and a plain decoder written from it alone finds the golden symbols.

The decoder below shares no code with the packages. It is slow and has no cleverness: it is there to be compared with.
Numbers of sections are those of FORMAT.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
TEXT = (ROOT / "FORMAT.md").read_text(encoding="utf-8")
VALID: dict[str, dict[str, Any]] = json.loads((GOLDEN / "valid" / "expected.json").read_text())
FAMILIES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "families" / "expected.json").read_text())
TINY: dict[str, Any] = json.loads((GOLDEN / "tiny" / "manifest.json").read_text())


# The plain decoder.


class RangeDecoder:
    """Section 6.4, over a code that goes on with *padding* bits."""

    def __init__(self, code: bytes, padding: int) -> None:
        self.code, self.padding, self.position = code, padding, 0
        self.lower, self.range, self.point = 0, 2**64 - 1, 0
        for _ in range(2):
            self.point = self.point * 2**32 + self.word()

    def word(self) -> int:
        """Return the next word, filled up or made of padding."""
        known = self.code[self.position : self.position + 4]
        self.position += 4
        return int.from_bytes(known + bytes([255 * self.padding]) * (4 - len(known)), "big")

    def trit(self, f: list[int]) -> int | None:
        """Return the next trit; None if none is possible."""
        scale = self.range >> 24
        quantile = (self.point - self.lower) % 2**64 // scale
        if quantile >= 2**24:
            return None
        c = [0, f[0], f[0] + f[1]]
        t = max(t for t in range(3) if c[t] <= quantile)
        self.lower = (self.lower + scale * c[t]) % 2**64
        self.range = scale * f[t]
        if self.range < 2**32:
            self.lower = self.lower * 2**32 % 2**64
            self.range *= 2**32
            self.point = (self.point * 2**32 + self.word()) % 2**64
        return t


class TrustedTrits:
    """Section 6.5."""

    def __init__(self, code: bytes) -> None:
        self.low, self.high = RangeDecoder(code, 0), RangeDecoder(code, 1)
        self.ended = False

    def trit(self, f: list[int]) -> int | None:
        low, high = self.low.trit(f), self.high.trit(f)
        self.ended = self.ended or low is None or low != high
        return None if self.ended else low


class Field:
    """Section 8.1."""

    def __init__(self, models: list[int], tables: dict[str, Any]) -> None:
        self.models, self.tables = models, tables
        self.nodes = [tables["root"][m] for m in models]
        self.trits_known = 0

    def decode(self, code: RangeDecoder | TrustedTrits, *, by_priority: bool) -> bool:
        """Decode all steps, or until *code* has no more trits; return whether all trits are known."""
        trits, priority = self.tables["trits"], self.tables["priority"]
        for place in range(max((trits[m] for m in self.models), default=0), 0, -1):
            indices = [i for i, m in enumerate(self.models) if trits[m] >= place]
            if by_priority:
                indices.sort(key=lambda i: (-priority[self.nodes[i]], i))  # of the nodes when the step begins
            for i in indices:
                t = code.trit(self.tables["frequencies"][self.nodes[i]])
                if t is None:
                    return False
                self.nodes[i] = self.tables["first_child"][self.nodes[i]] + t
                self.trits_known += 1
        return True

    def decode_with_context(self, code: TrustedTrits, segments: list[int], crr: Any, shape: tuple[int, ...]) -> bool:
        """Section 8.5: as `decode` by priority, the planes that *segments* lists in segments."""
        tables, trits = self.tables, self.tables["trits"]
        for place in range(max((trits[m] for m in self.models), default=0), 0, -1):
            indices = [i for i, m in enumerate(self.models) if trits[m] >= place]
            indices.sort(key=lambda i: (-tables["priority"][self.nodes[i]], i))
            count = segments[place - 1] if place <= len(segments) else 0
            for k in range(max(1, count)):
                part = indices[len(indices) * k // max(1, count) : len(indices) * (k + 1) // max(1, count)]
                if not part:
                    continue
                shift, spread = self._crr(crr, shape) if count else ([], [])
                for i in part:
                    node = self.nodes[i]
                    f = tables["frequencies"][node]
                    if count:
                        f = tables["context_grid"][self._row_of_grid(node, shift[i], spread[i])]
                    t = code.trit(f)
                    if t is None:
                        return False
                    self.nodes[i] = tables["first_child"][node] + t
                    self.trits_known += 1
        return True

    def _crr(self, crr: Any, shape: tuple[int, ...]) -> list[list[int]]:
        features = self.tables["context_features"]
        channels = [[features[node][f] for node in self.nodes] for f in range(len(features[0]))]
        known = np.array(channels, np.float32).reshape(1, -1, *shape[1:])
        return integers_from(crr.run(["shift", "spread"], {"known": known}))

    def _row_of_grid(self, n: int, shift: int, spread: int) -> int:
        """Section 7.3."""
        features, child = self.tables["context_features"], self.tables["first_child"][n]
        steps = (math.isqrt(len(self.tables["context_grid"])) - 1) // 2
        place = []
        for side in (0, 1):
            towards = child + 2 * side
            tilt = shift * (features[towards][0] - features[child + 1][0])
            tilt += spread * (features[towards][1] - features[child + 1][1])
            value = (self.tables["context_log_odds"][n][side] + (tilt >> 4) + 4) >> 3
            place.append(max(-steps, min(steps, value)))
        return (place[0] + steps) * (2 * steps + 1) + place[1] + steps

    def symbols(self) -> list[int]:
        return [(self.tables["mean"][node] + 32) >> 6 for node in self.nodes]


@dataclass
class Decoded:
    """What a prefix says; fields by the names of section 8, as far as they have begun."""

    fields: dict[str, Field]
    mu: list[int]
    complete: bool
    damaged: bool

    @property
    def z(self) -> Field:
        return self.fields["z"]

    @property
    def y(self) -> Field:
        return self.fields["y"]


@cache
def read_tables(bundle: Path = GOLDEN / "tiny") -> dict[str, Any]:
    """Section 7.4."""
    with np.load(bundle / "tables" / "entropy.npz", allow_pickle=False) as file:
        return {name: file[name].tolist() for name in file.files}


@cache
def exact_graph(bundle: Path, role: str) -> Any:
    """Section 9: the exact graph, by the plainest of means."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    content = (bundle / "graphs" / f"{role}.onnx").read_bytes()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def integers_from(outputs: list[NDArray[np.float32]]) -> list[list[int]]:
    return [output.reshape(-1).astype(int).tolist() for output in outputs]


@dataclass
class Received:
    """Sections 3 and 4: what a sound prefix, or one with damage in the body, brings."""

    bundle: Path
    rows: int  # of z
    columns: int
    head: bytes
    body: bytes
    verified: bool  # all of the body, by its checksums
    damaged: bool


def received(prefix: bytes, bundle: Path) -> Received:
    # Section 3
    magic, version, flags, _, width, height, head_bytes, body_bytes = struct.unpack_from(">4sBB8sHHII", prefix)
    assert magic == bytes.fromhex("89435554") and version == 1 and flags < 4
    assert struct.unpack_from(">I", prefix, 26)[0] == zlib.crc32(prefix[:26])
    # Section 4
    head = prefix[30 : 30 + head_bytes]
    position = 30 + head_bytes + 4
    assert struct.unpack_from(">I", prefix, position - 4)[0] == zlib.crc32(head)
    body, verified, damaged = b"", 0, False
    while len(body) < body_bytes:
        size = min(2048, body_bytes - len(body))
        frame, checksum = prefix[position : position + size], prefix[position + size : position + size + 4]
        if len(checksum) == 4 and zlib.crc32(frame) != struct.unpack(">I", checksum)[0]:
            damaged = True
            break
        body += frame
        if len(checksum) < 4:
            break
        verified += size
        position += size + 4
    return Received(bundle, math.ceil(height / 64), math.ceil(width / 64), head, body, verified == body_bytes, damaged)


def decode(prefix: bytes, bundle: Path = GOLDEN / "tiny") -> Decoded:
    """Decode a prefix of a stream of *bundle*, of any family."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    return PLANS[manifest["family"]](received(prefix, bundle), manifest["settings"])


def z_field(channels: int, first: int, sent: Received) -> Field:
    """A field of z; the model of its first channel is *first* above the sigma levels'."""
    tables = read_tables(sent.bundle)
    levels = len(tables["sigma_thresholds"]) + 1
    return Field([levels + first + c for c in range(channels) for _ in range(sent.rows * sent.columns)], tables)


def run_exact(sent: Received, role: str, outputs: list[str], name: str, values: list[int]) -> list[list[int]]:
    """Run an exact graph on integers of as many channels as there are."""
    graph = exact_graph(sent.bundle, role)
    scale = 4 if name == "side" else 1
    array = np.array(values, np.float32).reshape(1, -1, scale * sent.rows, scale * sent.columns)
    return integers_from(graph.run(outputs, {name: array}))


def sigma_levels(sent: Received, codes: list[int]) -> list[int]:
    """Section 7.2."""
    thresholds = read_tables(sent.bundle)["sigma_thresholds"]
    return [sum(t <= code for t in thresholds) for code in codes]


def decode_planes(sent: Received, settings: dict[str, Any]) -> Decoded:
    """Sections 8.2 and 8.5."""
    z = z_field(settings["z_channels"], 0, sent)
    assert z.decode(RangeDecoder(sent.head, 0), by_priority=False)
    mu, codes = run_exact(sent, "h_s", ["mu", "sigma_code"], "z_hat", z.symbols())
    y, code = Field(sigma_levels(sent, codes), read_tables(sent.bundle)), TrustedTrits(sent.body)
    if "context_grid" in y.tables:
        segments = json.loads((sent.bundle / "plan.json").read_text())["segments"]
        shape = (settings["y_channels"], 4 * sent.rows, 4 * sent.columns)
        known = y.decode_with_context(code, segments, exact_graph(sent.bundle, "crr"), shape)
    else:
        known = y.decode(code, by_priority=True)
    return Decoded({"z": z, "y": y}, mu, known and sent.verified, sent.damaged)


def decode_channels(field: Field, count: int, code: TrustedTrits) -> bool:
    """Section 8.3, of a field of *count* channels."""
    area = len(field.models) // count
    for start in range(0, count * area, area):
        channel = Field(field.models[start : start + area], field.tables)
        whole = channel.decode(code, by_priority=True)
        field.nodes[start : start + area] = channel.nodes
        if not whole:
            return False
    return True


def decode_progdtd(sent: Received, settings: dict[str, Any]) -> Decoded:
    """Section 8.4."""
    plan, area = json.loads((sent.bundle / "plan.json").read_text()), sent.rows * sent.columns
    z, y = z_field(settings["z_channels"], 0, sent), Field([], read_tables(sent.bundle))
    code, known, y_start, z_start = TrustedTrits(sent.body), True, 0, 0
    for g, (y_end, z_end) in enumerate(zip(plan["y_ends"], plan["z_ends"], strict=True)):
        here = slice(z_start * area, z_end * area)
        group = Field(z.models[here], z.tables)
        known = group.decode(code if g else RangeDecoder(sent.head, 0), by_priority=False)
        z.nodes[here] = group.nodes
        if not known:
            break
        before = z.symbols()[: z_end * area]
        z_hat = before + [0] * (len(z.models) - len(before))
        (codes,) = run_exact(sent, "h_s", ["sigma_code"], "z_hat", z_hat)
        channels = Field(sigma_levels(sent, codes)[16 * y_start * area : 16 * y_end * area], z.tables)
        known = decode_channels(channels, y_end - y_start, code)
        y.nodes += channels.nodes
        if not known:
            break
        y_start, z_start = y_end, z_end
    return Decoded({"z": z, "y": y}, [], known and sent.verified, sent.damaged)


def decode_deepfgs(sent: Received, settings: dict[str, Any]) -> Decoded:
    """Section 8.6."""
    zb = z_field(settings["base_z_channels"], 0, sent)
    zs = z_field(settings["scalable_z_channels"], settings["base_z_channels"], sent)
    assert zb.decode(RangeDecoder(sent.head, 0), by_priority=False)
    mu, codes = run_exact(sent, "h_s", ["mu", "sigma_code"], "z_hat", zb.symbols())
    b, code = Field(sigma_levels(sent, codes), zb.tables), TrustedTrits(sent.body)
    fields = {"zb": zb, "b": b, "zs": zs}
    known = b.decode(code, by_priority=True) and zs.decode(code, by_priority=False)
    if known:
        (side,) = run_exact(sent, "h_s_scalable", ["features"], "z_hat", zs.symbols())
        if json.loads((sent.bundle / "plan.json").read_text())["mutual"]:
            side += [min(1023, max(-1023, (64 * s + m + 4) >> 3)) for s, m in zip(b.symbols(), mu, strict=True)]
        _, codes = run_exact(sent, "mutual", ["mu", "sigma_code"], "side", side)
        fields["s"] = Field(sigma_levels(sent, codes), zb.tables)
        known = decode_channels(fields["s"], settings["scalable_channels"], code)
    return Decoded(fields, mu, known and sent.verified, sent.damaged)


PLANS = {"dpict": decode_planes, "ctc": decode_planes, "progdtd": decode_progdtd, "deepfgs": decode_deepfgs}


def symbols_hash(symbols: list[int]) -> str:
    return hashlib.sha256(np.array(symbols, "<i2").tobytes()).hexdigest()


@pytest.mark.parametrize("name", VALID)
def test_plain_decoder_finds_the_golden_symbols(name: str) -> None:
    """What FORMAT.md says is enough to find every symbol, node and trit of every golden stream and of its prefixes."""
    expected = VALID[name]
    stream = (GOLDEN / "valid" / f"{name}.cut").read_bytes()
    decoded = decode(stream)
    assert symbols_hash(decoded.z.symbols()) == expected["z_symbols_sha256"]
    assert symbols_hash(decoded.y.nodes) == expected["y_nodes_sha256"]
    assert decoded.complete == expected["complete"] and not decoded.damaged
    if decoded.complete:
        assert symbols_hash(decoded.y.symbols()) == expected["y_symbols_sha256"]
    for cut, trits in expected["trits_by_cut"].items():
        assert decode(stream[: int(cut)]).y.trits_known == trits


def test_plain_decoder_goes_back_to_the_start_of_a_damaged_frame() -> None:
    """A damaged stream says what the prefix before its damage says."""
    frames = (GOLDEN / "valid" / "frames.cut").read_bytes()
    for name, entry in json.loads((GOLDEN / "damaged" / "expected.json").read_text()).items():
        decoded = decode((GOLDEN / "damaged" / f"{name}.cut").read_bytes())
        start = 34 + VALID["frames"]["head_bytes"] + entry["body_bytes_before_damage"] // 2048 * 2052
        assert decoded.damaged and not decoded.complete
        assert decoded.y.nodes == decode(frames[:start]).y.nodes


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_decoder_finds_the_golden_nodes_of_other_families(family: str) -> None:
    """What FORMAT.md says is enough to find every node of every field, in whole streams and in prefixes."""
    expected = FAMILIES[family]
    stream = (GOLDEN / "families" / f"{family}.cut").read_bytes()
    assert expected["nodes_by_cut"].keys() >= {str(len(stream))}
    for cut, nodes in expected["nodes_by_cut"].items():
        decoded = decode(stream[: int(cut)], GOLDEN / f"tiny-{family}")
        assert {name: symbols_hash(field.nodes) for name, field in decoded.fields.items()} == nodes
        assert decoded.complete == (int(cut) == len(stream)) and not decoded.damaged


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_decoder_agrees_with_the_codec_between_these_cuts(family: str) -> None:
    """Between the cuts on file, both know the same of every field."""
    from make_golden import fields_known

    from runtime import Codec

    stream = (GOLDEN / "families" / f"{family}.cut").read_bytes()
    start = 34 + FAMILIES[family]["head_bytes"]
    with Codec.open(GOLDEN / f"tiny-{family}", threads=1) as codec:
        for cut in range(start, len(stream), 17):
            decoded = decode(stream[:cut], GOLDEN / f"tiny-{family}")
            known = fields_known(codec, stream[:cut])
            assert {name: symbols_hash(field.nodes) for name, field in decoded.fields.items()} == known


# The document.


def section(title: str) -> str:
    """Return the text of the section with *title*."""
    found = re.search(rf"^## \d+\. {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"FORMAT.md has no section {title!r}"
    return found.group(1)


def example() -> bytes:
    return (GOLDEN / "valid" / "example.cut").read_bytes()


def test_annotated_example_is_the_file() -> None:
    """The bytes in the document are those of the golden file."""
    block = re.search(r"```\n(.*?)```", section("Example"), re.DOTALL)
    assert block
    lines = [line for line in block.group(1).splitlines() if line]
    assert bytes.fromhex("".join(re.split(r" {3,}", line)[0] for line in lines)) == example()


def test_annotations_of_the_example_are_true() -> None:
    """What the document says of the example is what the plain decoder finds in it."""
    text = " ".join(section("Example").split())
    decoded = decode(example())
    tables = read_tables()
    sizes: dict[int, int] = {}
    for place in (3, 2, 1):
        sizes[place] = sum(tables["trits"][m] >= place for m in decoded.y.models)
    listed = ", ".join(map(str, decoded.mu[:4]))
    assert f"of `mu`, the first being {listed}, and sigma levels" in text
    assert f"of which the first are {', '.join(map(str, decoded.y.models[:4]))}." in text
    assert f"{sizes[3]} trits at place 3, {sizes[2]} at place 2 and {sizes[1]} at place 1" in text
    assert f"After all {decoded.y.trits_known} trits the symbols of *y* begin with" in text
    assert f"begin with {', '.join(map(str, decoded.y.symbols()[:8]))}." in text
    assert f"determine {decode(example()[:54]).y.trits_known} trits" in text
    assert "its symbol is 9 - 3 = 6" in text and "its symbol is 3 - 1 = 2" in text
    assert decoded.z.symbols() == [6, 2]
    first = next(i for i, m in enumerate(decoded.y.models) if tables["trits"][m] == 3)
    joined = [i for i, m in enumerate(decoded.y.models) if tables["trits"][m] == 3]
    row = tables["root"][decoded.y.models[first]]
    assert f"begins with the elements {', '.join(map(str, joined[:4]))}, all in row {row}, whose trits are" in text
    digits = [(decoded.y.symbols()[i] + 13) // 9 for i in joined[:4]]
    assert f"whose trits are {', '.join(map(str, digits))}." in text


def test_worked_table_of_the_example_is_true() -> None:
    """Each row of the table is a state of the plain decoder in the head segment."""
    rows = re.findall(r"^\| (\d) \| (\d) \| (\d+) \| ([\d, ]+) \| `(\w+)` \| `(\w+)` \| (\d+) \| (\d) \|$", TEXT, re.M)
    assert len(rows) == 6
    tables, code = read_tables(), RangeDecoder(example()[30:34], 0)
    nodes = [tables["root"][6], tables["root"][7]]
    for place, element, row, frequencies, offset, size, quantile, trit in rows:
        f = tables["frequencies"][int(row)]
        assert nodes[int(element)] == int(row) and f == [int(one) for one in frequencies.split(", ")]
        assert (code.point - code.lower) % 2**64 == int(offset, 16) and code.range == int(size, 16)
        assert int(offset, 16) // (code.range >> 24) == int(quantile)
        assert code.trit(f) == int(trit) and place in "321"
        nodes[int(element)] = tables["first_child"][int(row)] + int(trit)


def test_exact_id_of_the_example_follows_from_the_files() -> None:
    """The definition of section 9, applied to the tiny bundle, gives the id in the example's header."""
    text = b""
    for path in sorted(["graphs/h_s.onnx", "tables/entropy.npz"]):
        text += f"{path} {hashlib.sha256((GOLDEN / 'tiny' / path).read_bytes()).hexdigest()}\n".encode()
    assert hashlib.sha256(text).digest()[:8] == example()[6:14] == bytes.fromhex(TINY["exact_id"])


def test_numbers_of_the_document_are_those_of_the_code() -> None:
    """Version, lengths and limits in the document are the constants."""
    from runtime.entropy.tables import MOST_LEVELS, MOST_TRITS
    from runtime.stream import FRAME_BYTES, HEADER_BYTES, MAGIC, VERSION, Limits

    assert f"Format version {VERSION}, " in TEXT and f"\n{HEADER_BYTES} bytes.\n" in section("Header")
    assert f"`{MAGIC.hex(' ')}`" in section("Header")
    assert f"frames of {FRAME_BYTES:,} bytes" in section("Head segment and body")
    limits, text = Limits(), section("Limits")
    assert f"| {limits.pixels:,} (2^26) pixels |" in text
    assert f"| `head_bytes` | {limits.head_bytes:,} (2^22) |" in text
    assert f"| `body_bytes` | {limits.body_bytes:,} (2^28) |" in text
    assert f"the default here is {limits.seconds:g} seconds." in text
    assert f"above {MOST_TRITS} |" in section("Tables") and f"*S* above {MOST_LEVELS} " in section("Tables")


def test_every_array_of_the_table_file_is_in_the_document() -> None:
    """Names, types and number of dimensions in the document are those of the file."""
    arrays = {}
    for bundle in ("tiny", "tiny-ctc"):
        with np.load(io.BytesIO((GOLDEN / bundle / "tables" / "entropy.npz").read_bytes())) as file:
            arrays |= {name: (file[name].dtype, file[name].ndim) for name in file.files}
            assert any(name.startswith("context_") for name in file.files) == (bundle == "tiny-ctc")
    rows = re.findall(r"^\| `(\w+)` \| `([ui])(\d+)` \| ([^|]+) \|", section("Tables"), re.MULTILINE)
    documented = {
        name: (np.dtype(f"{kind}{int(bits) // 8}"), 2 if "," in shape else 1) for name, kind, bits, shape in rows
    }
    assert documented == arrays


def test_header_table_adds_up() -> None:
    """Fields follow one another without gaps, and fill the header."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", section("Header"), re.MULTILINE)
    position = 0
    for offset, size, _ in rows:
        assert int(offset) == position
        position += int(size)
    assert position == 30


def test_document_has_one_sentence_per_line() -> None:
    """Differences stay readable: no line of prose holds two sentences."""
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith("|"):
            assert not re.search(r"[a-z)`*]\. [A-Z]", line), line
