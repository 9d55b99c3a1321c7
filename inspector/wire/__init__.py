"""What all our ZeroMQ sockets share: addresses, keys, who is let in, who is cut off."""
