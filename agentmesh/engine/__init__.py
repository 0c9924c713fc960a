"""One agent behind its façade: the state, the steps that change it, and the seam where they are committed."""
