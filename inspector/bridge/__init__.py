"""`inspector bridge nats|mqtt`: the events of any number of daemons onwards to a message broker.

    command.py  arguments, exit codes, signals
    forward.py  reads the daemons' streams with the client library and keeps the place
    window.py   what the broker has not taken yet; the place never advances past it
    notices.py  what the bridge itself has to say: losses
    naming.py   topics and ids as a broker can carry them
    nats.py     NATS JetStream, with the extra `inspector[nats]`
    mqtt.py     MQTT 5, with the extra `inspector[mqtt]`

What success promises: every event that a daemon published is with the broker, or its loss was published there. With
JetStream exactly once, with MQTT at least once with an id to drop doubles by. What it does NOT promise: order over a
failure of the broker (each event carries its topic's sequence), and what the broker does with events that it took.
"""

from inspector.bridge.command import arguments, run

__all__ = ["arguments", "run"]
