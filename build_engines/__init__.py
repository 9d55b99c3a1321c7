"""Offline tool that makes a pack of engines: train, evaluate, export and synthesize. Needs the `train` extra."""
