"""YAML, read strictly: no duplicate keys, and every error names the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lab.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys (YAML 1.2 §3.2.1.3: the keys of a mapping are unique).

    Not the one on libyaml: a file of many nested brackets ends the whole process there.
    """


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_model(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a frozen pydantic model.

    Raises:
        BadInput: the file cannot be read, is no YAML, or does not fit the model; every fault names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root, data = _parsed(text)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "name a file that exists and can be read") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})", "save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{path}:{line}: {error.problem}", "mend the YAML there") from None
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: {error}", "mend the YAML") from None
    if data is None:
        raise BadInput(f"{path}: the file is empty", "look at an example of such a file in this project")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = [f"{path}:{_line(root, fault['loc'])}: {_sentence(fault)}" for fault in error.errors()]
        raise BadInput("\n".join(faults), "mend each line named above") from None


def _parsed(text: str) -> tuple[yaml.Node | None, Any]:
    """Return a document as nodes, which know their lines, and as data; parsed once, which takes most of the time."""
    loader = _StrictLoader(text)
    try:
        root = loader.get_single_node()
        return root, None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _line(node: yaml.Node | None, where: tuple[int | str, ...]) -> int:
    """Return the line (from 1) of the deepest part of `where` that the document has."""
    line = node.start_mark.line + 1 if node else 1
    for step in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _sentence(fault: ErrorDetails) -> str:
    place = ".".join(str(step) for step in fault["loc"])
    text = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
