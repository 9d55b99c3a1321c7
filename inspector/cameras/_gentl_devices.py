"""Finding and opening a GenTL device. Only the camera's process imports it: a producer may hang it or tear it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from genicam import genapi, gentl
from harvesters.core import DataStream, Device, Interface, RemoteDevice

from inspector.cameras._gentl_features import Trouble, put
from inspector.cameras._gentl_words import Listed, Request

LOOK_MS = 1000
"""How long each interface may look for its devices."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A device that can be opened. It keeps what it hangs on alive: producer, system and interface."""

    listed: Listed
    info: Any
    interface: Any
    above: tuple[Any, ...]


def told(module: Any, name: str) -> Any:
    """What a GenTL module says of itself, or None where the producer does not say."""
    try:
        return getattr(module, name)
    except (gentl.GenericException, RuntimeError):
        return None


def seats(producers: list[str], look_ms: int = LOOK_MS) -> list[Seat]:
    """All devices that the producers show.

    Raises:
        Trouble: not one producer could be loaded, or there is none.
    """
    found: list[Seat] = []
    failed: list[str] = []
    for path in producers:
        try:
            found += _of_producer(path, look_ms)
        except (gentl.GenericException, RuntimeError) as error:
            failed.append(f"{path}: {words(error)}")
    if len(failed) == len(producers):
        raise Trouble(f"no GenTL producer could be loaded: {'; '.join(failed)}. Install the maker's GenTL package")
    return found


def _of_producer(path: str, look_ms: int) -> Iterator[Seat]:
    producer = gentl.GenTLProducer.create_producer()
    producer.open(path)
    system = producer.create_system()
    system.open()
    system.update_interface_info_list(look_ms)
    for info in system.interface_info_list:
        interface = info.create_interface()
        try:
            interface.open()
            interface.update_device_info_list(look_ms)
        except gentl.GenericException as error:  # a card that is missing hides none of the others
            print(f"{path}: interface {told(info, 'id_')}: {words(error)}", flush=True)
            continue
        for device in interface.device_info_list:
            yield Seat(_listed(device, told(info, "id_")), device, interface, (producer, system))


def _listed(info: Any, interface: str | None) -> Listed:
    return Listed(
        id=told(info, "id_") or "",
        serial=told(info, "serial_number") or "",
        user_name=told(info, "user_defined_name") or "",
        vendor=told(info, "vendor") or "",
        model=told(info, "model") or "",
        interface=interface or "",
        free=told(info, "access_status") in (None, 0, gentl.DEVICE_ACCESS_STATUS_LIST.DEVICE_ACCESS_STATUS_READWRITE),
    )


def choose(found: list[Seat], wanted: str | None) -> Seat:
    """The device that `wanted` names by serial number, own name, id or place in the list; None: the only one.

    Raises:
        Trouble: there is none, or more than one.
    """
    named = found if wanted is None else [seat for seat in found if wanted in seat.listed.names]
    if not named and wanted is not None and wanted.isdecimal() and int(wanted) < len(found):
        named = [found[int(wanted)]]
    if len(named) == 1:
        return named[0]
    if not found:
        raise Trouble("the producer shows no device: look at power and cable, and whether somebody else uses it")
    there = "; ".join(f"{place}: {_names(seat.listed)}" for place, seat in enumerate(found))
    problem = "there is more than one device"
    if wanted is not None:
        problem = f"{len(named)} devices are called '{wanted}'" if named else f"there is no device '{wanted}'"
    raise Trouble(f"{problem}; set `device` to the serial number or place of one of these: {there}")


def _names(listed: Listed) -> str:
    return f"{listed.vendor} {listed.model} serial {listed.serial or '-'}, id {listed.id}, on {listed.interface}"


class Opened:
    """A device that is open, with its node map; given back on exit, or a network camera stays locked for seconds.

    Raises:
        Trouble: it cannot be opened.
    """

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.device = seat.info.create_device()
        try:
            self.device.open(gentl.DEVICE_ACCESS_FLAGS_LIST.DEVICE_ACCESS_EXCLUSIVE)
        except (gentl.AccessDeniedException, gentl.ResourceInUseException):
            raise Trouble(f"{_names(seat.listed)} is in use: end the program that has it open") from None
        self.node_map: Any = None
        self.stream = self.device.create_data_stream()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*VENDORS):
            if self.stream.is_open():
                self.stream.close()
            self.device.close()

    def set_up(self, request: Request) -> None:
        """Set all features and open the stream.

        Raises:
            Trouble: a feature cannot be set, or there is no stream.
        """
        self.node_map = RemoteDevice(module=self.device).node_map
        # Grabbers keep the frame's height, the trigger and the link in modules of their own, on this side of the cable.
        put_all(Interface, self.seat.interface, request.grabber.get("interface"), "interface")
        put_all(Device, self.device, request.grabber.get("device"), "device")
        put(self.node_map, ["AcquisitionMode"], "Continuous", "features.AcquisitionMode")
        for option, names, value in request.features:
            put(self.node_map, names, value, option)
        ids = self.device.data_stream_ids
        if not ids:
            raise Trouble(f"{self.title} has no image stream")
        self.stream.open(ids[0])
        put_all(DataStream, self.stream, request.grabber.get("stream"), "stream")

    @property
    def link(self) -> str:
        """GenTL's name of the technology."""
        return told(self.device, "tl_type") or told(self.seat.info, "tl_type") or ""

    @property
    def title(self) -> str:
        return _names(self.seat.listed)


def put_all(wrapper: Any, module: Any, chosen: dict[str, Any] | None, where: str) -> None:
    """Set the features of a module of the producer.

    Raises:
        Trouble: it does not have one, or does not take it.
    """
    if not chosen:
        return
    node_map = wrapper(module=module, parent=None).node_map
    if node_map is None:
        raise Trouble(f"the producer's {where} has no features; remove `grabber.{where}`")
    for name, value in chosen.items():
        put(node_map, [name], value, f"grabber.{where}.{name}", f"the producer's {where}")


def words(error: BaseException) -> str:
    """A GenTL error in its own words, without the frame around them."""
    text = str(error).removeprefix("GenTL exception: ").split(" (ID:")[0].split(" (Message from the source: std")[0]
    return text.strip() or type(error).__name__


VENDORS = (gentl.GenericException, genapi.GenericException, RuntimeError, AttributeError)
"""What the vendors' packages raise."""
