"""Offline tool that makes a pack of engines: train, evaluate, export and synthesize. Needs the `train` extra."""

import inspector as inspector  # first of all: it forbids ONNX Runtime to report to its makers
