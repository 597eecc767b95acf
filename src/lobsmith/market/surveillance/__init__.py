"""Watching the market itself: flash crashes, and patterns of accumulation and layering."""

from lobsmith.market.surveillance.accumulation import AccumulationMonitor, AccumulationReport
from lobsmith.market.surveillance.crash import CrashAlert, CrashDetector

__all__ = ["AccumulationMonitor", "AccumulationReport", "CrashAlert", "CrashDetector"]
