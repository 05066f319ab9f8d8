"""Fine-tuning: the data (`data/`), and what trains on it."""
