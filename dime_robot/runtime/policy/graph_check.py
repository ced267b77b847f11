"""Check the graph of a policy.onnx on its bytes, before ONNX Runtime reads them.

A sampler needs ten operators on static float32 shapes. Everything else that ONNX can express
(control flow, functions, custom operators, tensors in other files, sparse or quantised tensors) is
refused, and so are graphs whose arrays or products are far larger than a policy's. The last
operator has to be Tanh, so actions are in [-1, 1] by construction. What is done with single entries
of the observation before the first layer (bounds, mean, scale or 1 / std) is done with constants,
and its factors are above 0: a standard deviation is finite and positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dime_robot.runtime.io.wire_format import Message, Schema, WireFormatError, as_text, parse

OPSET, IR_VERSION = 20, 10  # opset 20 is the last one that TensorRT 10 reads
MAX_NODES = 20_000
MAX_ELEMENTS = 2**27  # of all arrays that the graph computes, together
MAX_PRODUCTS = 10**11  # multiplications of one call
FLOAT, INT64, STRING_ATTRIBUTE, INT_ATTRIBUTE = 1, 7, 3, 2
_ITEM_TYPES: dict[int, np.dtype[Any]] = {FLOAT: np.dtype("<f4"), INT64: np.dtype("<i8")}
Shape = tuple[int, ...]

# The allowed fields, by number as in onnx.proto. All others are refused.
_MODEL: Schema = {
    1: ("ir_version", "int"),
    2: ("producer_name", "bytes"),
    3: ("producer_version", "bytes"),
    5: ("model_version", "int"),
    6: ("doc_string", "bytes"),
    7: ("graph", "bytes"),
    8: ("opset_import", "repeated"),
    14: ("metadata_props", "repeated"),
}
_OPSET: Schema = {1: ("domain", "bytes"), 2: ("version", "int")}
_ENTRY: Schema = {1: ("key", "bytes"), 2: ("value", "bytes")}
_GRAPH: Schema = {
    1: ("node", "repeated"),
    2: ("name", "bytes"),
    5: ("initializer", "repeated"),
    10: ("doc_string", "bytes"),
    11: ("input", "repeated"),
    12: ("output", "repeated"),
}
_NODE: Schema = {
    1: ("input", "repeated"),
    2: ("output", "repeated"),
    3: ("name", "bytes"),
    4: ("op_type", "bytes"),
    5: ("attribute", "repeated"),
    6: ("doc_string", "bytes"),
    7: ("domain", "bytes"),
}
_ATTRIBUTE: Schema = {
    1: ("name", "bytes"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    20: ("type", "int"),
}
_TENSOR: Schema = {
    1: ("dims", "ints"),
    2: ("data_type", "int"),
    8: ("name", "bytes"),
    9: ("raw_data", "bytes"),
    12: ("doc_string", "bytes"),
}
_VALUE: Schema = {1: ("name", "bytes"), 2: ("type", "bytes")}
_TYPE: Schema = {1: ("tensor_type", "bytes")}
_TENSOR_TYPE: Schema = {1: ("elem_type", "int"), 2: ("shape", "bytes")}
_SHAPE: Schema = {1: ("dim", "repeated")}
_DIM: Schema = {1: ("dim_value", "int")}


class GraphError(Exception):
    """The graph has something that no exported policy has. The message is one phrase."""


@dataclass(frozen=True)
class ModelBytes:
    """The parts of a file that are used."""

    graph: memoryview
    metadata: dict[str, str]
    opset: int
    ir_version: int


def split_model(content: bytes) -> ModelBytes:
    """Split a file into its graph and its metadata.

    Raises:
        GraphError: it is not a model, or has other parts, such as functions.
    """
    try:
        model = parse(memoryview(content), _MODEL, "model")
        opsets = [parse(entry, _OPSET, "opset") for entry in model.repeated("opset_import")]
        if [entry.text("domain") for entry in opsets] != [""]:
            raise GraphError("expected the operators of ONNX itself, got other operator sets")
        metadata: dict[str, str] = {}
        for part in model.repeated("metadata_props"):
            entry = parse(part, _ENTRY, "metadata")
            if entry.text("key") in metadata:
                raise GraphError(f"expected metadata {entry.text('key')!r:.40} once, got it twice")
            metadata[entry.text("key")] = entry.text("value")
        return ModelBytes(
            model.content("graph"),
            metadata,
            opsets[0].integer("version"),
            model.integer("ir_version"),
        )
    except WireFormatError as error:
        raise GraphError(str(error)) from None


def check_graph(model: ModelBytes) -> dict[str, Shape]:
    """Check the graph; return the shapes of its inputs and its output by name.

    Raises:
        GraphError: it has anything that is not allowed.
    """
    if model.opset != OPSET or not 8 <= model.ir_version <= IR_VERSION:
        raise GraphError(
            f"expected opset {OPSET} and IR version 8 to {IR_VERSION}, got opset {model.opset} and"
            f" IR version {model.ir_version}"
        )
    try:
        return _Checker(parse(model.graph, _GRAPH, "graph")).run()
    except WireFormatError as error:
        raise GraphError(str(error)) from None


class _Checker:
    """Infers the shapes of all values, node by node."""

    def __init__(self, graph: Message) -> None:
        self._graph = graph
        self._shapes: dict[str, Shape] = {}  # of every float value so far
        self._integers: dict[str, tuple[int, ...]] = {}  # constants that are sizes
        self._floats: dict[str, npt.NDArray[Any]] = {}  # all other constants
        self._entrywise = {"observation"}  # values whose entries are single ones of it
        self._elements = self._products = 0

    def run(self) -> dict[str, Shape]:
        inputs = dict(_value(part) for part in self._graph.repeated("input"))
        outputs = dict(_value(part) for part in self._graph.repeated("output"))
        if set(inputs) != {"observation", "noise"} or set(outputs) != {"action"}:
            raise GraphError(
                f"expected inputs observation and noise and one output action, got {[*inputs]}"
                f" and {[*outputs]}"[:200]
            )
        for name, shape in inputs.items():
            self._define(name, shape)
        for part in self._graph.repeated("initializer"):
            self._constant(parse(part, _TENSOR, "tensor"))
        nodes = self._graph.repeated("node")
        if len(nodes) > MAX_NODES:
            raise GraphError(f"expected at most {MAX_NODES} nodes, got {len(nodes)}")
        last = ""
        for part in nodes:
            node = parse(part, _NODE, "node")
            self._node(node)
            if "action" in node.texts("output"):
                last = node.text("op_type")
        if last != "Tanh":
            raise GraphError(
                f"expected the action to come out of Tanh, which bounds it, got {last or 'nothing'}"
            )
        if self._shapes["action"] != outputs["action"]:
            raise GraphError(
                f"its action is stated as {list(outputs['action'])} and computed as"
                f" {list(self._shapes['action'])}"
            )
        return {**inputs, **outputs}

    def _define(self, name: str, shape: Shape) -> None:
        if not name or name in self._shapes or name in self._integers:
            raise GraphError(f"expected every value to have its own name, got {name!r:.40}")
        self._shapes[name] = shape
        self._elements += math.prod(shape)
        if self._elements > MAX_ELEMENTS:
            raise GraphError(f"its arrays hold more than {MAX_ELEMENTS} numbers")

    def _constant(self, tensor: Message) -> None:
        name, kind, data = (
            tensor.text("name"),
            tensor.integer("data_type"),
            tensor.content("raw_data"),
        )
        shape = tuple(tensor.integers("dims"))
        if kind not in _ITEM_TYPES:
            raise GraphError(f"constant {name!r:.40}: expected float32 or int64, got type {kind}")
        if math.prod(shape) * _ITEM_TYPES[kind].itemsize != len(data):
            raise GraphError(
                f"constant {name!r:.40}: {len(data)} bytes do not fit its shape {list(shape)!s:.60}"
            )
        values = np.frombuffer(data, _ITEM_TYPES[kind])
        if kind == FLOAT:
            self._define(name, shape)
            if not np.isfinite(values).all():
                raise GraphError(f"constant {name!r:.40}: expected finite numbers, got NaN or inf")
            self._floats[name] = values
            return
        if len(shape) != 1 or not name or name in self._shapes or name in self._integers:
            raise GraphError(f"constant {name!r:.40}: expected a new list of integers")
        if not ((values > 0) & (values <= MAX_ELEMENTS)).all():
            raise GraphError(f"constant {name!r:.40}: expected sizes of 1 to {MAX_ELEMENTS}")
        self._integers[name] = tuple(int(value) for value in values)

    def _node(self, node: Message) -> None:
        kind = node.text("op_type")
        if node.text("domain") or kind not in OPERATORS:
            raise GraphError(
                f"operator {node.text('domain')}{'.' if node.text('domain') else ''}{kind!s:.40} is"
                f" not one of {', '.join(sorted(OPERATORS))}"
            )
        attributes = _attributes(node, kind)
        names, sizes = node.texts("input"), None
        if kind in ("Reshape", "Split"):
            if len(names) != 2 or names[1] not in self._integers:
                raise GraphError(f"{kind}: expected its sizes as a constant")
            sizes = self._integers[names.pop()]
        unknown = [name for name in names if name not in self._shapes]
        if unknown or not names:
            raise GraphError(f"{kind}: its input {unknown[:1]} is not computed before it")
        shapes = [self._shapes[name] for name in names]
        if kind == "Reshape":
            results, products = _reshape(shapes, sizes or ()), 0
        elif kind == "Split":
            results, products = _split(shapes, sizes or (), attributes.get("axis", 0)), 0
        else:
            result, products = _RULES[kind](shapes)
            results = [result]
            if kind in _OF_TWO and not self._entrywise.isdisjoint(names):
                self._operation_on_entries(kind, names)
                self._entrywise.update(node.texts("output"))
        outputs = node.texts("output")
        if len(outputs) != len(results):
            raise GraphError(f"{kind}: expected {len(results)} outputs, got {len(outputs)}")
        self._products += products
        if self._products > MAX_PRODUCTS:
            raise GraphError(f"one call would take more than {MAX_PRODUCTS:.0e} multiplications")
        for name, shape in zip(outputs, results, strict=True):
            self._define(name, shape)

    def _operation_on_entries(self, kind: str, names: Sequence[str]) -> None:
        """Check an operation on the observation's entries before the first layer."""
        constants = [self._floats[name] for name in names if name in self._floats]
        if len(constants) != 1:
            raise GraphError(f"{kind}: expected the observation and a constant, got {names}"[:200])
        if kind == "Mul" and not (constants[0] > 0).all():
            raise GraphError(
                f"expected factors above 0 on the observation, got {constants[0].min():g}: a scale"
                " or standard deviation is damaged"
            )


