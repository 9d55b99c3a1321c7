"""For subscribers and for the plant: follow the event stream without losing anything, and tell the line of coils.

It needs pyzmq and msgspec only.
"""

from inspector.client.control import CoilSpan, CoilTold, Control, LineState
from inspector.client.place import Place
from inspector.client.subscription import Subscription, subscribe

__all__ = ["CoilSpan", "CoilTold", "Control", "LineState", "Place", "Subscription", "subscribe"]
