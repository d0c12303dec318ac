"""onnxruntime sessions, and running image sets through them."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import check_is_file, check_name
from onnxprune.graph.images import ImageInput

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")

FATAL = 4  # onnxruntime's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal
# What goes wrong comes back as an exception; onnxruntime's log lines would only repeat it on the terminal. Said once,
# also for what onnxruntime opens itself, as its quantiser does.
onnxruntime.set_default_logger_severity(FATAL)

# float32 files compute in float32: onnxruntime's default of TF32 would change the third digit of the logits.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})

_CPU: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})

_TINY = '<ir_version: 8, opset_import: ["": 13]> tiny (float[1] x) => (float[1] y) { y = Add (x, x) }'


def open_session(
    path: Path, *, device: str = "cpu", threads: int = 1, profile_to: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of the ONNX file with all graph optimisations, running its operators one after the other.

    Args:
        device: "cpu" or "cuda"; operators without a CUDA kernel run on the CPU, as in any deployment.
        threads: threads within one operator, on the CPU.
        profile_to: folder for onnxruntime's own profile of the session, which slows it.

    Raises:
        InputError: no such file or one whose name is not UTF-8, onnxruntime cannot load it, or CUDA was asked for and
            does not run here.
    """
    check_is_file(path)
    check_name(path)
    if device == "cuda":
        _prepare_cuda()
    options = _options(threads)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "profile")
    providers = [_CUDA, _CPU] if device == "cuda" else [_CPU]
    try:
        session = _session(path, options, providers)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error
    if device == "cuda" and session.get_providers()[0] != _CUDA[0]:
        raise _no_cuda()
    return session


def _session(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
    """Without onnxruntime's fallback to other providers, which prints, and would give CPU numbers for CUDA."""
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception:
        if not path.is_symlink():
            raise
        # External data may lie beside the file that the link leads to, and onnxruntime looks in one place only.
        return onnxruntime.InferenceSession(str(path.resolve()), options, providers=providers, enable_fallback=0)


def run_batched(
    session: onnxruntime.InferenceSession,
    images: np.ndarray,
    mean: Any,
    std: Any,
    batch_size: int = 500,
) -> np.ndarray:
    """Scores (N, classes), float32, of uint8 images (N, C, H, W) normalised to (image / 255 - mean) / std.

    Args:
        mean, std: one number, or one for each of the C channels.

    Raises:
        InputError: the file has several inputs or no scores, or does not take images of this shape.
    """
    name = scores_output(session).name
    logits = [found[name] for found in answers_batched(session, [name], images, mean, std, batch_size)]
    return np.concatenate(logits).astype(np.float32, copy=False)


def answers_batched(
    session: onnxruntime.InferenceSession,
    names: Sequence[str],
    images: np.ndarray,
    mean: Any,
    std: Any,
    batch_size: int,
) -> Iterator[dict[str, np.ndarray]]:
    """What the outputs of these names are for such images, batch by batch; see `run_batched`.

    Raises:
        InputError: the file has several inputs, or does not take images of this shape.
    """
    taken = image_input(session)
    layout = taken.layout(images.shape[1:])
    shift, deviation = (255 * np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
    with np.errstate(all="ignore"):  # means and deviations of strangers may be too large: it shows in what comes out
        scale = 1 / deviation  # dividing every pixel would take longer
    for start in range(0, len(images), batch_size):
        with np.errstate(all="ignore"):
            batch = images[start : start + batch_size].astype(np.float32)
            batch -= shift
            batch *= scale
        try:
            found = session.run(list(names), {taken.name: layout.apply(batch)})
        except Exception as error:
            raise InputError(
                f"the model's input {taken.name!r} is {session.get_inputs()[0].shape}, it does not take images "
                f"of shape {list(batch.shape)}: {one_line(error)}"
            ) from error
        yield dict(zip(names, found, strict=True))


def image_input(session: onnxruntime.InferenceSession) -> ImageInput:
    """The one input of a session.

    Raises:
        InputError: it has several, or takes no numbers of 32 bits.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(f"expected a model of one input, images; it has {len(inputs)}")
    taken = ImageInput.of_session(inputs[0])
    if taken.kind != np.float32:
        raise InputError(f"the model's input {taken.name!r} is {inputs[0].type}: expected tensor(float)")
    return taken


def scores_output(session: onnxruntime.InferenceSession) -> onnxruntime.NodeArg:
    """The output that has a row of scores for each sample: the only one, or the first of floats that may be one.

    Raises:
        InputError: there are several, and none is.
    """
    outputs = session.get_outputs()
    if len(outputs) == 1:
        return outputs[0]
    for output in outputs:
        if output.type in FLOATS and len(output.shape) == 2:
            return output
    found = ", ".join(f"{output.name!r} {output.type} {output.shape}" for output in outputs)
    raise InputError(f"expected an output of (batch, classes) floats, the model has {found}")


def float_outputs(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of the outputs that are tensors of floating-point numbers."""
    return [output.name for output in session.get_outputs() if output.type in FLOATS]


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL
    # Threads that wait for work spin within a run, as in deployment, but stop when it ends: left spinning they
    # took the cores from the session timed next (DenseNet-121, two threads, interleaved: 11 ms instead of 4).
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _prepare_cuda() -> None:
    """Loads the CUDA libraries that pip installed, where onnxruntime would not look for them by itself."""
    if _CUDA[0] not in onnxruntime.get_available_providers():
        raise _no_cuda()
    preload = getattr(onnxruntime, "preload_dlls", None)  # since onnxruntime 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # prints a line for every library it misses
            preload()


def check_cuda() -> None:
    """Tries CUDA by a session of one operator.

    Raises:
        InputError: it does not run here.
    """
    from onnx import parser

    tiny = parser.parse_model(_TINY).SerializeToString()
    _prepare_cuda()
    try:
        session = onnxruntime.InferenceSession(tiny, _options(1), providers=[_CUDA], enable_fallback=0)
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _no_cuda() from error
    if session.get_providers()[0] != _CUDA[0]:
        raise _no_cuda()


def _no_cuda() -> InputError:
    return InputError(
        "CUDA does not run here: there is no GPU, or no CUDA libraries that onnxruntime can use; use --device cpu"
    )
