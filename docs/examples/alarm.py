"""A line on the terminal, and a beep, for every severe defect: `python alarm.py tcp://127.0.0.1:5570 severe`."""

import sys

from inspector.client import subscribe

address, *severities = sys.argv[1:]
for event in subscribe(address, topics=["defect/"], max_lag_s=5, silence_s=10):  # rather end than alarm too late
    defect = event.data
    if defect.severity in severities:
        where = f"coil {defect.coil}, {defect.position_mm.along / 1000:.1f} m"
        print(f"\a{defect.exposed_time} {defect.severity} {defect.defect_class.name}: {where}", flush=True)
