"""Host files from templates and one site file: stand-in until the tasks are here."""
