"""Real-time inspection of steel strip: frames in, defect events out, and a ledger that proves what was looked at."""

__version__ = "0.1.0"
