"""Setting features of a GenICam node map, with errors that name the choices. Only the camera's process imports it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from genicam import genapi

from inspector.cameras import _genicam
from inspector.cameras._genicam import Value

NOT_EVERYWHERE = _genicam.MAY_BE_MISSING | {"AcquisitionMode"}
"""Features that are set on the way to another one; a camera without them does not need them."""


class Trouble(Exception):
    """What stands in the way of the camera, in words for the daemon."""


def put(node_map: Any, names: Sequence[str], value: Value, option: str, where: str = "the camera") -> None:
    """Set the first of `names` that `where` has.

    Raises:
        Trouble: none is there, or the value is not one that it takes; it names `option`.
    """
    name = next((name for name in names if node_map.has_node(name)), None)
    if name is None:
        if names[0] in NOT_EVERYWHERE:
            return
        raise Trouble(_genicam.missing(option, names, where, _alike(node_map, names[0])))
    node = node_map.get_node(name)
    try:
        _set(node, value)
    except genapi.AccessException:
        if _is(node, value):  # many a feature with one choice is read-only
            return
        why = "it is read-only, or another feature or a stream that runs locks it now; set that one first"
        raise Trouble(_genicam.refused(option, name, value, why, "", where)) from None
    except (genapi.GenericException, ValueError, TypeError, NotImplementedError) as error:
        raise Trouble(_genicam.refused(option, name, value, _plain(error), _choices(node), where)) from None


def value(node_map: Any, *names: str) -> Any:
    """The value of the first of `names` that can be read, or None."""
    for name in names:
        if node_map.has_node(name):
            try:
                return node_map.get_node(name).value
            except (genapi.GenericException, AttributeError):
                continue
    return None


def triggered(node_map: Any) -> bool:
    """Is a trigger of the camera on?"""
    if value(node_map, "TriggerMode") is None:
        return False
    chosen = value(node_map, "TriggerSelector")
    if chosen is None:
        return bool(value(node_map, "TriggerMode") == "On")
    selector = node_map.get_node("TriggerSelector")
    try:
        return any(_is_on(node_map, selector, name) for name in selector.symbolics)
    finally:
        _quietly(selector, chosen)


def _is_on(node_map: Any, selector: Any, name: str) -> bool:
    return _quietly(selector, name) and value(node_map, "TriggerMode") == "On"


def _quietly(node: Any, chosen: str) -> bool:
    try:
        node.value = chosen
    except genapi.GenericException:
        return False
    return True


def _is(node: Any, wanted: Value) -> bool:
    try:
        return bool(node.value == (_entry(wanted) if isinstance(node, genapi.IEnumeration) else wanted))
    except (genapi.GenericException, AttributeError):
        return False


def _entry(value: Value) -> str:
    """YAML 1.1 reads an On or Off without quotes as true or false."""
    return {True: "On", False: "Off"}[value] if isinstance(value, bool) else str(value)


def _set(node: Any, value: Value) -> None:
    if isinstance(node, genapi.ICommand):
        if value is True:
            node.execute()
        return
    if isinstance(node, genapi.IEnumeration):
        node.value = _entry(value)
    elif isinstance(node, genapi.IBoolean):
        if not isinstance(value, bool):
            raise ValueError("it takes true or false")
        node.value = value
    elif isinstance(node, genapi.IInteger):
        if isinstance(value, str) or int(value) != value:
            raise ValueError("it takes a whole number")
        node.value = int(value)
    elif isinstance(node, genapi.IFloat):
        node.value = float(value)
    else:
        node.value = str(value)


def _choices(node: Any) -> str:
    """What the node takes, as far as it says; may be empty."""
    try:
        if isinstance(node, genapi.IEnumeration):
            return ", ".join(node.symbolics)
        if isinstance(node, genapi.IInteger | genapi.IFloat):
            step = f" in steps of {node.inc}" if isinstance(node, genapi.IInteger) and node.inc > 1 else ""
            return f"{node.min:g} to {node.max:g}{step}"
        if isinstance(node, genapi.IBoolean):
            return "true or false"
    except genapi.GenericException:
        pass
    return ""


def _alike(node_map: Any, name: str) -> str:
    known = [node.node.name for node in node_map.nodes]
    close = difflib.get_close_matches(name, known, n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _plain(error: BaseException) -> str:
    """A GenICam error without the place in its sources."""
    words = re.split(r" : \w+ thrown ", str(error))[0]
    return re.sub(r"^Feature '\w+' : ", "", words).strip().rstrip(".") or type(error).__name__
