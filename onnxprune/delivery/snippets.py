"""Code that loads a deployed file, as the card shows it."""

import json

from onnxprune.analysis.baking import Baked
from onnxprune.delivery.facts import Facts, listed
from onnxprune.graph.baking import PICTURE, PROBABILITIES


def of_plain(file: str, facts: Facts) -> list[str]:
    """Python, from an array of pixels to classes, or to all answers of a file that is no classifier."""
    feed = f"{{{_quoted(facts.input_name)}: {_inputs(facts)}}}"
    answer = f"session.run([{_quoted(facts.outputs[0].name)}], {feed})[0].argmax(axis=1)"
    if not facts.classes:
        answer = f"[answer.shape for answer in session.run(None, {feed})]"
    mean, std = (
        f"np.float32({[[[number]] for number in numbers]})"  # of shape (C, 1, 1)
        for numbers in (facts.normalisation.mean, facts.normalisation.std)
    )
    return [
        "```python",
        "import numpy as np, onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession({_quoted(file)}, providers=["CPUExecutionProvider"])',
        f'images = np.load("images.npy").astype(np.float32)  # yours: pixels 0 to 255, (N, {listed(facts.shape)})',
        f"mean, std = {mean}, {std}",
        f"print({answer})",
        "```",
    ]


def _quoted(text: str) -> str:
    """A text between double quotes; on one line, so that it cannot end the block of code."""
    return json.dumps(text)


def _inputs(facts: Facts) -> str:
    """Pixels as the file takes them."""
    normalised = "(images / 255 - mean) / std"
    if facts.layout.axes != (0, 1, 2, 3):
        return f"({normalised}).transpose{facts.layout.axes}"
    if facts.layout.sizes != facts.shape:
        return f"({normalised}).reshape(-1, {listed(facts.layout.sizes)})"
    return normalised


def of_baked(baked: Baked) -> list[str]:
    """Python, C++ and JavaScript, from a picture to probabilities."""
    file, (channels, height, width) = baked.path.name, baked.picture
    grey = channels == 1
    mode = "L" if grey else "RGB"
    python_size = "" if baked.resizes else f".resize(({width}, {height}), Image.Resampling.BILINEAR)"
    add_axis = "[None, :, :, None]" if grey else "[None]"
    cpp_read = "cv::IMREAD_GRAYSCALE" if grey else "cv::IMREAD_COLOR"
    cpp = [f'cv::Mat picture = cv::imread("picture.png", {cpp_read});  // without transparency']
    if not grey:
        cpp.append("cv::cvtColor(picture, picture, cv::COLOR_BGR2RGB);")
    if not baked.resizes:
        cpp.append(f"cv::resize(picture, picture, {{{width}, {height}}}, 0, 0, cv::INTER_AREA);")
    js_size = ["image.naturalWidth", "image.naturalHeight"] if baked.resizes else [str(width), str(height)]
    js_pixel = (
        "pixels[i] = Math.round(0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2]);"
        if grey
        else "pixels.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);"
    )
    return [
        "Python:",
        "",
        "```python",
        "import numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        f'session = onnxruntime.InferenceSession({_quoted(file)}, providers=["CPUExecutionProvider"])',
        'picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGBA")',
        'picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)  # transparent: white',
        f'pixels = np.asarray(picture.convert("{mode}"){python_size})',
        f'probabilities = session.run(["{PROBABILITIES}"], {{"{PICTURE}": pixels{add_axis}}})[0][0]',
        "print(probabilities.argmax(), probabilities.max())",
        "```",
        "",
        "C++, with OpenCV to read the picture:",
        "",
        "```cpp",
        "#include <algorithm>",
        "#include <iostream>",
        "#include <onnxruntime_cxx_api.h>",
        "#include <opencv2/imgcodecs.hpp>",
        "#include <opencv2/imgproc.hpp>",
        "",
        "int main() {",
        "  Ort::Env environment;",
        f"  Ort::Session session(environment, ORT_TSTR({_quoted(file)}), Ort::SessionOptions{{}});",
        *(f"  {line}" for line in cpp),
        f"  int64_t shape[] = {{1, picture.rows, picture.cols, {channels}}};",
        "  Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);",
        "  Ort::Value input = Ort::Value::CreateTensor<uint8_t>(memory, picture.data, "
        "picture.total() * picture.elemSize(), shape, 4);",
        f'  const char *inputs[] = {{"{PICTURE}"}}, *outputs[] = {{"{PROBABILITIES}"}};',
        "  auto answer = session.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 1);",
        "  const float *probabilities = answer[0].GetTensorData<float>();",
        "  size_t classes = answer[0].GetTensorTypeAndShapeInfo().GetElementCount();",
        "  const float *best = std::max_element(probabilities, probabilities + classes);",
        '  std::cout << best - probabilities << " " << *best << "\\n";',
        "}",
        "```",
        "",
        "JavaScript, in a browser, with onnxruntime-web:",
        "",
        "```js",
        f"const session = await ort.InferenceSession.create({_quoted(file)});",
        f"const [width, height] = [{', '.join(js_size)}];  // image: an <img> that has loaded",
        'const context = new OffscreenCanvas(width, height).getContext("2d");',
        *(() if baked.resizes else ('context.imageSmoothingQuality = "high";',)),
        'context.fillStyle = "white";  // behind what is transparent',
        "context.fillRect(0, 0, width, height);",
        "context.drawImage(image, 0, 0, width, height);",
        "const rgba = context.getImageData(0, 0, width, height).data;",
        f"const pixels = new Uint8Array({channels} * width * height);",
        f"for (let i = 0; i < width * height; i++) {js_pixel}",
        f'const input = new ort.Tensor("uint8", pixels, [1, height, width, {channels}]);',
        f"const {{ {PROBABILITIES} }} = await session.run({{ {PICTURE}: input }});",
        f"const best = Math.max(...{PROBABILITIES}.data);",
        f"console.log({PROBABILITIES}.data.indexOf(best), best);",
        "```",
    ]
