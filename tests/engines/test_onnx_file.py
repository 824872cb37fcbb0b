"""The reader of ONNX files: reads what bundles hold as the onnx package does, and refuses everything else."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engines.bundle import Bundle, GraphSpec, shipped_bundles
from engines.errors import BundleError
from engines.onnx_file import MOST_VALUES, Constant, Graph, read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu

GRAPHS = {
    f"{bundle.name}-{role}": bundle.read(spec.file)
    for bundle in map(Bundle.open, shipped_bundles())
    for role, spec in bundle.graphs.items()
}


@pytest.fixture(scope="session")
def small(writer: ModuleType) -> bytes:
    """A small exact graph."""
    content: bytes = writer.small_graph()
    return content


def refused(content: bytes, fault: str) -> None:
    with pytest.raises(BundleError, match=f"not an ONNX file that bundles may hold: .*{fault}"):
        read_graph(content)


# What is read.


@pytest.mark.parametrize("graph_name", GRAPHS)
def test_reads_what_the_onnx_package_reads(graph_name: str) -> None:
    """Nodes, attributes, constants, inputs and outputs of every shipped graph are the same."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")
    graph, theirs = read_graph(GRAPHS[graph_name]), onnx.load_from_string(GRAPHS[graph_name]).graph
    assert [(n.operator, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in theirs.node
    ]
    for ours, other in zip(graph.nodes, theirs.node, strict=True):
        expected = {a.name: onnx.helper.get_attribute_value(a) for a in other.attribute}
        found = {name: list(v) if isinstance(v, tuple) else v for name, v in ours.attributes.items()}
        assert found.keys() == expected.keys()
        for name, value in found.items():
            if not isinstance(value, Constant):
                assert value == expected[name]
    assert list(graph.constants) == [one.name for one in theirs.initializer]
    for one in theirs.initializer:
        constant = graph.constants[one.name]
        assert (constant.data_type, constant.shape) == (one.data_type, tuple(one.dims))
        if one.data_type == onnx.TensorProto.FLOAT:
            assert np.array_equal(constant.float32(), onnx.numpy_helper.to_array(one))
    assert [port.name for port in graph.inputs] == [one.name for one in theirs.input]
    for ours, other in zip(graph.outputs, theirs.output, strict=True):
        sizes = other.type.tensor_type.shape.dim
        assert ours.shape == tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in sizes)


