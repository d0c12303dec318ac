"""One run of a session, as a call that can be timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from onnxprune.common.errors import InputError
from onnxprune.graph.images import ImageInput
from onnxprune.runtime.random_inputs import Inputs, random_inputs
from onnxprune.runtime.session import open_session


def bound_run(session: onnxruntime.InferenceSession, feed: Inputs, device: str) -> Callable[[], Any]:
    """One run of the session on `feed`, to be called.

    On CUDA input and output stay on the device: transfers are no part of a run, waiting for the result is.
    """
    if device == "cpu":
        return lambda: session.run(None, feed)
    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def transfer(session: onnxruntime.InferenceSession, feed: Inputs) -> Callable[[], Any]:
    """Moving the inputs of one run to the GPU and its outputs back, to be called; the run itself is made once, here."""
    binding = session.io_binding()
    inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0) for name, values in feed.items()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    session.run_with_iobinding(binding)

    def move() -> None:
        for name, value in inputs.items():
            value.update_inplace(feed[name])
        binding.synchronize_inputs()
        binding.copy_outputs_to_cpu()

    return move


def fresh_run(path: Path, shape: tuple[int, ...], device: str, threads: int) -> Callable[[], Any]:
    """One run of a fresh session on its one input, tried once: a wrong input is an error before anything is timed.

    Args:
        shape: of the images (N, C, H, W), which are laid out as the file takes them.
    """
    session = open_session(path, device=device, threads=threads)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(f"{path}: expected a model of one input, got {len(inputs)}")
    count, *image = shape
    try:
        sizes = ImageInput.of_session(inputs[0]).layout((image[0], image[1], image[2])).sizes
        run = bound_run(session, random_inputs(session, {inputs[0].name: (count, *sizes)}), device)
        run()
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"{path}: input {inputs[0].name!r} is {inputs[0].type} of shape {inputs[0].shape}, "
            f"it does not run on shape {list(shape)}"
        ) from error
    return run
