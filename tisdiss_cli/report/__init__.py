"""HTML pages of a run, with pictures and sound, and of tables of scores; knows nothing about options."""
