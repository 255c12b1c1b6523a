"""What we claim, measured: each module prints its figures with the machine and the versions behind them."""
