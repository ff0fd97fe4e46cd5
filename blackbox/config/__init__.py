"""Configurations: YAML that knows its lines, components found by name, all checked before anything runs."""
