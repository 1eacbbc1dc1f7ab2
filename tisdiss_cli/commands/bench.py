"""`tisdiss bench`."""
