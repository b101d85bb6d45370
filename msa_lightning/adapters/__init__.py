"""From one feature space to another: networks, pairings, alignment distances, diagnostics."""