def _value(part: memoryview) -> tuple[str, Shape]:
    """Return name and static shape of an input or output."""
    value = parse(part, _VALUE, "value")
    tensor = parse(
        parse(value.content("type"), _TYPE, "type").content("tensor_type"),
        _TENSOR_TYPE,
        "tensor type",
    )
    dims = parse(tensor.content("shape"), _SHAPE, "shape").repeated("dim")
    shape = tuple(parse(dim, _DIM, "dimension").integer("dim_value") for dim in dims)
    name = value.text("name")
    if tensor.integer("elem_type") != FLOAT or not all(0 < size <= MAX_ELEMENTS for size in shape):
        raise GraphError(f"{name!r:.40}: expected float32 of a static shape")
    return name, shape


def _attributes(node: Message, kind: str) -> dict[str, int]:
    """Check the attributes of a node; return those that are integers."""
    found: dict[str, int] = {}
    for part in node.repeated("attribute"):
        attribute = parse(part, _ATTRIBUTE, f"attribute of {kind}")
        name, type_ = attribute.text("name"), attribute.integer("type")
        text = as_text(attribute.content("s"), f"attribute of {kind}")
        good = (kind, name, type_, text) == ("Gelu", "approximate", STRING_ATTRIBUTE, "tanh") or (
            (kind, name, type_) == ("Split", "axis", INT_ATTRIBUTE) and "s" not in attribute
        )
        if not good or name in found:
            raise GraphError(f"{kind}: the attribute {name!r:.40} of {text!r:.40} is not allowed")
        found[name] = attribute.integer("i")
    if kind == "Gelu" and not found:
        raise GraphError("Gelu: expected its tanh form")
    return found


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    if any(
        size not in (1, full) for shape in padded for size, full in zip(shape, result, strict=True)
    ):
        raise GraphError(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not fit")
    return result


def _elementwise(count: int) -> Callable[[Sequence[Shape]], tuple[Shape, int]]:
    def rule(shapes: Sequence[Shape]) -> tuple[Shape, int]:
        if len(shapes) != count:
            raise GraphError(f"expected {count} operands, got {len(shapes)}")
        return _broadcast(shapes), 0

    return rule


def _matmul(shapes: Sequence[Shape]) -> tuple[Shape, int]:
    if len(shapes) != 2 or any(len(shape) < 2 for shape in shapes):
        raise GraphError("MatMul: expected two matrices")
    first, second = shapes
    if first[-1] != second[-2]:
        raise GraphError(f"MatMul: {list(first)} and {list(second)} do not fit")
    result = (*_broadcast([first[:-2], second[:-2]]), first[-2], second[-1])
    return result, math.prod(result) * first[-1]


def _gemm(shapes: Sequence[Shape]) -> tuple[Shape, int]:
    if not 2 <= len(shapes) <= 3 or any(len(shape) != 2 for shape in shapes[:2]):
        raise GraphError("Gemm: expected two matrices and a bias")
    result, products = _matmul(shapes[:2])
    if len(shapes) == 3 and _broadcast([result, shapes[2]]) != result:
        raise GraphError(f"Gemm: a bias {list(shapes[2])} does not fit {list(result)}")
    return result, products


def _reshape(shapes: Sequence[Shape], sizes: Shape) -> list[Shape]:
    if math.prod(shapes[0]) != math.prod(sizes):
        raise GraphError(f"Reshape: {list(shapes[0])} does not fit {list(sizes)!s:.60}")
    return [sizes]


def _split(shapes: Sequence[Shape], sizes: Shape, axis: int) -> list[Shape]:
    shape = shapes[0]
    if axis >= len(shape) or sum(sizes) != shape[axis]:
        raise GraphError(f"Split: {list(shape)} into {list(sizes)!s:.60} along axis {axis}")
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


_OF_TWO = ("Add", "Mul", "Max", "Min")
_RULES: dict[str, Callable[[Sequence[Shape]], tuple[Shape, int]]] = {
    **dict.fromkeys(_OF_TWO, _elementwise(2)),
    **dict.fromkeys(("Gelu", "Tanh"), _elementwise(1)),
    "MatMul": _matmul,
    "Gemm": _gemm,
}
# All of them are in the support matrix of TensorRT 10's ONNX parser (github.com/onnx/onnx-tensorrt,
# docs/operators.md, "TensorRT 10.0 supports operators in the inclusive range of opset 9 to 20").
OPERATORS = frozenset({*_RULES, "Reshape", "Split"})
