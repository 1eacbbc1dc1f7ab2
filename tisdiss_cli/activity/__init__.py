"""Who speaks when: speech in the separated voices, block by block."""
