"""Who speaks when in separated voices, block by block; knows nothing about files of a run or its options."""
