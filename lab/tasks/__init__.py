"""The Invoke tasks: one module a collection, no logic."""
