"""More than one machine: simulators, runs and searches on a Ray cluster. Nothing else loads Ray."""
