"""Market surveillance: flash crashes, accumulation, layering."""

from lobsmith.surveillance.accumulation import AccumulationMonitor, AccumulationReport
from lobsmith.surveillance.crash import CrashAlert, CrashDetector

__all__ = ["AccumulationMonitor", "AccumulationReport", "CrashAlert", "CrashDetector"]
