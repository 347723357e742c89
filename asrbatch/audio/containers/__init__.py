"""What libsndfile and FFmpeg do not tell of a file, from its bytes: where its sound is, and where another file begins.

Begin with `pcm_layout.py`, the way to all samples of a WAV file. Knows nothing of decoders. May import the root modules
only."""
