"""Faults injected into a running pair: stand-in until the tasks are here."""
