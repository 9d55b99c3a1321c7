"""Defects into a CSV file: `python events_to_csv.py tcp://127.0.0.1:5570 defects.csv`; stop it and start it at will."""

import csv
import sys

from inspector.client import subscribe

address, file = sys.argv[1:3]
with subscribe(address, topics=["defect/"], place=f"{file}.place", since="beginning") as events:
    for event in events:
        defect = event.data
        row = [event.id, defect.exposed_time, defect.coil, defect.defect_class.name, defect.severity]
        with open(file, "a", newline="") as rows:
            csv.writer(rows).writerow([*row, defect.position_mm.along, defect.position_mm.across, defect.area_mm2])