def test_reading_a_shipped_graph_takes_little_work() -> None:
    """A few thousand values, however many megabytes of constants there are: a tenth of what is allowed at most."""
    for content in GRAPHS.values():
        read_graph(content, MOST_VALUES // 10)


def test_the_small_graph_is_an_onnx_file(small: bytes) -> None:
    """What these tests write is what ONNX Runtime reads."""
    pytest.importorskip("onnx", reason="onnx is not installed (extra: export)").checker.check_model(small)


def test_floats_may_lie_one_by_one_or_together(writer: ModuleType) -> None:
    """`raw_data`, packed `float_data` and single floats hold the same values."""
    values = np.array([1.5, -2.0, 3.0], np.float32)
    single = b"".join(writer.varint(4 << 3 | 5) + value.tobytes() for value in values)
    unpacked = writer.field(1, 3) + writer.field(2, 1) + writer.field(8, "c") + single
    for content in (writer.tensor("c", values), writer.tensor("c", values, as_floats=True), unpacked):
        graph = read_graph(writer.model([], [content], [], []))
        assert np.array_equal(graph.constants["c"].float32(), values)


def test_numbers_may_be_packed_or_not(writer: ModuleType) -> None:
    """Repeated integers mean the same in both forms, negative ones too."""
    packed = writer.field(1, "pads") + writer.field(8, b"".join(map(writer.varint, (1, -2, 300)))) + writer.field(20, 7)
    one = writer.node("Conv", [], [], {"other": [1, -2, 300]}, extra=writer.field(5, packed))
    assert read_graph(writer.model([one], [], [], [])).nodes[0].attributes == {
        "other": (1, -2, 300),
        "pads": (1, -2, 300),
    }


# What is refused.


def with_tensor(writer: ModuleType, content: bytes) -> bytes:
    result: bytes = writer.model([], [content], [], [])
    return result


def test_external_data_is_refused_in_initializers(writer: ModuleType) -> None:
    """Neither the place nor the mark of external data passes."""
    entry = writer.field(1, "location") + writer.field(2, "../../etc/passwd")
    refused(with_tensor(writer, writer.tensor("c", 1.0, extra=writer.field(13, entry))), "'c' lies outside the file")
    refused(with_tensor(writer, writer.tensor("c", 1.0, extra=writer.field(14, 1))), "'c' lies outside the file")


def test_external_data_is_refused_in_attributes(writer: ModuleType) -> None:
    """A Constant node's tensor is a tensor too, alone or in a list."""
    outside = writer.tensor("c", 1.0, extra=writer.field(13, b""))
    for number, kind in ((5, 4), (10, 9)):
        value = writer.field(1, "value") + writer.field(number, outside) + writer.field(20, kind)
        one = writer.node("Constant", [], ["x"], extra=writer.field(5, value))
        refused(writer.model([one], [], [], []), "lies outside the file")


@pytest.mark.parametrize(("number", "kind"), [(6, 5), (11, 10), (22, 11), (23, 12), (14, 13), (15, 14)])
def test_subgraphs_sparse_tensors_and_types_are_refused_in_attributes(
    writer: ModuleType, number: int, kind: int
) -> None:
    """Graphs are flat."""
    value = writer.field(1, "body") + writer.field(number, b"") + writer.field(20, kind)
    refused(writer.model([writer.node("If", [], [], extra=writer.field(5, value))], [], [], []), "is not allowed")


@pytest.mark.parametrize("number", [20, 25, 26])
def test_functions_training_and_configurations_are_refused(writer: ModuleType, number: int) -> None:
    """A model is its graph."""
    refused(writer.model([], [], [], [], extra=writer.field(number, b"")), "is not allowed")


@pytest.mark.parametrize("number", [14, 15])
def test_sparse_and_annotated_constants_are_refused(writer: ModuleType, number: int) -> None:
    """Constants are plain."""
    refused(writer.model([], [], [], [], graph_extra=writer.field(number, b"")), "is not allowed")


def test_operators_of_other_domains_are_refused(writer: ModuleType) -> None:
    """In a node, and in the list of operator sets."""
    one = writer.node("EPContext", [], [], extra=writer.field(7, "com.microsoft"))
    refused(writer.model([one], [], [], []), "domain 'com.microsoft'")
    other = writer.field(8, writer.field(1, "trt.plugins") + writer.field(2, 1))
    refused(writer.model([], [], [], [], extra=other), "domain 'trt.plugins'")


def test_unknown_fields_are_refused(writer: ModuleType) -> None:
    """What is not understood is not passed on."""
    refused(writer.model([], [], [], [], extra=writer.field(99, 1)), "field 99 is not one that is read")


def test_a_second_graph_is_refused(writer: ModuleType) -> None:
    """Other readers would merge it with the first."""
    refused(writer.model([], [], [], [], extra=writer.field(7, b"")), "'graph' occurs twice")


@pytest.mark.parametrize("content", [b"", b"\x08\x0a"])
def test_a_file_without_graph_is_refused(content: bytes) -> None:
    """An empty file is a valid message, but no model."""
    refused(content, "there is no graph")


def test_constants_of_another_size_than_their_shape_are_refused(writer: ModuleType) -> None:
    """Neither too few values, nor a shape that claims memory."""
    head = writer.field(2, 1) + writer.field(8, "c") + writer.field(9, bytes(8))
    refused(with_tensor(writer, writer.field(1, 3) + head), r"'c' has 8 bytes, not those of shape \(3,\)")
    refused(with_tensor(writer, writer.field(1, -2) + head), "'c' has shape")
    refused(with_tensor(writer, writer.field(1, 1 << 40) + writer.field(1, 1 << 40) + head), "'c' has shape")
    refused(with_tensor(writer, writer.field(1, 1) * 9 + head), "'c' has shape")


def test_constants_that_claim_values_which_are_not_there_are_refused(writer: ModuleType) -> None:
    """An engine would take memory for the claim; no type has elements of less than a bit."""
    for data, most in ((b"", 0), (writer.field(4, bytes(12)), 96), (writer.field(7, b"\x01\x02"), 128)):
        for claim, fits in ((most, True), (most + 1, False)):
            tensor = writer.field(1, claim) + writer.field(2, 1) + writer.field(8, "c") + data
            if fits:
                read_graph(with_tensor(writer, tensor))
            else:
                refused(with_tensor(writer, tensor), rf"'c' of shape \({claim},\) has not as many values")


def test_values_in_two_places_are_refused(writer: ModuleType) -> None:
    """A constant has one content."""
    twice = writer.tensor("c", 1.0, extra=writer.field(4, bytes(4)))
    refused(with_tensor(writer, twice), "'c' has its values in raw_data and float_data")


def test_names_that_occur_twice_are_refused(writer: ModuleType) -> None:
    """Of constants, and of attributes."""
    refused(writer.model([], [writer.tensor("c", 1.0)] * 2, [], []), "'c' occurs twice")
    again = writer.field(5, writer.attribute("group", 1))
    refused(writer.model([writer.node("Conv", [], [], {"group": 1}, extra=again)], [], [], []), "'group' occurs twice")


def test_attribute_with_the_value_of_another_type_is_refused(writer: ModuleType) -> None:
    """Readers that believe the type and readers that believe the value would differ."""
    both = writer.attribute("group", 1) + writer.field(4, b"text")
    refused(writer.model([writer.node("Conv", [], [], extra=writer.field(5, both))], [], [], []), "'group' has not one")


def test_text_that_is_no_text_is_refused(writer: ModuleType) -> None:
    """Names are UTF-8."""
    refused(writer.model([writer.node("Conv", [], [], extra=writer.field(3, b"\xff"))], [], [], []), "UTF-8")


def test_work_is_limited(writer: ModuleType) -> None:
    """Messages without number are refused, empty as they may be."""
    refused(writer.model([b""] * (MOST_VALUES + 1), [], [], []), "too many values")


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a",  # ends before the length
        b"\x3a\x05ab",  # ends inside
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length that does not end
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # of more than 64 bits
        b"\x3a\xff\xff\xff\xff\x0f",  # of gigabytes
        b"\x3b",  # a group
        b"\x38\x01",  # a graph that is a number
        b"\x09\x00\x00\x00\x00\x00\x00\x00\x00",  # ir_version as a fixed number
        b"\x00\x00",  # field 0
    ],
)
def test_malformed_messages_are_refused(content: bytes) -> None:
    """Each with an error, none with a crash."""
    refused(content, "")


