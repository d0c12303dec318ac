"""`predict`: picture files through an ONNX file."""

from pathlib import Path

import click

from onnxprune.commands.console import prose
from onnxprune.commands.options import PathName, check_measured, machine_readable, print_rows


@click.command()
@click.argument("model", type=PathName(path_type=Path))
@click.argument("images", type=PathName(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@machine_readable
def predict(model: Path, images: tuple[Path, ...], output: str | None) -> None:
    """Classify picture files, using the metadata in an ONNX file.

    Each picture becomes grayscale or RGB, as the file takes, and is resized to its images' size, whatever its
    proportions. Pictures must look as those the model was trained on do: MNIST's digits are white on black.

    \b
    Example:
      onnxprune predict model.onnx shoe.png shirt.jpg
    """
    from onnxprune.runtime.helper import warm_up

    warm_up()
    from onnxprune.analysis.classifier import open_classifier, shape_text
    from onnxprune.analysis.prediction import picture_shape
    from onnxprune.analysis.prediction import predict as predict_files

    check_measured(model)
    classifier = open_classifier(model)
    found = predict_files(classifier, list(images))
    _, height, width = shape = picture_shape(classifier)
    if output is not None:
        rows = [
            {
                "image": str(entry.path),
                "class": entry.top[0][0],
                "probability": entry.top[0][1],
                "top": [{"class": name, "probability": probability} for name, probability in entry.top],
                "picture_size": list(entry.size),
                "resized_to": [width, height] if entry.size != (width, height) else None,
            }
            for entry in found
        ]
        print_rows(rows, output)
        return
    names = max(len(str(entry.path)) for entry in found)
    for entry in found:
        ranked = [f"{name} {100 * probability:.1f} %" for name, probability in entry.top]
        rest = f"   ({', '.join(ranked[1:])})" if ranked[1:] else ""
        prose(f"{entry.path!s:{names}}  {ranked[0]}{rest}")
    resized = sum(entry.size != (width, height) for entry in found)
    if resized:
        prose(
            f"{resized} of {len(found)} resized to {shape_text(shape[1:])} (height x width, bilinear, proportions not "
            f"kept).",
            err=True,
        )
