"""Scenarios run on a real pair: `./dev nox -s failover`, or pytest on this folder."""

pytest_plugins = ["lab.scenario.plugin"]
