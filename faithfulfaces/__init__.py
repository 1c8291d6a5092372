"""FaithfulFaces: the reference model of the paper and its trainer."""
