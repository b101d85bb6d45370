"""Map-style datasets and the file formats behind them."""
