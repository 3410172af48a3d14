"""From where another process can import a task's code, or a refusal that says why none can."""

from __future__ import annotations

import sys

from cascadenced.errors import Invalid
from cascadenced.runtime.worker_protocol import TaskSource


def source_of(target: object, name: str) -> TaskSource:
    """Of a class, or of an object that its module keeps under some name. name: what the task is registered as.

    Raises Invalid for what is only in this process: made in a function, in a script, or not kept by a module.
    """
    cls = target if isinstance(target, type) else type(target)
    module_name, qualname = cls.__module__, cls.__qualname__
    if module_name == "__main__":
        raise Invalid(
            f"Task '{name}' asks for a process of its own, but {qualname} is defined in the script that was started, "
            "which no other process can import: move it to a module"
        )
    if not isinstance(target, type):
        return TaskSource(module_name, _kept_as(target, module_name, name))
    if "<locals>" in qualname:
        raise Invalid(
            f"Task '{name}' asks for a process of its own, but {qualname} is made in a function, where no other "
            "process finds it: define it at the top level of its module"
        )
    found: object = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not target:
        raise Invalid(
            f"Task '{name}' asks for a process of its own, but {module_name}.{qualname} is "
            f"{'not there' if found is None else 'something else'}: a class must be importable under its own name"
        )
    return TaskSource(module_name, qualname)


def _kept_as(target: object, module_name: str, name: str) -> str:
    for kept_as, value in vars(sys.modules[module_name]).items():
        if value is target:
            return kept_as
    raise Invalid(
        f"Task '{name}' asks for a process of its own, but no other process finds this object of "
        f"{module_name}.{type(target).__qualname__}: register its class, or keep the object in that module"
    )
