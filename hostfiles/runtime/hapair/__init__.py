"""The host programs of a hapair node: agent, handlers, commands and the reference fence store.

Standard library only, Python 3.8 syntax. FAILOVER.md's rule numbers (F1 … F12) are used throughout.
"""
