"""How good a separation is."""
