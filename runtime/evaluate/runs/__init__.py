"""How runs are made and kept: units of work, workers, the folder with every result as it comes."""
