"""Everything that runs on the control machine."""
