"""Parts that remember how they were built.

A trained model is stored as plain YAML plus safetensors, never as a pickle. For that each part keeps its own
recipe, ``{"class_path": ..., "init_args": ...}``: the same notation that the training configs use, so that an
exported ``config.yaml`` can be read, compared and pasted into a recipe.
"""

import functools
import importlib
import inspect


class Configurable:
    """Base of every part that can be saved: ``part.config`` is the recipe that builds an equal one."""

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)


def build(config: dict) -> "Configurable":
    """Builds the part that a recipe describes. Raises ``ValueError`` for a class that is not a part of a model."""
    module, _, name = config["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"class_path {config['class_path']!r} cannot be found: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, Configurable)):
        raise ValueError(f"class_path {config['class_path']!r} is not a part of a model (a subclass of Configurable)")
    arguments = config.get("init_args", {})
    return cls(**{k: build(v) if _is_recipe(v) else v for k, v in arguments.items()})


def _recording(init):
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self, *args, **kwargs):
        if "config" not in self.__dict__:  # the outermost class's arguments, not those it hands to its base
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = {k: _plain(v) for k, v in list(bound.arguments.items())[1:]}
            cls = type(self)
            config = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}
            object.__setattr__(self, "config", config)  # nn.Module accepts no attributes before its own __init__
        init(self, *args, **kwargs)

    return wrapped


def _plain(value):
    if isinstance(value, Configurable):
        return value.config
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an argument of a configurable part must be a number, a string, a list or a part, not {value!r}")


def _is_recipe(value) -> bool:
    return isinstance(value, dict) and "class_path" in value
