"""Shapes that onnx's own inference does not tell, and what is said where none can be told."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.graph.counting import count


def write(path: Path, body: str, opset: int = 17, **initializers: np.ndarray) -> Path:
    """As `graphs.write`, for any opset."""
    domains = f'"" : {opset}, "ai.onnx.ml" : 3, "com.microsoft" : 1, "custom" : 1'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> {body}")
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def weight(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def counted(path: Path, **how) -> int:
    """MACs of a file that leaves nothing open."""
    counts = count(path, **how)
    assert counts.complete, counts.notes
    assert not [note for note in counts.notes if "not counted" in note]
    return counts.macs


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


ARITHMETIC = {
    "product of sizes": ("s = Shape (x) a = Slice (s, one, two) c = ReduceProd <keepdims = 1> (a) t = Concat <axis = 0>"
                         " (minus, c) r = Reshape (x, t)", 3, 2 * 3 * 16),
    "half, rounded down": ("s = Shape (x) a = Gather (s, last) h = Div (a, two) t = Concat <axis = 0> (minus, h)"
                           " r = Reshape (x, t)", 8, 2 * 48 // 8 * 8),
    "by way of floats": ("s = Shape (x) a = Gather (s, last) f = Cast <to = 1> (a) g = Mul (f, half) h = Floor (g)"
                         " c = Cast <to = 7> (h) t = Concat <axis = 0> (minus, c) r = Reshape (x, t)", 8, 2 * 48),
    "a mask of sizes": ("s = Shape (x) e = Equal (s, three) t = Where (e, minus, s) q = Reshape (x, t)"
                        " z = Shape (q) v = Slice (z, two, three) u = Concat <axis = 0> (minus, v)"
                        " r = Reshape (q, u)", 16, 2 * 3 * 16),
    "a range of indices": ("s = Shape (x) e = Gather (s, scalar) i = Range (zero, e, step) n = Gather <axis = 1> (x, i)"
                           " t = Concat <axis = 0> (minus, sixteen) r = Reshape (n, t)", 16, 2 * 3 * 16),
    "places of ones": ("s = Shape (x) o = ConstantOfShape <value = int64[1] {1}> (s) p = NonZero (o)"
                       " q = Cast <to = 1> (p) t = Concat <axis = 0> (three, minus) r = Reshape (q, t)", 96, 3 * 96),
    "the largest": ("s = Shape (x) k, j = TopK (s, one) t = Concat <axis = 0> (minus, k) r = Reshape (x, t)", 16, 96),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize(("nodes", "inner", "size"), ARITHMETIC.values(), ids=ARITHMETIC)
def test_sizes_computed_by_nodes(path, opset, nodes, inner, size):
    body = f"g (float[2, 3, 16] x) => (float y) {{ {nodes} m = MatMul (r, w) y = ReduceSum <keepdims = 0> (m) }}"
    constants = {name: integers(value) for name, value in (("one", 1), ("two", 2), ("minus", -1), ("three", 3))}
    constants |= {"last": integers(2), "sixteen": integers(16), "half": np.float32([0.5])}
    constants |= {name: np.array(value, np.int64) for name, value in (("scalar", 1), ("zero", 0), ("step", 1))}
    used = {name: array for name, array in constants.items() if f"{name}," in nodes or f"{name})" in nodes}
    write(path, body, opset, w=weight(inner, 5), **used)
    assert counted(path) == size * 5


@pytest.mark.parametrize("opset", [11, 13])
def test_pads_as_torchscript_writes_them(path, opset):
    body = """g (float[1, 3, 16, 16] x) => (float[n, c, h, w] y) {
        extra = ConstantOfShape <value = int64[1] {0}> (four)
        all = Concat <axis = 0> (given, extra)
        pairs = Reshape (all, in_pairs)
        turned = Slice (pairs, minus, end, zero, minus)
        flipped = Transpose <perm = [1, 0]> (turned)
        flat = Reshape (flipped, minus)
        pads = Cast <to = 7> (flat)
        p = Pad <mode = "reflect"> (x, pads)
        y = Conv (p, w)
    }"""
    constants = {"four": integers(4), "given": integers(1, 1, 1, 1), "in_pairs": integers(-1, 2), "minus": integers(-1)}
    write(path, body, opset, w=weight(8, 3, 3, 3), end=integers(-(2**63)), zero=integers(0), **constants)
    assert counted(path) == 8 * 16 * 16 * 27


def test_a_free_size_is_followed_through_arithmetic(path):
    body = """g (float[batch, time, 4] x) => (float y) {
        s = Shape (x) t = Gather (s, one) d = Mul (t, two) shape = Concat <axis = 0> (minus, d)
        big = Concat <axis = 2> (x, x) r = Reshape (big, shape) flipped = Transpose (r)
        m = MatMul (r, flipped) y = ReduceSum <keepdims = 0> (m)
    }"""
    write(path, body, 13, one=integers(1), two=integers(2), minus=integers(-1))
    for time in (3, 5):
        rows, inner = 2 * 8 * time // (2 * time), 2 * time
        assert counted(path, shapes={"x": (2, time, 4)}) == rows * inner * rows


def test_a_large_value_is_not_made(path):
    body = """g (float[2, 4] x) => (float y) {
        huge = Expand (one, shape) back = ReduceMax <keepdims = 0> (huge) t = Unsqueeze (back, zero)
        r = Reshape (x, t) m = MatMul (r, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    write(path, body, 17, one=integers(-1), shape=integers(2**15, 2**15), zero=integers(0), w=weight(8, 2))
    counts = count(path)
    assert (counts.macs, counts.complete) == (0, False)


def test_a_target_that_does_not_fit_is_one_line(path):
    body = """g (float[2, 4] x) => (float y) {
        s = Shape (x) t = Mul (s, halves) r = Reshape (x, t) m = MatMul (r, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    with pytest.raises(InputError, match="do not fit together") as raised:
        count(write(path, body, 11, halves=integers(2, 1), w=weight(5, 5)))
    assert "\n" not in str(raised.value)


LOOP = """g (float[2, 4] x, int64 asked) => (float[2, 4] y) {
    s = Shape (x) n = Gather (s, one) %s
    y = Loop (%s) <body = b (int64 i, bool before, float[2, 4] v) => (bool after, float[2, 4] out) {
        %s
        out = MatMul (v, w)
    }>
}"""


@pytest.mark.parametrize(
    ("before", "given", "condition", "rounds"),
    [
        ("t = Mul (n, two)", "t, yes, x", "after = Identity (before)", 8),
        ("t = Mul (n, two)", "t, , x", "after = Identity (yes)", 8),
        ("", "many, yes, x", "after = Less (i, n)", 5),  # after the rounds 0, 1, 2, 3 it goes on
        ("", ", yes, x", "after = Less (i, n)", 5),
        ("", "n, no, x", "after = Identity (before)", 0),
    ],
)
def test_rounds_computed_from_sizes(path, before, given, condition, rounds):
    constants = {name: np.array(value) for name, value in (("yes", True), ("no", False), ("many", 2**40))}
    constants |= {"one": np.array(1), "two": np.array(2)}
    write(path, LOOP % (before, given, condition), 13, w=weight(4, 4), **constants)
    assert counted(path) == rounds * 2 * 4 * 4


def test_rounds_that_depend_on_data_are_named_by_their_source(path):
    constants = {"one": np.array(1), "yes": np.array(True)}
    body = LOOP % ("t = Add (asked, n)", "t, yes, x", "after = Identity (before)")
    write(path, body, 13, w=weight(4, 4), **constants)
    counts = count(path)
    assert (counts.macs, counts.complete) == (2 * 4 * 4, False)
    assert "Loop 'y': how often it runs depends on the values of 'asked'" in counts.notes
    assert counted(path, values={"asked": np.array(3)}) == 7 * 2 * 4 * 4


GROWING = """g (float[2, 4] x, int64 asked) => (float[k, c] y) {
    s = Shape (x) n = Gather (s, one)
    last, all = Loop (%s) <body = b (int64 i, bool before, float[p, q] v) => (bool after, float[r, t] out, float z) {
        after = %s
        out = Concat <axis = 0> (v, x)
        h = MatMul (out, w)
        z = ReduceSum <keepdims = 0> (h)
    }>
    y = MatMul (last, w)
}"""


@pytest.mark.parametrize(
    ("given", "condition", "rounds"),
    [
        ("n, yes, x", "Identity (before)", 4),
        ("n, , x", "Identity (yes)", 4),
        (", yes, x", "Less (i, two)", 3),
        ("asked, yes, x", "Less (i, two)", None),
    ],
)
def test_what_grows_from_round_to_round_is_followed(path, given, condition, rounds):
    constants = {"one": np.array(1), "two": np.array(2), "yes": np.array(True)}
    write(path, GROWING % (given, condition), 13, w=weight(4, 4), **constants)
    counts = count(path)
    if rounds is None:
        assert not counts.complete
        text = "what it passes on changes its size from round to round, and how often it runs depends on the values of"
        assert f"Loop 'last': {text} 'asked'" in counts.notes
        return
    rows = sum(2 * (2 + number) for number in range(rounds)) + 2 * (rounds + 1)
    assert (counts.macs, counts.complete) == (rows * 4 * 4, True)
    inner = next(node for node in counts.nodes if node.name == "last/body/h")
    assert (inner.repeats, inner.output_shape) == (rounds, (2 * (rounds + 1), 4))
    assert counts.params == 4 * 4
    assert counts.peak_activation_bytes is not None


def test_rounds_that_are_too_many_are_not_followed(path):
    constants = {"one": np.array(1), "many": np.array(10**9), "yes": np.array(True)}
    write(path, GROWING % ("many, yes, x", "Identity (before)"), 13, w=weight(4, 4), **constants)
    counts = count(path)
    assert not counts.complete
    assert "round to round, and it runs too often to follow" in counts.notes[0]
    write(path, GROWING % (", yes, x", "Less (i, many)"), 13, w=weight(4, 4), **constants)
    assert not count(path).complete


def test_a_slice_by_the_number_of_the_round_is_followed(path):
    body = """g (float[6, 4] x) => (float[6, 4] y) {
        y = Loop (six, yes, x) <body = b (int64 i, bool before, float[p, q] v) => (bool after, float[r, t] out) {
            after = Identity (before)
            more = Add (i, one) end = Unsqueeze (more, zero)
            part = Slice (v, zero, end, zero)
            h = MatMul (part, w)
            sum = ReduceSum <keepdims = 0> (h)
            out = Add (v, sum)
        }>
    }"""
    constants = {"one": np.array(1), "zero": np.array([0]), "six": np.array(6), "yes": np.array(True)}
    assert counted(write(path, body, 13, w=weight(4, 5), **constants)) == sum(range(1, 7)) * 4 * 5


def test_what_rounds_give_is_stacked(path):
    body = """g (float[2, 4] x) => (float[k, 2, 3] y) {
        s = Shape (x) n = Gather (s, one)
        stacked = Loop (n, yes) <body = b (int64 i, bool before) => (bool after, float[a, c] out) {
            after = Identity (before) out = Identity (x)
        }>
        y = MatMul (stacked, w)
    }"""
    assert counted(write(path, body, 13, one=np.array(1), yes=np.array(True), w=weight(4, 3))) == 4 * 2 * 4 * 3


BRANCHES = """g (float[2, 4] x, bool b) => (float[2, 4] y) {
    s = Shape (x) n = Gather (s, zero) known = Equal (n, %s)
    y = If (%s) <
        then_branch = t () => (float[2, 4] t1) { t1 = MatMul (x, w) },
        else_branch = e () => (float[2, 4] t2) { h = MatMul (x, w) t2 = MatMul (h, w) }
    >
}"""


@pytest.mark.parametrize(
    ("compared", "condition", "products"), [("two", "known", 1), ("zero", "known", 2), ("zero", "b", 2)]
)
def test_the_branch_that_is_taken_is_counted(path, compared, condition, products):
    constants = {"zero": np.array(0), "two": np.array(2)}
    write(path, BRANCHES % (compared, condition), 13, w=weight(4, 4), **constants)
    assert counted(path) == products * 2 * 4 * 4
    if condition == "b":
        assert counted(path, values={"b": np.array(True)}) == 2 * 4 * 4


def test_a_branch_that_does_not_fit_is_never_taken(path):
    body = """g (float[2, 4] x, bool b) => (float y) {
        r = If (b) <then_branch = t () => (float[n] one) { one = Squeeze (x, zero) },
                    else_branch = e () => (float[n, m] two) { two = Identity (x) }>
        m = MatMul (r, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    assert counted(write(path, body, 13, zero=integers(0), w=weight(4, 4))) == 2 * 4 * 4


def test_what_nothing_reads_is_not_counted(path):
    body = """g (float[2, 4] x) => (float[2, 4] y) {
        y = MatMul (x, w)
        [unread] dead = MatMul (x, large)
        [behind] deader = custom.Mystery (dead)
    }"""
    counts = count(write(path, body, w=weight(4, 4), large=weight(4, 500)))
    assert (counts.macs, counts.complete, counts.uncounted) == (2 * 4 * 4, True, {})
    assert counts.params == 16 + 2000  # they are in the file all the same
    assert counts.notes == ("MatMul 'unread': not counted, nothing uses what it computes",)
    assert [node.repeats for node in counts.nodes] == [1, 0, 0]


def test_onnx_tool_has_no_biases_where_the_count_is_left_open(path):
    body = """g (float[2, 4] x, int64[4] target) => (float y) {
        y = Gemm (x, w, b)
        unread = Gemm (x, w, b)
    }"""
    counts = count(write(path, body, w=weight(4, 4), b=weight(4)))
    reasons = counts.onnx_tool_difference
    assert reasons["Gemm: biases"] == 2 * 4
    assert reasons["Gemm: here not counted, nothing uses what it computes"] == 2 * 4 * 4 + 2 * 4
    assert len(reasons) == 2


def test_a_gap_is_named_by_its_source(path):
    body = """g (float[2, 4] x) => (float y) {
        [places] p = NonZero (x) c = Cast <to = 1> (p) t = Transpose (c)
        [first] a = MatMul (t, w) [second] m = MatMul (a, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    counts = count(write(path, body, 13, w=weight(2, 2)))
    assert not counts.complete
    assert counts.notes[0] == "NonZero 'places': the size of its output depends on data"
    assert counts.notes[1].startswith("MatMul 'first': not counted")
    assert "in all 2 nodes: 2 MatMul" in counts.notes[1]
    assert len(counts.notes) == 2


def test_the_values_of_an_input_decide_a_shape(path):
    body = """g (float[2, 4] x, int64[2] target) => (float y) {
        r = Reshape (x, target) m = MatMul (r, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    write(path, body, 13, w=weight(8, 3))
    assert count(path).notes[0] == "Reshape 'r': the size of its output depends on the values of 'target'"
    assert counted(path, values={"target": integers(1, 8)}) == 8 * 3


SEQUENCES = {
    "split and joined": "s = SplitToSequence <axis = 0> (x) c = ConcatFromSequence <axis = 0> (s)",
    "of unlike parts": "s = SplitToSequence <axis = 0> (x, parts) c = ConcatFromSequence <axis = 0> (s)",
    "one taken": "s = SequenceConstruct (x, x) c = SequenceAt (s, one)",
    "put in and taken out": "a = SequenceEmpty () f = SequenceInsert (a, x) d = SequenceInsert (f, x, zero)"
    " s = SequenceErase (d, zero) c = ConcatFromSequence <axis = 0> (s)",
    "its length": "s = SequenceConstruct (x, x) l = SequenceLength (s) n = Unsqueeze (l, axis)"
    " t = Concat <axis = 0> (n, eight) c = Reshape (x, t)",
    "out of a branch": "s = If (b) <then_branch = t () => (seq(float[4, 4]) q) { q = SequenceConstruct (x) },"
    " else_branch = e () => (seq(float[4, 4]) r) { r = SequenceConstruct (x) }> c = SequenceAt (s, zero)",
}


@pytest.mark.parametrize("nodes", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_of_tensors(path, nodes):
    inner = 8 if "Reshape" in nodes else 4
    body = f"""g (float[4, 4] x, bool b) => (float y) {{
        {nodes} m = MatMul (c, w) y = ReduceSum <keepdims = 0> (m)
    }}"""
    constants = {"one": np.array(1), "zero": np.array(0), "parts": integers(1, 3), "eight": integers(8)}
    write(path, body, 13, w=weight(inner, 3), axis=integers(0), **constants)
    assert counted(path) == 16 * 3


def test_outputs_that_are_no_tensors(path):
    coefficients = ", ".join(["0.5"] * 12)
    body = f"""g (float[2, 4] x) => (int64[2] label, seq(map(int64, float)) chances, seq(float) rows) {{
        label, scores = ai.onnx.ml.LinearClassifier <
            coefficients = [{coefficients}], intercepts = [0.0, 0.0, 0.0], classlabels_ints = [0, 1, 2]
        > (x)
        chances = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (scores)
        rows = SplitToSequence (x)
    }}"""
    assert counted(write(path, body, 13)) == 2 * 4 * 3


@pytest.mark.parametrize(
    ("nodes", "macs"),
    [
        ("h = com.microsoft.FusedMatMul <transB = 1> (x, w) y = MatMul (h, w)", 2 * 2 * 16),
        ("h = com.microsoft.QuickGelu (x) y = MatMul (h, w)", 2 * 16),
        ("h = com.microsoft.FusedGemm <activation = \"Relu\"> (x, w) y = MatMul (h, w)", 2 * 2 * 16),
    ],
)  # fmt: skip
def test_shapes_behind_operators_of_onnxruntime(path, nodes, macs):
    body = f"g (float[2, 4] x) => (float[2, 4] y) {{ {nodes} }}"
    assert counted(write(path, body, w=weight(4, 4))) == macs


TREE = """nodes_falsenodeids = [2, 0, 0], nodes_featureids = [0, 0, 0], nodes_nodeids = [0, 1, 2],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_treeids = [0, 0, 0], nodes_truenodeids = [1, 0, 0],
    nodes_values = [0.5, 0.0, 0.0]"""


@pytest.mark.parametrize(
    ("node", "width", "own"),
    [
        ("h = ai.onnx.ml.Scaler <offset = [0.1], scale = [2.0]> (x)", 4, 0),
        ("i = Cast <to = 7> (x) h = ai.onnx.ml.Scaler <offset = [0.1], scale = [2.0]> (i)", 4, 0),
        ("i = Cast <to = 7> (x) h = ai.onnx.ml.Normalizer <norm = \"L2\"> (i)", 4, 0),
        ("h = ai.onnx.ml.Imputer <imputed_value_floats = [0.5]> (x)", 4, 0),
        ("h = ai.onnx.ml.Binarizer <threshold = 0.5> (x)", 4, 0),
        ("h = ai.onnx.ml.FeatureVectorizer <inputdimensions = [4, 4]> (x, x)", 8, 0),
        ("h = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0], targets = 2> (x)",
         2, 2 * 2 * 4),
        ("h = ai.onnx.ml.SVMRegressor <coefficients = [1.0], kernel_params = [0.1, 0.0, 3.0], kernel_type = \"RBF\","
         " n_supports = 1, rho = [0.1], support_vectors = [1.0, 2.0, 3.0, 4.0]> (x)", 1, 2 * 5),
        (f"h = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 3, target_ids = [0, 1], target_nodeids = [1, 2],"
         f" target_treeids = [0, 0], target_weights = [1.0, 2.0], {TREE}> (x)", 3, 0),
        (f"l, h = ai.onnx.ml.TreeEnsembleClassifier <classlabels_strings = [\"a\", \"b\", \"c\"], class_ids = [0, 1],"
         f" class_nodeids = [1, 2], class_treeids = [0, 0], class_weights = [1.0, 2.0], {TREE}> (x)", 3, 0),
    ],
)  # fmt: skip
def test_shapes_behind_operators_of_scikit_learn_are_those_at_run_time(path, node, width, own):
    write(path, f"g (float[2, 4] x) => (float[2, 5] y, h) {{ {node} y = MatMul (h, w) }}", 15, w=weight(width, 5))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.run(["h"], {"x": np.ones((2, 4), np.float32)})[0].shape == (2, width)
    assert counted(path) == 2 * width * 5 + own


@pytest.mark.parametrize("past", [0, 6])
def test_grouped_attention_with_and_without_a_past(path, past):
    states = (f", float[1, 2, {past}, 8] k0, float[1, 2, {past}, 8] v0", "k0, v0") if past else ("", ", ")
    body = f"""g (float[1, 5, 32] q, float[1, 5, 16] k, float[1, 5, 16] v{states[0]}, int32[1] l, int32 t)
        => (float[1, 5, 3] y) {{
        o, k1, v1 = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, k, v, {states[1]}, l, t)
        y = MatMul (o, w)
    }}"""
    write(path, body, w=weight(32, 3))
    assert counted(path) == 5 * (5 + past) * 2 * 32 + 5 * 32 * 3


def test_floats_in_constant_nodes_are_parameters(path):
    body = """g (float[2, 2] x) => (float[2, 2] y) {
        w = Constant <value = float[2, 2] {1, 0, 2, 3}> () b = Constant <value_float = 1.5> ()
        axes = Constant <value_ints = [0]> () h = MatMul (x, w) y = Add (h, b)
    }"""
    counts = count(write(path, body))
    assert (counts.params, counts.nonzero_params) == (5, 4)


@pytest.mark.parametrize("change", ["no shapes", "no type", "no name", "initializers that are no inputs"])
def test_what_onnxruntime_runs_is_no_damage(path, change):
    write(path, "g (float[2, 4] x) => (float[2, 3] y) { y = MatMul (x, w) }", 8, w=weight(4, 3))
    model = onnx.load(path)
    if change == "no shapes":
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.ClearField("shape")
    elif change == "no type":
        model.graph.output[0].ClearField("type")
    elif change == "no name":
        model.graph.name = ""
    else:
        model.ir_version = 3
    path.write_bytes(model.SerializeToString())
    assert counted(path, shapes={"x": (2, 4)}) == 2 * 4 * 3


def test_a_subgraph_and_a_function_may_be_without_names(path):
    body = BRANCHES % ("zero", "b")
    write(path, body, 13, w=weight(4, 4), zero=np.array(0))
    model = onnx.load(path)
    for attribute in model.graph.node[-1].attribute:
        attribute.g.name = ""
    path.write_bytes(model.SerializeToString())
    assert counted(path) == 2 * 2 * 16


def external_model(path: Path, location: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 64])],
        [numpy_helper.from_array(weight(64, 64), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def test_model_and_data_may_be_links_into_one_folder(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external_model(blobs / "model.onnx", "model.onnx_data")
    for name, blob in (("model.onnx", "a1"), ("model.onnx_data", "b2")):
        (blobs / name).rename(blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert count(snapshot / "model.onnx").params == 64 * 64


def test_data_may_lie_beside_the_file_that_a_link_leads_to(tmp_path):
    from onnxprune.runtime.session import open_session

    real, link = tmp_path / "models", tmp_path / "links"
    (real / "weights").mkdir(parents=True)
    link.mkdir()
    external_model(real / "model.onnx", "weights/data.bin")
    (link / "m.onnx").symlink_to(real / "model.onnx")
    assert count(link / "m.onnx").params == 64 * 64
    assert open_session(link / "m.onnx").run(None, {"x": weight(2, 64)})[0].shape == (2, 64)


def test_data_that_a_link_leads_elsewhere_to_stay_refused(tmp_path):
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    external_model(folder / "model.onnx", "data.bin")
    (folder / "data.bin").rename(elsewhere / "data.bin")
    (folder / "data.bin").symlink_to(elsewhere / "data.bin")
    with pytest.raises(InputError, match="refused"):
        count(folder / "model.onnx")


GROWN = """l = Loop (rounds, yes, x) <body = b (int64 i, bool c, float[a,b,4] h) => (bool d, float[e,f,4] o) {
    d = Identity (c) o = Concat <axis = 1> (h, x) }>
    f = Reshape (l, size) y = MatMul (f, v)"""
OF_GROWN = {"rounds": integers(3).reshape(()), "yes": np.array(True), "size": integers(8, -1), "v": weight(256, 5)}


def test_a_product_behind_a_loop_has_to_fit(path: Path) -> None:
    """It has a size before that of what it reads is known."""
    write(path, f"net (float[1,16,4] x) => (float y) {{ {GROWN} }}", **OF_GROWN)
    with pytest.raises(InputError, match=r"its shapes do not fit together: .*matrix multiplication"):
        count(path)


OF_EIGHT = {  # MACs of a batch of eight, which constants let through alone
    "a shape": ("f = Reshape (x, size) y = MatMul (f, v)", {"size": integers(8, -1), "v": weight(64, 5)}, 8 * 64 * 5),
    "a whole shape at the end": (
        "f = Reshape (x, flat) m = MatMul (f, v) y = Reshape (m, size)",
        {"flat": integers(-1, 64), "size": integers(8, 5), "v": weight(64, 5)},
        8 * 64 * 5,
    ),
    "there and back": (
        "f = Reshape (x, size) m = MatMul (f, v) y = Reshape (m, back)",
        {"size": integers(8, 8, 8), "back": integers(8, 16, 4), "v": weight(8, 8)},
        8 * 64 * 8,
    ),
    "a token": (
        "f = Concat <axis = 1> (c, x) y = MatMul (f, v)",
        {"c": weight(8, 1, 4), "v": weight(4, 5)},
        8 * 85 * 4,
    ),
    "what is added": ("f = Add (x, c) y = MatMul (f, v)", {"c": weight(8, 16, 4), "v": weight(4, 5)}, 8 * 16 * 4 * 5),
    "a state": (
        "t = Transpose <perm = [1, 0, 2]> (x) y, h = RNN <hidden_size = 3> (t, v, r, , , c)",
        {"c": weight(1, 8, 3), "v": weight(1, 3, 4), "r": weight(1, 3, 3)},
        8 * 16 * (3 * 4 + 3 * 3),
    ),
    "a shape behind a loop": (GROWN, OF_GROWN, 8 * 256 * 5),
}


@pytest.mark.parametrize("case", OF_EIGHT)
def test_a_batch_that_constants_fix_is_taken_though_the_file_declares_any(case: str, path: Path) -> None:
    nodes, constants, macs = OF_EIGHT[case]
    write(path, f"net (float[n,16,4] x) => (float y) {{ {nodes} }}", **constants)
    assert counted(path) == counted(path, batch=8) == macs
    with pytest.raises(InputError, match=r"it takes batches of 8, not 1: x \[8, 16, 4\]"):
        count(path, batch=1)
    x = np.ones((8, 16, 4), np.float32)
    onnxruntime.InferenceSession(path).run(None, {"x": x})


def test_a_batch_that_another_input_fixes_is_taken(path: Path) -> None:
    write(path, "net (float[n,4] x, float[8,3] z) => (float y) { c = Concat <axis = 1> (x, z) y = MatMul (c, v) }",
          v=weight(7, 5))  # fmt: skip
    assert counted(path) == 8 * 35


def test_a_batch_of_one_that_constants_fix_is_found_where_other_sizes_are_open(path: Path) -> None:
    body = "net (float[n,3,h,w] x) => (float y) { g = GlobalAveragePool (x) f = Reshape (g, size) y = MatMul (f, v) }"
    write(path, body, size=integers(1, 3), v=weight(3, 5))
    assert counted(path, shapes={"x": (1, 3, 5, 7)}) == 15
    with pytest.raises(InputError, match=r"\[8, 3, 5, 7\] does not fit the input x \[1, 3, h, w\]"):
        count(path, shapes={"x": (8, 3, 5, 7)})


def test_a_batch_of_any_multiple_stays_free(path: Path) -> None:
    """As of videos of eight pictures each."""
    write(
        path,
        "net (float[n,4] x) => (float y) { f = Reshape (x, size) m = MatMul (f, v) y = ReduceMean (m) }",
        size=integers(-1, 8, 4),
        v=weight(4, 5),
    )
    assert [counted(path, batch=batch) for batch in (8, 16)] == [8 * 20, 16 * 20]


def test_a_reshape_to_another_number_of_elements_is_told(path: Path) -> None:
    write(path, "net (float[2,4] x) => (float y) { y = Reshape (x, size) }", size=integers(3, 3))
    with pytest.raises(InputError, match=r"do not fit together: Reshape 'y': \[2, 4\] is not \[3, 3\]"):
        count(path)


def test_what_onnxruntime_computes_with_channels_last_in_8_bits_is_counted(path: Path) -> None:
    body = """net (uint8[n,9,7,3] x) => (uint8 y) {
        c = com.microsoft.QLinearConv <channels_last = 1, pads = [1, 1, 1, 1], strides = [2, 1]>
            (x, s, z, w, s, zw, s, z, b)
        p = com.microsoft.NhwcMaxPool <kernel_shape = [2, 2], strides = [1, 2]> (c)
        d = com.microsoft.QLinearConv <channels_last = 1> (p, s, z, v, s, zw, s, z, b)
        y = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (d, s, z, s, z) }"""
    kernels = {"w": np.ones((4, 3, 3, 3), np.int8), "v": np.ones((4, 4, 1, 1), np.int8)}
    scales = {"s": np.float32(0.1), "z": np.uint8(0), "zw": np.int8(0), "b": np.zeros(4, np.int32)}
    write(path, body, **kernels, **scales)
    assert counted(path, batch=2) == 2 * (5 * 7 * 4 * 27 + 4 * 3 * 4 * 4)
    assert [node.output_shape for node in count(path, batch=2).nodes] == [
        (2, 5, 7, 4),
        (2, 4, 3, 4),
        (2, 4, 3, 4),
        (2, 1, 1, 4),
    ]
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in "cpd")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(["c", "p", "d", "y"], {"x": np.ones((2, 9, 7, 3), np.uint8)})
    assert [value.shape for value in found] == [node.output_shape for node in count(path, batch=2).nodes]
