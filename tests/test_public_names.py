"""What `import onnxprune` offers."""

import inspect

import onnxprune


def test_all_public_names_are_listed_in_order() -> None:
    own = {
        name
        for name, value in vars(onnxprune).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("onnxprune")
    }
    assert onnxprune.__all__ == sorted({*own, "__version__"})


def test_public_functions_say_what_they_take_and_raise() -> None:
    for name in onnxprune.__all__:
        value = getattr(onnxprune, name)
        if inspect.isfunction(value):
            assert "Examples:" in str(value.__doc__), name
            assert "Raises:" in str(value.__doc__), name