def test_every_prefix_is_refused_or_read(small: bytes) -> None:
    """A file cut anywhere is either no file, or still a whole message."""
    read = 0
    for end in range(len(small)):
        try:
            assert isinstance(read_graph(small[:end]), Graph)
            read += 1
        except BundleError:
            pass
    assert read <= 2  # cuts between the fields of the model, behind the graph


MUTATION = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "delete", "insert", "repeat"]),
        st.integers(0, 1 << 30),
        st.integers(0, 255),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=6,
)


def mutated(content: bytes, mutation: list[tuple[str, int, int, int]]) -> bytes:
    changed = bytearray(content)
    for kind, place, value, length in mutation:
        at = place % max(1, len(changed))
        if kind == "flip":
            changed[at : at + 1] = bytes([changed[at] ^ 1 << value % 8]) if changed else b""
        elif kind == "set":
            changed[at : at + 1] = bytes([value])
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = bytes([value]) * length
        else:
            changed[at:at] = changed[at : at + length]
    return bytes(changed)


@given(mutation=MUTATION)
@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(mutation=[("set", 0, 0x3A, 1)])
def test_changed_files_are_read_or_refused(small: bytes, mutation: list[tuple[str, int, int, int]]) -> None:
    """Whatever is changed in a real file: a graph or one kind of error, in under a second."""
    try:
        graph = read_graph(mutated(small, mutation))
    except BundleError:
        return
    for constant in graph.constants.values():
        try:
            assert constant.float32().shape == constant.shape
        except BundleError:
            continue


@given(content=st.binary(max_size=200))
@settings(max_examples=300, deadline=5000)
def test_garbage_is_read_or_refused(content: bytes) -> None:
    """Any bytes at all."""
    with suppress(BundleError):
        read_graph(content)


def test_engines_and_reader_agree_on_the_small_graph(small: bytes) -> None:
    """ONNX Runtime names the same inputs and outputs."""
    graph = read_graph(small)
    spec = GraphSpec("h_s", "", True, tuple(p.name for p in graph.inputs), tuple(p.name for p in graph.outputs), None)
    OnnxRuntimeCpu(small, spec, 1).close()
